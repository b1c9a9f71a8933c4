"""One task for the heartbeats of all links."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from gateway_core.observe.logs import get_logger

log = get_logger("gateway.pipe")

_AT_ONCE = 500
_LONGEST_S = 1.0


class Ticking(Protocol):
    """What is ticked: a link."""

    def tick(self, now: float) -> None:
        """Look whether something is due; ``now`` is the loop's time."""


Link = TypeVar("Link", bound=Ticking)


class Ticker(Generic[Link]):
    """Ticks every link once a second, more often where the heartbeat is shorter than two."""

    def __init__(self, ping_s: float) -> None:
        self._every_s = min(_LONGEST_S, ping_s / 2)
        self._links: set[Link] = set()

    @property
    def links(self) -> Sequence[Link]:
        """All that are ticked: those that say goodbye, too."""
        return list(self._links)

    def add(self, link: Link) -> None:
        """From now on."""
        self._links.add(link)

    def discard(self, link: Link) -> None:
        """No more."""
        self._links.discard(link)

    async def run(self) -> None:
        """Tick until cancelled; thousands of links do not hold up the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every_s)
            links = self.links
            for first in range(0, len(links), _AT_ONCE):
                now = loop.time()
                for link in links[first : first + _AT_ONCE]:
                    self._tick(link, now)
                await asyncio.sleep(0)

    def _tick(self, link: Link, now: float) -> None:
        if link not in self._links:
            return
        try:
            link.tick(now)
        except Exception:  # one bad link must not stop the heartbeats of the others
            log.exception("a link could not be ticked")
