"""Counts what a good peer does seldom; a flood of it is a violation."""

from __future__ import annotations

from gateway_pipe.link.model import ProtocolViolation

_PINGS = 100
_REFUSED_TURNS = 16
_RESETS = 1000
_RESET_TURNS = 2
_IDLE_FRAMES = 50_000


class Abuse:
    """Counters between two ticks of a link: pings, streams beyond the limit, streams broken off, frames for nothing."""

    __slots__ = ("_idle", "_most_refused", "_most_resets", "_pings", "_refused", "_resets")

    def __init__(self, streams: int) -> None:
        self._most_refused = _REFUSED_TURNS * streams
        self._most_resets = _RESETS + _RESET_TURNS * streams
        self._pings = self._refused = self._resets = self._idle = 0

    def forgive(self) -> None:
        """Begin to count anew."""
        self._pings = self._refused = self._resets = self._idle = 0

    def ping(self) -> None:
        """A PING or PONG came; raises ProtocolViolation for a flood, as the others do."""
        self._pings += 1
        if self._pings > _PINGS:
            raise ProtocolViolation("a flood of pings")

    def refused(self) -> None:
        """A stream was opened that had to be refused."""
        self._refused += 1
        if self._refused > self._most_refused:
            raise ProtocolViolation("a flood of streams")

    def reset(self) -> None:
        """A stream that the peer opened was broken off by it."""
        self._resets += 1
        if self._resets > self._most_resets:
            raise ProtocolViolation("a flood of streams that are broken off")

    def idle(self) -> None:
        """A frame came that changes nothing: for a stream that has ended, or hardly any credit."""
        self._idle += 1
        if self._idle > _IDLE_FRAMES:
            raise ProtocolViolation("a flood of frames that mean nothing")
