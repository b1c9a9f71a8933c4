"""When a node tries to connect again: soon, for ever, and never all nodes at the same moment."""

from __future__ import annotations

from random import Random

from gateway_pipe.link.model import Farewell, Goodbye

FIRST_S = 1.0
"""The first try after an established link breaks comes within this time."""

SHORT_CAP_S = 5.0
LONG_CAP_S = 60.0
_MINUTE_S = 60.0
_MAX_ASK_S = 300.0
_SHUTDOWN_SPREAD_S = 5.0


class Backoff:
    """Full jitter over windows that double up to a cap: 5 s during the first minute without a link, growing to 60 s.

    Delays count from the start of the try before, so that tries that hang do not make them longer. What the server
    asks for goes first: a ``Retry-After`` of 503 or 429, and a GOAWAY. All times are of one monotonic clock, in
    seconds; ``failures`` is the number of tries in a row that brought no link.
    """

    def __init__(self, random: Random) -> None:
        self.failures = 0
        self._random = random
        self._tried = 0.0
        self._without_since: float | None = None

    def trying(self, now: float) -> None:
        """A try begins."""
        self._tried = now
        if self._without_since is None:
            self._without_since = now

    def failed(self, now: float, *, retry_after_s: float | None = None, farewell: Farewell | None = None) -> float:
        """The try brought no link; returns when the next one begins. Arguments are what the server asked for."""
        self.failures += 1
        asked = self._asked(retry_after_s, farewell)
        if asked is not None:
            return now + asked
        return max(now, self._tried + self._random.uniform(0.0, self._window(now)))

    def broke(self, now: float, *, farewell: Farewell | None = None) -> float:
        """An established link has ended; returns when the next try begins: within a second, unless more was asked."""
        self.failures = 0
        self._without_since = now
        asked = self._asked(None, farewell)
        if asked is not None:
            return now + asked
        return now + self._random.uniform(0.0, FIRST_S)

    def cap(self, now: float) -> float:
        """How far apart the starts of two tries are at most, in seconds."""
        without_s = 0.0 if self._without_since is None else now - self._without_since
        return min(LONG_CAP_S, max(SHORT_CAP_S, SHORT_CAP_S * without_s / _MINUTE_S))

    def _window(self, now: float) -> float:
        return min(self.cap(now), FIRST_S * 2.0 ** min(self.failures, 10))

    def _asked(self, retry_after_s: float | None, farewell: Farewell | None) -> float | None:
        """Seconds to wait because the server said so, spread so that nodes told the same come one after another."""
        if farewell is not None:
            return self._told(farewell)
        return None if retry_after_s is None else self._no_sooner(retry_after_s)

    def _told(self, farewell: Farewell) -> float | None:
        asked_s = farewell.retry_after_s
        match farewell.code:
            case Goodbye.REPLACED:
                return self._random.uniform(30.0, 60.0)  # longer than the other process needs to settle
            case Goodbye.REVOKED:
                return self._random.uniform(60.0, 66.0)
            case Goodbye.SHUTDOWN if asked_s is not None:  # another time for each node: the server spreads them
                return min(max(asked_s, 0.0), _MAX_ASK_S) + self._random.uniform(0.0, FIRST_S)
            case Goodbye.SHUTDOWN:
                return self._random.uniform(0.0, _SHUTDOWN_SPREAD_S)
            case Goodbye.OVERLOAD:
                return self._no_sooner(SHORT_CAP_S if asked_s is None else asked_s)
            case _:
                return None if asked_s is None else self._no_sooner(asked_s)

    def _no_sooner(self, seconds: float) -> float:
        least = min(max(seconds, 0.0), _MAX_ASK_S)
        return self._random.uniform(least, least + max(1.0, least / 2))
