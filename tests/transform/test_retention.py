"""What is deleted when, on both databases and a real storage."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway_core import NotFound, Storage
from gateway_core.db.clock import now
from gateway_core.storage.registry import open_storage
from gateway_core.testing.storage import keys, put
from gateway_transform.jobs.model import Hook, JobState
from gateway_transform.jobs.retention import sweep, sweep_orphans
from gateway_transform.jobs.rows import TOMBSTONE_S
from gateway_transform.tables import deliveries, jobs
from tests.transform.job_life import Jobs, outcome_of

pytest_plugins = ["tests.transform.databases"]


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    opened = open_storage("", factories={}, data_dir=tmp_path)
    yield opened
    await opened.close()


async def stored(life: Jobs, storage: Storage, state: JobState = JobState.FAILED) -> str:
    """An ended job with both of its objects in the storage, whether its row still names them or not."""
    claim = await life.claimed()
    outcome = outcome_of(claim, state, hook=Hook("https://hooks.example/"))
    for key in (claim.upload.key, outcome.result.key):
        await put(storage, key, b"bytes")
    assert await life.worker().publish(claim, outcome)
    return claim.job_id


async def delivered(life: Jobs, job_id: str) -> None:
    row = {"id": uuid.uuid4().hex, "job_id": job_id, "at": now() - 7200.0, "try_number": 1, "outcome": "delivered"}
    async with life.db.write() as tx:
        await tx.execute(sa.insert(deliveries).values(row | {"status": 200, "detail": "", "took_ms": 1}))


async def delivered_to(life: Jobs) -> set[str]:
    async with life.db.read() as tx:
        return {row.job_id for row in await tx.rows(sa.select(deliveries.c.job_id))}


async def test_result_lives_until_its_time_is_up(life: Jobs, storage: Storage):
    job_id = await stored(life, storage)
    await sweep(life.store, storage)
    assert (await life.store.find(job_id, None)).state is JobState.FAILED
    assert len(await keys(storage)) == 2


async def test_expired_job_loses_its_objects_and_what_it_said_but_not_its_row(life: Jobs, storage: Storage):
    expired, kept = await stored(life, storage), await stored(life, storage)
    await life.set(expired, expires=now() - 1.0, log="secret", steps="[]")
    before = await life.store.find(expired, None)
    await sweep(life.store, storage)
    after = await life.store.find(expired, "client")
    assert (after.state, after.ended) == (JobState.EXPIRED, before.ended)
    assert after.expires == pytest.approx(before.expires, abs=0.001)
    row = await life.row(expired)
    assert not any((row.input_key, row.result_key, row.log, row.steps, row.hook, row.error_message))
    assert {key.split("/")[1] for key in await keys(storage)} == {kept}


async def test_row_of_an_expired_job_goes_a_week_later_with_its_deliveries(life: Jobs, storage: Storage):
    gone, kept = await stored(life, storage), await stored(life, storage)
    for job_id in (gone, kept):
        await delivered(life, job_id)
        await life.set(job_id, expires=now() - 1.0)
    await sweep(life.store, storage)
    await life.set(gone, expires=jobs.c.expires - TOMBSTONE_S)
    await sweep(life.store, storage)
    with pytest.raises(NotFound):
        await life.store.find(gone, None)
    assert (await life.store.find(kept, None)).state is JobState.EXPIRED
    assert await delivered_to(life) == {kept}


async def test_all_that_is_due_goes_in_one_sweep(life: Jobs, storage: Storage):
    template = dict((await life.row(await life.ended()))._mapping)
    async with life.db.write() as tx:
        await tx.execute(sa.insert(jobs), [template | {"id": uuid.uuid4().hex} for _ in range(249)])
    await life.change(sa.update(jobs), expires=now() - 1.0)
    await sweep(life.store, storage)
    assert len(await life.store.listed(state=JobState.EXPIRED, limit=500)) == 250
    await life.change(sa.update(jobs), expires=now() - 1.0)
    await sweep(life.store, storage)
    assert not await life.store.listed()


async def test_job_that_waits_or_runs_never_expires(life: Jobs, storage: Storage):
    running, waiting = (await life.claimed()).job_id, await life.accept()
    await sweep(life.store, storage)
    assert (await life.store.find(running, None)).state is JobState.RUNNING
    assert (await life.store.find(waiting, None)).state is JobState.QUEUED


async def test_objects_that_no_row_names_are_orphans(life: Jobs, storage: Storage):
    failed, succeeded = await stored(life, storage), await stored(life, storage, JobState.SUCCEEDED)
    await put(storage, f"transform/{failed}/result-of-a-zombie", b"late")
    await put(storage, f"transform/{uuid.uuid4().hex}/input", b"never accepted")
    await put(storage, "archive/other", b"somebody else's")
    left = await sweep_orphans(life.store, storage, older_than_s=-60.0)
    assert left == 3  # with the input of the job that succeeded
    rows = [await life.row(job_id) for job_id in (failed, succeeded)]
    assert set(await keys(storage)) == {
        "archive/other",
        rows[0].input_key,
        rows[0].result_key,
        rows[1].result_key,
    }


async def test_job_at_work_keeps_what_its_row_does_not_name_yet(life: Jobs, storage: Storage):
    claim = await life.claimed()
    result = outcome_of(claim).result.key
    for key in (claim.upload.key, result):
        await put(storage, key, b"bytes")
    assert await sweep_orphans(life.store, storage, older_than_s=-60.0) == 0
    assert await keys(storage) == [claim.upload.key, result]


async def test_young_object_is_no_orphan(life: Jobs, storage: Storage):
    await put(storage, f"transform/{uuid.uuid4().hex}/input", b"its row comes in a moment")
    assert await sweep_orphans(life.store, storage) == 0
    assert len(await keys(storage)) == 1


async def test_deliveries_of_jobs_that_are_gone_go_with_the_orphans(life: Jobs, storage: Storage):
    kept = await life.ended()
    await delivered(life, kept)
    await delivered(life, "f" * 32)
    await sweep_orphans(life.store, storage)
    assert await delivered_to(life) == {kept}


async def test_erasing_takes_the_deliveries_along(life: Jobs):
    erased, kept = await life.ended(), await life.ended()
    for job_id in (erased, kept):
        await delivered(life, job_id)
    await life.store.erase(erased, None)
    assert await delivered_to(life) == {kept}
