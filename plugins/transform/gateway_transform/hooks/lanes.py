"""Who may be told now: a receiver that answers slowly, or not at all, leaves room for the others."""

from __future__ import annotations

import time
from collections import OrderedDict

AT_ONCE = 8
"""Messages on their way from one process."""

_TO_ONE = 4
_TO_A_SLOW_ONE = 2
_SLOW_S = 1.0
_REMEMBERED = 1000


class Lanes:
    """Places for ``AT_ONCE`` messages, at most 4 of them for one server, and 2 for a slow one.

    Slow is who took more than a second for its last answer, or is taking it now. Servers are origins.
    """

    def __init__(self) -> None:
        self._begun: dict[str, list[float]] = {}
        self._slow: OrderedDict[str, None] = OrderedDict()

    def enter(self, server: str) -> float | None:
        """Take a place; returns the moment, to be given to ``leave``, or None when there is no place now."""
        begun = self._begun.get(server, ())
        most = _TO_A_SLOW_ONE if self.slow(server) else _TO_ONE
        if len(begun) >= most or sum(map(len, self._begun.values())) >= AT_ONCE:
            return None
        moment = time.monotonic()
        self._begun.setdefault(server, []).append(moment)
        return moment

    def leave(self, server: str, moment: float) -> None:
        """Give the place back, and remember whether it took long; only the last thousand slow servers are."""
        begun = self._begun[server]
        begun.remove(moment)
        if not begun:
            del self._begun[server]
        self._slow.pop(server, None)
        if time.monotonic() - moment > _SLOW_S:
            self._slow[server] = None
            while len(self._slow) > _REMEMBERED:
                self._slow.popitem(last=False)

    def slow(self, server: str) -> bool:
        """Whether it is a slow one."""
        begun = self._begun.get(server)
        return server in self._slow or (begun is not None and time.monotonic() - min(begun) > _SLOW_S)
