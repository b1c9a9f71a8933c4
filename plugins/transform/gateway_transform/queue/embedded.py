"""The queue without Redis: at once inside the process; workers of other processes look every second anyway."""

from __future__ import annotations

from gateway_core.db.wakeups import Subscription, Wakeups
from gateway_transform.jobs.topics import QUEUE


class EmbeddedQueue:
    """Over the gateway's wake-ups."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._subscription: Subscription | None = None

    def announce(self, _job_id: str, /) -> None:
        """As in JobQueue."""
        self._wakeups.publish(QUEUE, through_database=False)

    async def wait(self, timeout_s: float) -> bool:
        """As in JobQueue."""
        if self._subscription is None:  # a process that only accepts jobs does not listen
            self._subscription = self._wakeups.subscribe(QUEUE)
            return True
        return await self._subscription.wait(timeout_s)

    async def start(self) -> None:
        """As in JobQueue."""

    async def stop(self) -> None:
        """As in JobQueue."""
        if self._subscription is not None:
            self._wakeups.unsubscribe(self._subscription)
            self._subscription = None
