"""How long to wait before trying again."""

from __future__ import annotations

import random

_RANDOM = random.SystemRandom()
_MOST_DOUBLINGS = 32


def full_jitter_s(attempt: int, *, base_s: float = 0.1, cap_s: float = 30.0) -> float:
    """A random time between 0 and ``base_s`` * 2 ** ``attempt``, at most ``cap_s``; attempts count from 0.

    The whole range is random, so that clients that failed together do not come back together.
    """
    return _RANDOM.uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempt, _MOST_DOUBLINGS)))


def jittered_s(seconds: float, *, share: float = 0.1) -> float:
    """``seconds``, longer by a random part of up to ``share`` of it."""
    return seconds * (1.0 + _RANDOM.uniform(0.0, share))
