"""Those who ask for one job again and again, without a pause."""

from __future__ import annotations

import time
from collections import OrderedDict

EAGER_S = 0.25
"""Whoever asks again sooner than that is held for a moment."""

HOLD_S = 0.1
"""How long, unless the job ends before: the answer comes no later for it, and nobody is kept busy with saying no."""

_MOST = 4096


class Eager:
    """Remembers when each job was last asked for."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, float] = OrderedDict()

    def hold_s(self, job_id: str) -> float:
        """How long the job's end may be waited for before it is said that there is none; 0 for a first question."""
        now = time.monotonic()
        before = self._asked.pop(job_id, None)
        self._asked[job_id] = now
        if len(self._asked) > _MOST:
            self._asked.popitem(last=False)
        return HOLD_S if before is not None and now - before < EAGER_S + HOLD_S else 0.0
