"""Calls that wait for a node which is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway_core.errors import Unavailable

MOST_FOR_A_NODE = 1000


class WaitingCalls:
    """Who waits for whom. A place is there only inside its block, so that callers who go away leave nothing."""

    def __init__(self, most: int = MOST_FOR_A_NODE) -> None:
        self._most = most
        self._places: dict[str, set[asyncio.Event]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    @contextmanager
    def place(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever ``wake`` is called for that node; raises Unavailable when too many wait."""
        places = self._places.setdefault(name, set())
        if len(places) >= self._most:
            raise Unavailable(f"too many calls wait for {name}", retry_after_s=5)
        event = asyncio.Event()
        places.add(event)
        try:
            yield event
        finally:
            places.discard(event)
            if not places and self._places.get(name) is places:
                del self._places[name]

    def wake(self, name: str) -> None:
        """The node is there, or something about it has changed."""
        for event in self._places.get(name, ()):
            event.set()

    def wake_all(self) -> None:
        """It is time for everybody to look."""
        for places in self._places.values():
            for event in places:
                event.set()
