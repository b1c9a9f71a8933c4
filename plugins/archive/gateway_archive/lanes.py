"""At most so many connections to one host, over all downloads of a process."""

from __future__ import annotations

import asyncio


class Lanes:
    """A semaphore a lane with ``limit`` places, made when first wanted and dropped when nobody holds or awaits it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lanes: dict[str, Lane] = {}

    def enter(self, key: str) -> Lane:
        """``async with lanes.enter(key)`` holds one of the lane's places; waits in order of arrival."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self, key, self.limit)
        lane.users += 1
        return lane

    def leave(self, lane: Lane, key: str) -> None:
        """What leaving a lane does."""
        lane.users -= 1
        if not lane.users:
            del self._lanes[key]


class Lane:
    """One host's places; made by ``Lanes.enter`` and entered once for each call of it."""

    def __init__(self, owner: Lanes, key: str, limit: int) -> None:
        self.users = 0
        self._owner, self._key = owner, key
        self._places = asyncio.Semaphore(limit)

    async def __aenter__(self) -> None:
        try:
            await self._places.acquire()
        except BaseException:
            self._owner.leave(self, self._key)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._places.release()
        self._owner.leave(self, self._key)
