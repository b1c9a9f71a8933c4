"""Workers that claim, beat, die, freeze and publish late, all at once: no job is lost, none is published twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from gateway_core import NotFound
from gateway_core.db.tables import outbox
from gateway_transform.jobs.claims import Claims, Pulse
from gateway_transform.jobs.model import Claim, ErrorCode, Hook, JobError, JobState, Outcome
from gateway_transform.tables import jobs
from tests.transform.job_life import Jobs, outcome_of

pytest_plugins = ["tests.transform.databases"]

_LEASE_S = 0.1
_ATTEMPTS = 3
_HOOK = Hook("https://hooks.example/")


@dataclass
class Campaign:
    """``published`` is what workers were told to be visible; ``begun`` counts the runs of each job.

    ``newest`` is the last claim on each job, the only one that may publish.
    """

    life: Jobs
    chance: random.Random
    accepted: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    published: dict[str, list[Outcome]] = field(default_factory=dict)
    begun: Counter[str] = field(default_factory=Counter)
    newest: dict[str, Claim] = field(default_factory=dict)
    late: list[tuple[Claim, Outcome]] = field(default_factory=list)

    async def accept(self, count: int) -> None:
        for number in range(count):
            self.accepted.add(await self.life.accept(f"client {number % 3}"))
            if self.chance.random() < 0.2:
                with contextlib.suppress(NotFound):
                    await self.life.store.ask_cancel(self.chance.choice(sorted(self.accepted)), None)

    async def work(self, name: str) -> None:
        """One worker process, whose jobs end in all ways there are, until every job has ended."""
        worker = self.life.worker(name, lease_s=_LEASE_S, max_attempts=_ATTEMPTS)
        while await self._open():
            await worker.requeue_lost()
            claims = await worker.claim(self.chance.randint(1, 3))
            self.newest.update((claim.job_id, claim) for claim in claims)
            for claim in claims:
                await self._run(worker, claim)
            await asyncio.sleep(0)

    async def _run(self, worker: Claims, claim: Claim) -> None:
        if claim.verdict is None:
            self.begun[claim.job_id] += 1
        outcome = self._outcome(claim)
        match self.chance.choice(("publish", "publish", "beat", "die", "freeze", "late", "hand back", "twice")):
            case "beat":
                await self._beat(worker, claim)
                await self.publish(worker, claim, outcome)
            case "die":
                pass
            case "freeze":
                await asyncio.sleep(1.5 * _LEASE_S)
                await self.publish(worker, claim, outcome)
            case "late":
                self.late.append((claim, outcome))
            case "hand back":
                if await worker.hand_back(claim) and claim.verdict is None:
                    self.begun[claim.job_id] -= 1
            case "twice":
                await asyncio.gather(*(self.publish(worker, claim, outcome) for _ in range(2)))
            case _:
                await self.publish(worker, claim, outcome)
        if self.late and self.chance.random() < 0.3:
            zombie, result = self.late.pop(self.chance.randrange(len(self.late)))
            await self.publish(worker, zombie, result)

    def _outcome(self, claim: Claim) -> Outcome:
        if claim.verdict is not None:
            state = JobState.CANCELLED if claim.verdict.code is ErrorCode.CANCELLED else JobState.FAILED
            return outcome_of(claim, state, error=claim.verdict)
        error = JobError(ErrorCode.FAILED) if self.chance.random() < 0.2 else None
        return outcome_of(claim, JobState.FAILED if error else JobState.SUCCEEDED, error=error, hook=_HOOK)

    async def _beat(self, worker: Claims, claim: Claim) -> None:
        beat = await worker.heartbeat({claim.job_id: Pulse(claim.token, "step", "log\n")})
        assert beat.lost <= {claim.job_id}

    async def publish(self, worker: Claims, claim: Claim, outcome: Outcome) -> None:
        if await worker.publish(claim, outcome):
            assert claim is self.newest[claim.job_id]
            seen = self.published.setdefault(claim.job_id, [])
            if outcome not in seen:
                seen.append(outcome)
            if self.chance.random() < 0.1:
                self.erased.add(claim.job_id)
                with contextlib.suppress(NotFound):  # both of two publishers may erase it
                    await self.life.store.erase(claim.job_id, None)

    async def _open(self) -> bool:
        unfinished = sa.select(jobs.c.id).where(jobs.c.state.in_(("queued", "running"))).limit(1)
        async with self.life.db.read() as tx:
            return await tx.first(unfinished) is not None

    async def check(self) -> None:
        async with self.life.db.read() as tx:
            rows = {row.id: row for row in await tx.rows(sa.select(jobs))}
            told = Counter([row.payload for row in await tx.rows(sa.select(outbox.c.payload))])
        assert set(rows) == self.accepted - self.erased
        assert set(self.published) == self.accepted
        for job_id, results in self.published.items():
            assert len(results) == 1, results
            assert self.begun[job_id] <= _ATTEMPTS
            if (row := rows.get(job_id)) is not None:
                assert JobState(row.state) is results[0].state
                assert row.result_key == results[0].result.key
                assert row.attempt <= _ATTEMPTS
        assert set(told.values()) <= {1}
        assert len(told) == sum(results[0].hook is not None for results in self.published.values())


async def campaign(life: Jobs, *, seed: int, count: int, workers: int) -> None:
    run = Campaign(life, random.Random(seed))
    await run.accept(count // 2)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run.accept(count - count // 2))
        for number in range(workers):
            tasks.create_task(run.work(f"worker {number}"))
    # those that came in after the workers had seen the last job end
    await run.work("the last")
    zombies = life.worker(lease_s=_LEASE_S)
    for claim, outcome in run.late:
        await run.publish(zombies, claim, outcome)
    await run.check()


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_job_is_lost_and_none_has_two_results(life: Jobs, seed: int):
    async with asyncio.timeout(60):
        await campaign(life, seed=seed, count=16, workers=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(20))
async def test_no_job_of_many_is_lost_and_none_has_two_results(life: Jobs, seed: int):
    async with asyncio.timeout(300):
        await campaign(life, seed=seed, count=200, workers=8)
