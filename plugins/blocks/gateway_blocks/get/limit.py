"""A limit on bytes a second over all threads."""

from __future__ import annotations

import re
import threading
import time

from gateway_blocks.get.model import Stopped
from gateway_core.errors import ConfigError

_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_BURST_S = 0.25
_SMALLEST_PIECE, _LARGEST_PIECE = 4 << 10, 1 << 20


def parse_rate(text: str) -> int:
    """``500k``, ``2M``, ``1.5MiB`` or plain bytes as bytes a second, in powers of 1024; 0 for none.

    Raises ConfigError for other texts.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"not a rate: {text!r}; expected bytes a second or a number with k, M or G, such as 500k")
    rate = float(match[1]) * _UNITS[match[2].lower()]
    return max(1, round(rate)) if rate else 0


class RateLimit:
    """At most ``bytes_per_s`` on average, shared by any number of threads; 0 for no limit, which costs nothing."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._paid_until = 0.0

    @property
    def piece_bytes(self) -> int:
        """How much to read at once so that a slow limit is felt evenly: a quarter of a second's, 4 KiB to 1 MiB."""
        if not self._bytes_per_s:
            return _LARGEST_PIECE
        return min(_LARGEST_PIECE, max(_SMALLEST_PIECE, int(self._bytes_per_s * _BURST_S)))

    def take(self, count_bytes: int, stop: threading.Event) -> None:
        """Wait until so many bytes may pass; call it after receiving them. Raises Stopped as soon as ``stop`` is set.

        A token bucket of a quarter of a second, kept as the moment up to which everything is paid for; threads are
        served in the order in which they ask.
        """
        if not self._bytes_per_s:
            return
        with self._lock:
            now = time.monotonic()
            self._paid_until = max(self._paid_until, now - _BURST_S) + count_bytes / self._bytes_per_s
            wait_s = self._paid_until - now
        if wait_s > 0 and stop.wait(wait_s):
            raise Stopped("stopped")
