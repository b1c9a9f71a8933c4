"""At most so many connections to one host, over all downloads of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Lanes:
    """A semaphore a lane, made when it is first wanted and dropped when nobody holds or awaits it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lanes: dict[str, tuple[asyncio.Semaphore, list[int]]] = {}

    @asynccontextmanager
    async def enter(self, key: str) -> AsyncIterator[None]:
        """Hold one of the lane's places; waits in order of arrival."""
        semaphore, users = self._lanes.setdefault(key, (asyncio.Semaphore(self._limit), [0]))
        users[0] += 1
        try:
            async with semaphore:
                yield
        finally:
            users[0] -= 1
            if not users[0]:
                del self._lanes[key]
