"""What a worker hears of its running jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from gateway_core.errors import DatabaseError
from gateway_transform.jobs.claims import Beat, Claims, Pulse
from gateway_transform.jobs.model import Claim
from gateway_transform.jobs.topics import CANCEL
from gateway_transform.work.attempt import Attempt, Go
from gateway_transform.work.believed import Unpacked
from gateway_transform.work.heartbeat import Heartbeat
from gateway_transform.work.pool import BoxPool
from gateway_transform.work.zygote import ZygotePlan
from tests.transform.conftest import MakeJobStand
from tests.transform.job_stand import JobStand


async def _advise(_unpacked: Unpacked) -> Go:
    return Go()


def attempt_of(stand: JobStand, claim: Claim) -> Attempt:
    pool = BoxPool(ZygotePlan((), {}, "off", (), ()), size=0)
    return Attempt(claim, pool, stand.gateway.core.storage, settings=stand.settings, advise=_advise)


async def cancel(stand: JobStand, job_id: str) -> None:
    await stand.change(job_id, cancelling=True)
    stand.gateway.core.wakeups.publish(CANCEL, through_database=False)


class Meddled(Claims):
    """Claims whose first heartbeat is too early for a cancel, or meets a defect."""

    def __init__(self, stand: JobStand, *, defect: Exception | None = None) -> None:
        core = stand.gateway.core
        super().__init__(core.db, stand.settings, core.keyring, worker="a test")
        self._stand = stand
        self._defect = defect
        self.beats = 0

    async def heartbeat(self, pulses: Mapping[str, Pulse]) -> Beat:
        self.beats += 1
        if self.beats == 1 and self._defect is not None:
            raise self._defect
        beat = await super().heartbeat(pulses)
        if self.beats == 1:
            for job_id in pulses:
                await cancel(self._stand, job_id)
            await self._stand.gateway.core.db.check()  # time for everybody to hear of it
        return beat


async def test_a_cancel_that_comes_during_a_heartbeat_is_heard(make_job_stand: MakeJobStand):
    async with make_job_stand() as stand:
        attempt = attempt_of(stand, await stand.claim(await (await stand.caller()).submit()))
        heartbeat = Heartbeat(stand.gateway.core, Meddled(stand))
        beating = asyncio.create_task(heartbeat.run())
        attempt.progress.changed.set()
        with heartbeat.for_attempt(attempt):
            async with asyncio.timeout(5):
                await attempt.progress.cancelled.wait()
        beating.cancel()
        await asyncio.wait([beating])


@pytest.mark.parametrize("defect", [KeyError("a defect"), DatabaseError("away")], ids=["a-defect", "no-database"])
async def test_heartbeats_go_on_after_one_that_failed(make_job_stand: MakeJobStand, defect: Exception):
    async with make_job_stand() as stand:
        attempt = attempt_of(stand, await stand.claim(await (await stand.caller()).submit()))
        claims = Meddled(stand, defect=defect)
        heartbeat = Heartbeat(stand.gateway.core, claims)
        beating = asyncio.create_task(heartbeat.run())
        with heartbeat.for_attempt(attempt):
            async with asyncio.timeout(10):
                while claims.beats < 2 and not beating.done():
                    attempt.progress.changed.set()
                    await asyncio.wait([beating], timeout=0.1)
        assert claims.beats >= 2
        beating.cancel()
        await asyncio.wait([beating])


async def test_the_end_of_an_attempt_that_lost_its_lease_leaves_the_next_one_its_own(make_job_stand: MakeJobStand):
    async with make_job_stand() as stand:
        core = stand.gateway.core
        claims = Claims(core.db, stand.settings, core.keyring, worker="a test")
        heartbeat = Heartbeat(core, claims)
        job_id = await (await stand.caller()).submit()
        first = attempt_of(stand, await stand.claim(job_id))
        await stand.change(job_id, lease_until=1.0)
        await claims.requeue_lost()
        second = attempt_of(stand, await stand.claim(job_id))
        beating = asyncio.create_task(heartbeat.run())
        with ExitStack() as earlier:
            earlier.enter_context(heartbeat.for_attempt(first))
            with heartbeat.for_attempt(second):
                earlier.close()
                assert (first.progress.cancelled.is_set(), second.progress.cancelled.is_set()) == (True, False)
                await cancel(stand, job_id)
                async with asyncio.timeout(5):
                    await second.progress.cancelled.wait()
        beating.cancel()
        await asyncio.wait([beating])
