"""Claims, heartbeats and publishing: fair, fenced, never lost; on both databases."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.outbox import Outbox
from gateway_transform.jobs.claims import HOOK_TOPIC, Pulse
from gateway_transform.jobs.model import Claim, ErrorCode, Hook, JobError, JobState
from gateway_transform.jobs.turns import in_turns
from gateway_transform.tables import jobs
from tests.transform.job_life import Jobs, outcome_of

pytest_plugins = ["tests.transform.databases"]


async def order(life: Jobs, count: int) -> list[str]:
    """Clients in the order in which one worker with one place is given their jobs, each ending before the next."""
    served = []
    for _ in range(count):
        (claim,) = await life.worker().claim(1)
        served.append(claim.client_id)
        assert await life.worker().publish(claim, outcome_of(claim))
    return served


async def test_claim_is_a_running_attempt_with_a_lease(life: Jobs):
    job_id = await life.accept()
    (claim,) = await life.worker("mill").claim(3)
    row = await life.row(job_id)
    assert (row.state, row.worker, row.token, row.attempt) == ("running", "mill", claim.token, 1)
    assert row.lease_until - row.started == pytest.approx(life.settings.lease_s, abs=0.5)
    assert claim.upload.key == f"transform/{job_id}/input"
    assert await life.worker().claim(3) == []


async def test_waiting_time_adds_up_over_the_waits_of_a_job(life: Jobs):
    job_id = await life.accept()
    await life.set(job_id, queued=now() - 2.0)
    (claim,) = await life.worker().claim(1)
    assert 2000 <= claim.queued_ms < 3000
    await life.worker().hand_back(claim)
    await life.set(job_id, queued=now() - 3.0)
    (claim,) = await life.worker().claim(1)
    assert 5000 <= claim.queued_ms < 7000


async def test_clock_that_was_set_back_takes_no_waiting_time_away(life: Jobs):
    await life.set(await life.accept(), queued=now() + 60.0)
    (claim,) = await life.worker().claim(1)
    assert claim.queued_ms == 0


async def test_jobs_of_one_client_are_claimed_oldest_first(life: Jobs):
    ids = [await life.accept() for _ in range(5)]
    first = await life.worker().claim(2)
    assert [claim.job_id for claim in first] == ids[:2]
    assert [claim.job_id for claim in await life.worker().claim(9)] == ids[2:]


async def test_client_with_many_jobs_does_not_hold_up_one_with_few(life: Jobs):
    for _ in range(6):
        await life.accept("many")
    for _ in range(2):
        await life.accept("few")
    assert await order(life, 8) == ["many", "few", "many", "few", *["many"] * 4]


async def test_client_with_the_fewest_running_is_served_first(life: Jobs):
    for _ in range(4):
        await life.accept("busy")
    await life.worker().claim(2)
    for _ in range(3):
        await life.accept("new")
    claims = await life.worker().claim(3)
    assert Counter(claim.client_id for claim in claims) == {"new": 3}


async def test_many_claimed_at_once_are_spread_over_the_clients(life: Jobs):
    for client in ("a", "b", "c"):
        for _ in range(4):
            await life.accept(client)
    claims = await life.worker().claim(7)
    assert sorted(Counter(claim.client_id for claim in claims).values()) == [2, 2, 3]


async def test_more_clients_than_are_looked_at_are_all_served_in_turn(life: Jobs):
    clients = [f"client {number:02}" for number in range(25)]
    for client in (*clients, *clients):
        await life.accept(client)
    served = await order(life, 50)
    assert sorted(served[:25]) == sorted(served[25:]) == clients


async def test_lost_job_runs_again_before_younger_ones_of_its_client(life: Jobs):
    lost = await life.claimed()
    await life.accept()
    await life.lose()
    assert await life.worker().requeue_lost() == 1
    (again,) = await life.worker().claim(1)
    assert (again.job_id, again.attempt) == (lost.job_id, 2)
    assert again.token != lost.token


async def test_job_whose_lease_holds_is_not_requeued(life: Jobs):
    claim = await life.claimed()
    assert await life.worker().requeue_lost() == 0
    assert await life.worker().publish(claim, outcome_of(claim))


async def test_zombie_cannot_publish_and_changes_nothing(life: Jobs):
    zombie = await life.claimed()
    await life.lose()
    await life.worker().requeue_lost()
    waiting = await life.row(zombie.job_id)
    assert not await life.worker().publish(zombie, outcome_of(zombie, hook=Hook("https://hooks.example/")))
    assert await life.row(zombie.job_id) == waiting
    (claim,) = await life.worker().claim(1)
    running = await life.row(zombie.job_id)
    assert not await life.worker().publish(zombie, outcome_of(zombie))
    assert not await life.worker().hand_back(zombie)
    assert (await life.worker().heartbeat({zombie.job_id: Pulse(zombie.token)})).lost == {zombie.job_id}
    assert await life.row(zombie.job_id) == running
    assert await life.worker().publish(claim, outcome_of(claim))
    assert not await life.worker().publish(zombie, outcome_of(zombie, JobState.FAILED))
    assert (await life.store.find(zombie.job_id, None)).result.key == outcome_of(claim).result.key
    assert await Outbox(life.db).claim(HOOK_TOPIC, limit=9, lease_s=9) == []


async def test_frozen_worker_that_nobody_has_replaced_goes_on(life: Jobs):
    claim = await life.claimed()
    await life.lose()
    beat = await life.worker().heartbeat({claim.job_id: Pulse(claim.token)})
    assert not beat.lost
    assert await life.worker().requeue_lost() == 0
    assert await life.worker().publish(claim, outcome_of(claim))


async def test_published_job_has_its_end_and_its_expiry(life: Jobs):
    claim = await life.claimed()
    steps = ({"name": "a", "state": "succeeded", "ms": 5},)
    assert await life.worker(keep_s=100.0).publish(claim, outcome_of(claim, steps=steps, log="all\n", run_ms=12))
    job = await life.store.find(claim.job_id, None)
    assert (job.state, job.error, job.steps, job.log, job.run_ms) == (JobState.SUCCEEDED, None, steps, "all\n", 12)
    assert job.result == outcome_of(claim).result
    assert job.ended is not None
    assert job.expires == pytest.approx(job.ended + 100.0, abs=0.1)


@pytest.mark.parametrize(
    ("state", "kept"), [(JobState.SUCCEEDED, False), (JobState.CANCELLED, False), (JobState.FAILED, True)]
)
async def test_input_is_named_on_only_for_a_job_that_failed(life: Jobs, state: JobState, kept: bool):
    job = await life.store.find(await life.ended(state), None)
    assert bool(job.upload.key) is kept
    assert job.upload.size_bytes == 10


async def test_publishing_again_after_a_lost_answer_is_told_that_it_is_done(life: Jobs):
    claim = await life.claimed()
    outcome = outcome_of(claim, hook=Hook("https://hooks.example/"))
    assert await life.worker().publish(claim, outcome)
    before = await life.row(claim.job_id)
    assert await life.worker().publish(claim, outcome)
    assert await life.row(claim.job_id) == before
    assert len(await Outbox(life.db).claim(HOOK_TOPIC, limit=9, lease_s=9)) == 1


async def test_hook_is_in_the_outbox_if_and_only_if_the_job_was_published(life: Jobs):
    told = await life.ended(JobState.FAILED, hook=Hook("https://hooks.example/"))
    await life.ended()
    (item,) = await Outbox(life.db).claim(HOOK_TOPIC, limit=9, lease_s=9)
    assert item.payload == {"job": told, "state": "failed"}


async def test_what_a_box_says_is_stored_whatever_it_is(life: Jobs):
    claim = await life.claimed()
    bad = "\0\ud800" + "x" * 100_000
    beat = await life.worker().heartbeat({claim.job_id: Pulse(claim.token, bad, bad)})
    assert not beat.lost
    outcome = outcome_of(
        claim,
        JobState.FAILED,
        error=JobError(ErrorCode.CRASHED, bad, bad),
        log=bad,
        cache_key=bad,
        steps=({"name": bad[:9]},),
        hook=Hook("https://hooks.example/" + bad[:9], bad),
    )
    assert await life.worker().publish(claim, outcome)
    job = await life.store.find(claim.job_id, None)
    assert job.error is not None
    assert job.error.message.startswith("\N{REPLACEMENT CHARACTER}?xxx")
    assert job.log.endswith("xxx")


async def test_heartbeat_keeps_all_and_shows_where_they_are(life: Jobs):
    claims = [await life.claimed(f"client {number}") for number in range(3)]
    await life.change(sa.update(jobs), lease_until=now() + 1.0)
    pulses = {claim.job_id: Pulse(claim.token, "step 2", "line\n") for claim in claims}
    beat = await life.worker().heartbeat(pulses)
    assert not beat.lost | beat.cancelling
    for claim in claims:
        row = await life.row(claim.job_id)
        assert (row.step, row.log) == ("step 2", "line\n")
        assert row.lease_until > row.started + life.settings.lease_s / 2


async def test_heartbeat_tells_what_was_cancelled_what_erased_and_what_lost(life: Jobs):
    kept, cancelled, erased, lost = [await life.claimed(f"client {number}") for number in range(4)]
    await life.store.ask_cancel(cancelled.job_id, None)
    await life.worker().publish(erased, outcome_of(erased))
    await life.store.erase(erased.job_id, None)
    await life.lose(lost.job_id)
    await life.worker().requeue_lost()
    pulses = {claim.job_id: Pulse(claim.token) for claim in (kept, cancelled, erased, lost)}
    beat = await life.worker().heartbeat(pulses)
    assert beat.cancelling == {cancelled.job_id}
    assert beat.lost == {erased.job_id, lost.job_id}
    assert not (await life.worker().heartbeat({})).lost


async def test_handed_back_job_has_lost_no_attempt(life: Jobs):
    claim = await life.claimed()
    assert await life.worker().hand_back(claim)
    row = await life.row(claim.job_id)
    assert (row.state, row.attempt, row.token, row.lease_until) == ("queued", 0, "", None)
    (again,) = await life.worker().claim(1)
    assert again.attempt == 1
    assert not await life.worker().publish(claim, outcome_of(claim))


async def test_job_whose_attempts_are_used_up_is_claimed_once_more_to_be_ended(life: Jobs):
    job_id = await life.accept()
    worker = life.worker(max_attempts=2)
    for attempt in (1, 2):
        (claim,) = await worker.claim(1)
        assert (claim.attempt, claim.verdict) == (attempt, None)
        await worker.heartbeat({job_id: Pulse(claim.token, "convert", "so far\n")})
        await life.lose()
        await worker.requeue_lost()
    assert (await life.store.find(job_id, None)).error is None
    (rites,) = await worker.claim(1)
    assert rites.verdict is not None
    assert (rites.attempt, rites.verdict.code, rites.verdict.step) == (2, ErrorCode.WORKER_LOST, "convert")
    assert rites.log == "so far\n"
    assert await worker.publish(rites, outcome_of(rites, JobState.FAILED, error=rites.verdict))
    job = await life.store.find(job_id, None)
    assert (job.state, job.error, job.attempt) == (JobState.FAILED, rites.verdict, 2)
    assert [dead.id for dead in await life.store.dead_letters(9)] == [job_id]


async def test_last_rites_that_are_lost_come_again(life: Jobs):
    worker = life.worker(max_attempts=1)
    await life.accept()
    await worker.claim(1)
    tokens = set()
    for _ in range(3):
        await life.lose()
        assert await worker.requeue_lost() == 1
        (rites,) = await worker.claim(1)
        assert rites.verdict is not None
        assert (rites.attempt, rites.verdict.code) == (1, ErrorCode.WORKER_LOST)
        tokens.add(rites.token)
    assert len(tokens) == 3
    assert await worker.hand_back(rites)
    (rites,) = await worker.claim(1)
    assert rites.verdict is not None
    assert rites.attempt == 1


async def test_cancelled_job_whose_worker_is_lost_is_not_run_again(life: Jobs):
    claim = await life.claimed()
    await life.store.ask_cancel(claim.job_id, None)
    await life.lose()
    await life.worker().requeue_lost()
    (rites,) = await life.worker().claim(1)
    assert rites.verdict is not None
    assert rites.verdict.code is ErrorCode.CANCELLED


async def test_retried_dead_letter_runs_again_with_all_attempts(life: Jobs):
    worker = life.worker(max_attempts=1)
    job_id = await life.accept()
    await worker.claim(1)
    await life.lose()
    await worker.requeue_lost()
    (rites,) = await worker.claim(1)
    await worker.publish(rites, outcome_of(rites, JobState.FAILED, error=rites.verdict))
    await life.store.retry(job_id)
    (claim,) = await worker.claim(1)
    assert (claim.attempt, claim.verdict) == (1, None)
    assert not await worker.publish(rites, outcome_of(rites, JobState.FAILED))


async def test_workers_that_claim_at_once_never_get_the_same_job(life: Jobs):
    for number in range(30):
        await life.accept(f"client {number % 3}")
    claimed: list[Claim] = []

    async def work(name: str) -> None:
        worker, empty = life.worker(name), 0
        while empty < 3:
            claims = await worker.claim(2)
            empty = 0 if claims else empty + 1
            claimed.extend(claims)

    async with asyncio.timeout(30), asyncio.TaskGroup() as workers:
        for number in range(4):
            workers.create_task(work(f"worker {number}"))
    assert len(claimed) == len({claim.job_id for claim in claimed}) == 30


async def test_cancelling_and_publishing_at_once_end_the_job_once(life: Jobs):
    for _ in range(10):
        claim = await life.claimed()
        asked, published = await asyncio.gather(
            life.store.ask_cancel(claim.job_id, None), life.worker().publish(claim, outcome_of(claim))
        )
        assert published
        assert asked.cancelling is not asked.state.final
        job = await life.store.find(claim.job_id, None)
        assert (job.state, job.cancelling) == (JobState.SUCCEEDED, False)


async def test_claim_reads_a_few_rows_however_many_jobs_wait(jobs_sqlite_file: Path):
    """SQLite tells how a statement reads: through indexes alone, no table from end to end."""
    db = Database(f"sqlite:///{jobs_sqlite_file}")
    sql = str(in_turns(db).compile(dialect=sqlite.dialect())).replace("?", ":most")
    async with db.read() as tx:
        plan = await tx.rows(sa.text(f"EXPLAIN QUERY PLAN {sql}"), {"most": 1})
    await db.close()
    read = [row.detail for row in plan]
    of_table = ("transform_jobs", "ended", "first", "following", "head", "waiting", "own")
    assert [detail for detail in read if "ix_transform_jobs_state (state=? AND cancelling=? AND client_id=?)" in detail]
    assert not [detail for detail in read if detail.startswith(tuple(f"SCAN {name}" for name in of_table))]
