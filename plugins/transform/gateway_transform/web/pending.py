"""What is known of jobs that have not ended, for those who ask again and again."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from gateway_core.db.wakeups import Subscription, Wakeups
from gateway_transform.jobs.model import Job
from gateway_transform.jobs.topics import job_topic

FRESH_S = 0.2
"""How old an answer may be where a worker beside this server ends the job, and no Redis tells of it."""
_MOST = 2048

_Key = tuple[str, str]


class Pending:
    """Remembers for ``fresh_s`` which jobs had not ended; one whose end is heard of is looked at again at once.

    With 0 nothing is remembered: where several servers answer that cannot tell each other of an end.
    """

    def __init__(self, wakeups: Wakeups, *, fresh_s: float) -> None:
        self._wakeups = wakeups
        self._fresh_s = fresh_s
        self._known: OrderedDict[_Key, tuple[float, Subscription]] = OrderedDict()

    async def look(self, job_id: str, client_id: str, find: Callable[[], Awaitable[Job]]) -> Job | None:
        """What ``find`` says of the client's job, None for "not ended yet"; raises as ``find`` does."""
        key = (job_id, client_id)
        known = self._known.get(key)
        if known is not None and time.monotonic() < known[0] and not known[1].heard:
            return None
        with self._wakeups.subscribe(job_topic(job_id)) as signal:
            job = await find()
            self._forget(key)
            if job.state.final:
                return job
            if self._fresh_s and not signal.heard:
                self._known[key] = (time.monotonic() + self._fresh_s, self._wakeups.subscribe(job_topic(job_id)))
        while len(self._known) > _MOST:
            self._forget(next(iter(self._known)))
        return None

    def _forget(self, key: _Key) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._wakeups.unsubscribe(known[1])
