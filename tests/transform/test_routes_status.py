"""How a job is, while it lives and at its end: status, waiting, events, DELETE."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import ClientResponse

from gateway_transform.jobs.model import ErrorCode, JobError, JobState
from tests.transform.conftest import MakeJobStand
from tests.transform.job_stand import NO_JOB, Caller, JobStand

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAILED = {"state": JobState.FAILED, "error": JobError(ErrorCode.TIMEOUT, "too slow", "nap")}


async def next_event(answer: ClientResponse) -> dict[str, Any] | None:
    """Data of the next event, None at the end of the stream."""
    lines: list[str] = []
    async with asyncio.timeout(10):
        while line := (await answer.content.readline()).decode():
            if line == "\n" and lines:
                break
            if not line.startswith(":"):
                lines.append(line.rstrip("\n"))
    if not lines:
        return None
    assert lines[0] == "event: status"
    return json.loads(lines[1].removeprefix("data: "))


async def test_status_of_a_waiting_job(caller: Caller):
    job_id = await caller.submit()
    answer = await caller.get(f"/job/{job_id}/status")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    told = answer.json
    assert (told["id"], told["state"], told["error"], told["attempt"]) == (job_id, "queued", None, 0)
    assert (told["queued_ms"], told["run_ms"], told["steps"], told["expires"]) == (0, 0, [], None)


async def test_position_counts_the_jobs_before(caller: Caller):
    found = [await caller.submit() for _ in range(3)]
    first, *others = [(await caller.get(f"/job/{job_id}/status")).json["position"] for job_id in found]
    assert others == [first + 1, first + 2]


async def test_status_of_a_failed_job_says_why_and_how_long_it_is_kept(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, b"a result", **FAILED)
    told = (await caller.get(f"/job/{job_id}/status")).json
    assert told["state"] == "failed"
    assert told["error"] == {"code": "timeout", "message": "too slow", "step": "nap"}
    assert told["expires"] == pytest.approx(told["ended"] + job_stand.settings.keep_s, abs=1)


async def test_status_waits_for_the_end(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    claim = await job_stand.claim(job_id)
    waiting = asyncio.create_task(caller.get(f"/job/{job_id}/status?wait=30"))
    await job_stand.publish(claim, b"a result")
    assert (await waiting).json["state"] == "succeeded"


async def test_status_waits_no_longer_than_asked(caller: Caller):
    job_id = await caller.submit()
    assert (await caller.get(f"/job/{job_id}/status?wait=0.05")).json["state"] == "queued"


@pytest.mark.parametrize("wait", ["61", "-1", "long", "nan"])
async def test_wait_that_cannot_be_is_422(caller: Caller, wait: str):
    answer = await caller.get(f"/job/{NO_JOB}/status?wait={wait}")
    assert (answer.status, list(answer.json["errors"]["query"])) == (422, ["wait"])


async def test_waiting_ends_when_the_gateway_drains(make_job_stand: MakeJobStand):
    async with make_job_stand() as stand:
        caller = await stand.caller()
        job_id = await caller.submit()
        waiting = asyncio.create_task(caller.get(f"/job/{job_id}/status?wait=60"))
        stand.gateway.core.draining.set()
        async with asyncio.timeout(10):
            assert (await waiting).json["state"] == "queued"


async def test_events_tell_every_state_and_end_with_the_job(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    path, headers = f"/job/{job_id}/events", {"Authorization": caller.circe(job_id)}
    async with caller.http.get(path, headers=headers) as answer:
        assert answer.content_type == "text/event-stream"
        seen = [await next_event(answer)]
        claim = await job_stand.claim(job_id)
        seen.append(await next_event(answer))
        await job_stand.publish(claim, b"a result")
        seen.append(await next_event(answer))
        assert [event["state"] for event in seen] == ["queued", "running", "succeeded"]
        assert await next_event(answer) is None
    assert seen[-1] == (await caller.get(f"/job/{job_id}/status")).json


async def test_events_of_a_job_that_has_ended_are_one(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, b"a result")
    answer = await caller.get(f"/job/{job_id}/events")
    assert answer.text.count("event: status") == 1


async def test_events_end_when_the_job_is_erased_meanwhile(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    async with caller.http.get(f"/job/{job_id}/events", headers={"Authorization": caller.secret}) as answer:
        await next_event(answer)
        await job_stand.forget(job_id)
        assert await next_event(answer) is None


async def test_events_end_when_the_gateway_closes(make_job_stand: MakeJobStand):
    async with make_job_stand() as stand:
        caller = await stand.caller()
        job_id = await caller.submit()
        async with caller.http.get(f"/job/{job_id}/events", headers={"Authorization": caller.secret}) as answer:
            await next_event(answer)
            stand.gateway.core.closing.set()
            assert await next_event(answer) is None


async def test_delete_of_a_waiting_job_cancels_it(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    answer = await caller.call("DELETE", f"/job/{job_id}")
    assert (answer.status, answer.json["state"], answer.json["cancelling"]) == (202, "queued", True)
    claim = await job_stand.claim(job_id)
    assert claim.verdict.code is ErrorCode.CANCELLED


async def test_delete_of_a_running_job_asks_its_worker_to_cancel(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    await job_stand.claim(job_id)
    answer = await caller.call("DELETE", f"/job/{job_id}")
    assert (answer.status, answer.json["state"], answer.json["cancelling"]) == (202, "running", True)


async def test_delete_wakes_who_can_do_something_about_it(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    await job_stand.claim(job_id)
    with job_stand.gateway.core.wakeups.subscribe("transform:cancel") as cancels:
        await caller.call("DELETE", f"/job/{job_id}")
        assert await cancels.wait(5)


async def test_delete_of_an_ended_job_erases_it_with_its_files(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, b"a result", **FAILED)
    assert len(await job_stand.objects(job_id)) == 2
    answer = await caller.call("DELETE", f"/job/{job_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert (await job_stand.rows(caller.client), await job_stand.objects(job_id)) == ([], [])
    for method in ("GET", "DELETE"):
        assert (await caller.call(method, f"/job/{job_id}")).status == 404


async def test_delete_of_an_expired_job_forgets_it(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, b"a result")
    await job_stand.change(job_id, expires=1.0)
    assert (await caller.call("DELETE", f"/job/{job_id}")).status == 204
    assert (await caller.get(f"/job/{job_id}?gone=1")).status == 404


@pytest.mark.parametrize("path", ["/status", "/events", ""])
async def test_unknown_job_is_404(caller: Caller, path: str):
    answer = await caller.get(f"/job/{NO_JOB}{path}")
    assert (answer.status, answer.text) == (404, "Not Found")
