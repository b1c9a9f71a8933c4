"""Jobs as clients and operators deal with them, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from gateway_core import Conflict, NotFound, TooManyRequests
from gateway_core.db.clock import now
from gateway_transform.jobs.cache import find_cached
from gateway_transform.jobs.model import ErrorCode, Hook, JobError, JobState, Upload
from tests.transform.job_life import Jobs, outcome_of

pytest_plugins = ["tests.transform.databases"]


async def test_accepted_job_is_queued_and_knows_its_upload(life: Jobs):
    job_id = await life.accept("me")
    job = await life.store.find(job_id, "me", with_position=True)
    assert (job.state, job.position, job.attempt, job.error) == (JobState.QUEUED, 0, 0, None)
    assert (job.upload.key, job.upload.size_bytes) == (f"transform/{job_id}/input", 10)
    assert job.described()["started"] is None


async def test_position_counts_the_older_jobs_that_wait(life: Jobs):
    ids = [await life.accept(f"client {number % 2}") for number in range(4)]
    assert [(await life.store.find(job_id, None, with_position=True)).position for job_id in ids] == [0, 1, 2, 3]
    (claim,) = await life.worker().claim(1)
    ids.remove(claim.job_id)
    assert [(await life.store.find(job_id, None, with_position=True)).position for job_id in ids] == [0, 1, 2]
    assert (await life.store.find(claim.job_id, None, with_position=True)).position is None


async def test_somebody_elses_job_is_not_there(life: Jobs):
    job_id = await life.accept("owner")
    for deed in (life.store.find, life.store.ask_cancel, life.store.erase):
        with pytest.raises(NotFound):
            await deed(job_id, "other")
    job = await life.store.find(job_id, "owner")
    assert not job.cancelling


async def test_unknown_job_is_not_there(life: Jobs):
    for deed in (life.store.find, life.store.ask_cancel, life.store.erase):
        with pytest.raises(NotFound):
            await deed("f" * 32, None)
    with pytest.raises(NotFound):
        await life.store.retry("f" * 32)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"max_queued": 2}, "transform.max_queued)"), ({"max_queued_per_client": 2}, "max_queued_per_client")],
)
async def test_full_queue_refuses_by_the_name_of_its_limit(life: Jobs, settings: dict[str, int], named: str):
    life = life.having(**settings)
    for _ in range(2):
        await life.store.has_room("me")
        await life.accept("me")
    for attempt in (life.store.has_room, life.accept):
        with pytest.raises(TooManyRequests) as refused:
            await attempt("me")
        assert named in refused.value.detail
        assert int(refused.value.headers["Retry-After"]) >= 1
    assert len(await life.store.listed()) == 2
    await life.worker().claim(1)
    await life.accept("me")


async def test_limit_of_one_client_leaves_room_for_others(life: Jobs):
    life = life.having(max_queued_per_client=1)
    await life.accept("one")
    await life.accept("two")
    with pytest.raises(TooManyRequests):
        await life.accept("one")


async def test_retry_after_is_shorter_the_more_jobs_end(life: Jobs):
    life = life.having(max_queued=1)

    async def retry_after() -> int:
        with pytest.raises(TooManyRequests) as refused:
            await life.store.has_room("me")
        return int(refused.value.headers["Retry-After"])

    await life.accept("me")
    idle = await retry_after()
    for _ in range(6):
        (claim,) = await life.worker().claim(1)
        await life.worker().publish(claim, outcome_of(claim))
        await life.accept("me")
    assert await retry_after() == 10 < idle


async def test_accepting_is_undone_with_its_transaction(life: Jobs):
    async def fail() -> None:
        async with life.db.write() as tx:
            await life.store.accept(tx, "a" * 32, "me", upload=Upload("key", "", 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(NotFound):
        await life.store.find("a" * 32, "me")


async def test_cancelled_waiting_job_is_the_next_to_be_claimed_and_is_not_run(life: Jobs):
    first, second = await life.accept("one"), await life.accept("two")
    asked = await life.store.ask_cancel(second, "two")
    assert (asked.state, asked.cancelling) == (JobState.QUEUED, True)
    claims = await life.worker().claim(2)
    assert [claim.job_id for claim in claims] == [second, first]
    assert claims[0].verdict is not None
    assert claims[0].verdict.code is ErrorCode.CANCELLED
    assert claims[0].attempt == 0
    assert claims[1].verdict is None


async def test_ended_job_cannot_be_cancelled(life: Jobs):
    job_id = await life.ended()
    job = await life.store.ask_cancel(job_id, "client")
    assert (job.state, job.cancelling) == (JobState.SUCCEEDED, False)


async def test_erased_job_names_its_objects_and_is_gone(life: Jobs):
    job_id = await life.ended(JobState.FAILED)
    keys = await life.store.erase(job_id, "client")
    assert [key.rpartition("-")[0] or key for key in keys] == [
        f"transform/{job_id}/input",
        f"transform/{job_id}/result",
    ]
    with pytest.raises(NotFound):
        await life.store.find(job_id, "client")


async def test_job_under_way_is_not_erased(life: Jobs):
    waiting = await life.accept()
    with pytest.raises(Conflict, match="queued"):
        await life.store.erase(waiting, "client")
    await life.worker().claim(1)
    with pytest.raises(Conflict, match="running"):
        await life.store.erase(waiting, "client")


async def test_failed_job_is_tried_again_as_if_it_were_new(life: Jobs):
    job_id = await life.ended(JobState.FAILED, log="it broke\n")
    before = await life.store.find(job_id, None)
    await life.store.retry(job_id)
    job = await life.store.find(job_id, None)
    assert (job.state, job.attempt, job.error, job.ended, job.expires) == (JobState.QUEUED, 0, None, None, None)
    assert (job.result.key, job.log, job.created) == ("", "", before.created)
    (claim,) = await life.worker().claim(1)
    assert (claim.job_id, claim.attempt, claim.verdict) == (job_id, 1, None)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.CANCELLED])
async def test_job_that_did_not_fail_cannot_be_tried_again(life: Jobs, state: JobState):
    job_id = await life.ended(state)
    with pytest.raises(Conflict):
        await life.store.retry(job_id)


async def test_failed_job_whose_time_is_up_cannot_be_tried_again(life: Jobs):
    job_id = await life.ended(JobState.FAILED)
    await life.set(job_id, expires=now() - 1.0)
    with pytest.raises(Conflict, match="expired"):
        await life.store.retry(job_id)


async def test_job_whose_time_is_up_is_expired_before_it_is_swept(life: Jobs):
    job_id = await life.ended()
    await life.set(job_id, expires=now() - 1.0)
    assert (await life.store.find(job_id, None)).state is JobState.EXPIRED


async def test_jobs_are_listed_newest_first_by_client_and_state(life: Jobs):
    done = await life.ended()
    waiting = [await life.accept(), await life.accept("other")]
    assert [job.id for job in await life.store.listed()] == [waiting[1], waiting[0], done]
    assert [job.id for job in await life.store.listed(client_id="client")] == [waiting[0], done]
    assert [job.id for job in await life.store.listed(state=JobState.QUEUED, limit=1)] == [waiting[1]]


async def test_dead_letters_are_those_whose_workers_were_lost(life: Jobs):
    await life.ended(JobState.FAILED)
    dead = await life.ended(JobState.FAILED, error=JobError(ErrorCode.WORKER_LOST))
    assert [job.id for job in await life.store.dead_letters(10)] == [dead]


async def test_address_of_a_hook_is_stored_encrypted(life: Jobs):
    url = "https://hooks.example/secret"
    job_id = await life.ended(hook=Hook(url, "standard"))
    row = await life.row(job_id)
    assert "secret" not in row.hook
    assert (life.keyring.decrypt(row.hook.encode()).decode(), row.hook_form) == (url, "standard")
    assert (await life.row(await life.ended())).hook == ""


async def test_cached_result_is_the_clients_newest_that_has_not_expired(life: Jobs):
    key = "e" * 64
    old, new = await life.ended(cache_key=key), await life.ended(cache_key=key)
    await life.ended(JobState.FAILED, cache_key=key)
    found = await find_cached(life.db, "client", key)
    assert found is not None
    assert found.key.startswith(f"transform/{new}/result-")
    await life.set(new, expires=now() - 1.0)
    found = await find_cached(life.db, "client", key)
    assert found is not None
    assert found.key.startswith(f"transform/{old}/result-")


async def test_cache_knows_no_empty_key_and_no_other_client(life: Jobs):
    await life.ended(cache_key="e" * 64)
    await life.ended()
    assert await find_cached(life.db, "other", "e" * 64) is None
    assert await find_cached(life.db, "client", "") is None


async def test_limits_hold_when_many_ask_in_the_same_moment(life: Jobs):
    tight = life.having(max_queued=5)
    asked = await asyncio.gather(*(tight.accept() for _ in range(12)), return_exceptions=True)
    refused = [one for one in asked if isinstance(one, TooManyRequests)]
    assert len(refused) + len(await tight.store.listed()) == 12
    if life.db.dialect == "sqlite":
        assert len(refused) == 7
    with pytest.raises(TooManyRequests):
        await tight.accept()
