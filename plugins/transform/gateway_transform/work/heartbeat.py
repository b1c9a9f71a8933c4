"""Keeping the leases of running jobs, and hearing who is to be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from gateway_core import Gateway
from gateway_core.errors import DatabaseError
from gateway_core.observe.logs import get_logger
from gateway_transform.jobs.claims import Claims, Pulse
from gateway_transform.jobs.topics import CANCEL, job_topic
from gateway_transform.settings import TransformSettings
from gateway_transform.work.attempt import Attempt

log = get_logger("gateway.transform")

_STEP_SHOWN_AFTER_S = 0.5
_LOOK_S = 60.0
_BEATS_PER_LEASE = 3


class Heartbeat:
    """Beats for all attempts of a worker in one transaction: three times a lease, and when there is news."""

    def __init__(self, gateway: Gateway, claims: Claims) -> None:
        self._wakeups = gateway.wakeups
        self._claims = claims
        self._every_s = gateway.section(TransformSettings).lease_s / _BEATS_PER_LEASE
        self._attempts: list[Attempt] = []  # in the order of their claims; a job may have one whose lease was lost
        self._now = asyncio.Event()

    @contextmanager
    def for_attempt(self, attempt: Attempt) -> Iterator[None]:
        """Keep the attempt's lease while the block runs; it is cancelled when somebody asks, or when it was lost."""
        for other in self._attempts:
            if other.claim.job_id == attempt.claim.job_id:
                other.progress.cancelled.set()
        self._attempts.append(attempt)
        try:
            yield
        finally:
            self._attempts.remove(attempt)

    async def run(self) -> None:
        """Beat until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hear_cancels())
            group.create_task(self._see_steps())
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._now.wait()
                self._now.clear()  # before the rows are looked at, so that what comes meanwhile is looked at again
                if self._attempts:
                    await self._try_to_beat()

    async def _try_to_beat(self) -> None:
        try:
            await self._beat()
        except DatabaseError as error:
            log.warning("leases were not renewed", error=str(error))
        except Exception:  # a supervisor is one of the borders where everything is caught
            log.exception("leases were not renewed")

    async def _beat(self) -> None:
        attempts = {attempt.claim.job_id: attempt for attempt in self._attempts}  # the last of each job
        for attempt in attempts.values():
            attempt.progress.changed.clear()
        told = {
            job_id: Pulse(attempt.claim.token, attempt.progress.step, attempt.progress.log_tail())
            for job_id, attempt in attempts.items()
        }
        beat = await self._claims.heartbeat(told)
        for job_id in beat.cancelling | beat.lost:
            attempts[job_id].progress.cancelled.set()
        for job_id in attempts:
            self._wakeups.publish(job_topic(job_id), through_database=False)

    async def _hear_cancels(self) -> None:
        with self._wakeups.subscribe(CANCEL) as asked:
            while True:
                if await asked.wait(_LOOK_S):
                    self._now.set()

    async def _see_steps(self) -> None:
        """A step that has run long enough is shown to those who look at the job."""
        while True:
            await asyncio.sleep(_STEP_SHOWN_AFTER_S)
            if any(attempt.progress.changed.is_set() for attempt in self._attempts):
                self._now.set()
