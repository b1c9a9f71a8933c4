"""What a worker does around a job: cancels, boxes that die, zygotes that die, hooks, the cache, the drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway_transform.hooks.log import deliveries
from gateway_transform.work.service import SERVICE_KEY
from tests.transform.conftest import MODULES, MakeJobStand
from tests.transform.job_stand import Caller, JobStand, eventually, files_of, job_of, standing, tar_of

SETTINGS: dict[str, Any] = {"workers": 2, "modules": "worker_module", "webhook_backoff_s": (0, 0.05)}


@pytest.fixture(scope="module")
def worker_modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(MODULES))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(
    worker_modules: None, tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path
) -> AsyncIterator[JobStand]:
    async with standing(tmp_path_factory.mktemp("jobs"), SETTINGS, templates=gateway_templates) as stood:
        yield stood


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def caller(stand: JobStand) -> Caller:
    return await stand.caller()


async def status(caller: Caller, job_id: str, *, wait: int = 0) -> dict[str, Any]:
    return (await caller.get(f"/job/{job_id}/status?wait={wait}")).json


async def running_step(caller: Caller, job_id: str) -> None:
    async def shown() -> bool:
        return (await status(caller, job_id))["step"] == "hold"

    await eventually(shown)


async def result(caller: Caller, job_id: str) -> dict[str, bytes]:
    assert (await status(caller, job_id, wait=30))["state"] in {"succeeded", "failed", "cancelled"}
    return files_of((await caller.get(f"/job/{job_id}")).body)


def told(files: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(files["status.json"])


def log_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files["out.log"].splitlines()]


def processes(stand: JobStand) -> tuple[int, list[int]]:
    """The zygote, and its boxes."""
    zygote = stand.gateway.core.state[SERVICE_KEY].pool._zygote._process.pid
    return zygote, [int(pid) for pid in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()]


async def test_a_running_job_is_cancelled_with_what_it_has_made(stand: JobStand, caller: Caller):
    job_id = await caller.submit(job_of("hold"))
    await running_step(caller, job_id)
    assert (await caller.call("DELETE", f"/job/{job_id}")).status == 202
    files = await result(caller, job_id)
    assert told(files)["state"] == "cancelled"
    assert told(files)["error"]["code"] == "cancelled"
    assert [(step["name"], step["state"]) for step in told(files)["steps"]] == [("hold", "cancelled")]
    assert files["half.txt"] == b"half"


async def test_a_waiting_job_is_cancelled_without_being_run(make_job_stand: MakeJobStand, worker_modules: None):
    async with make_job_stand({**SETTINGS, "workers": 1}) as stand:
        caller = await stand.caller()
        first = await caller.submit(job_of("hold"))
        await running_step(caller, first)
        second = await caller.submit(job_of("hold"))
        await caller.call("DELETE", f"/job/{second}")
        await caller.call("DELETE", f"/job/{first}")
        files = await result(caller, second)
        assert (told(files)["state"], told(files)["attempt"], told(files)["steps"]) == ("cancelled", 0, [])


async def test_a_box_that_is_killed_fails_its_job_with_what_is_left(stand: JobStand, caller: Caller):
    job_id = await caller.submit(job_of("hold", kept_txt="kept"))
    await running_step(caller, job_id)
    for box in processes(stand)[1]:
        with suppress(ProcessLookupError):
            os.kill(box, signal.SIGKILL)
    files = await result(caller, job_id)
    assert (told(files)["state"], told(files)["error"]["code"]) == ("failed", "crashed")
    assert told(files)["error"]["step"] == "hold"
    assert (files["kept.txt"], files["half.txt"]) == (b"kept", b"half")
    assert "job.json" in files
    assert [line["message"] for line in log_of(files)][-2:] == ["holding", "the sandbox ended before the job"]


async def test_a_zygote_that_dies_is_replaced_and_jobs_go_on(make_job_stand: MakeJobStand, worker_modules: None):
    async with make_job_stand(SETTINGS) as stand:
        caller = await stand.caller()
        os.kill(processes(stand)[0], signal.SIGKILL)
        files = await result(caller, await caller.submit(job_of("random_bytes")))
        assert told(files)["state"] == "succeeded"


async def test_a_job_whose_upload_is_gone_fails_and_says_so(stand: JobStand, caller: Caller):
    busy = [await caller.submit(job_of("hold")) for _ in range(2)]
    for job_id in busy:
        await running_step(caller, job_id)
    job_id = await caller.submit(job_of("hold"))
    await stand.gateway.core.storage.delete(f"transform/{job_id}/input")
    for other in busy:
        await caller.call("DELETE", f"/job/{other}")
    found = await status(caller, job_id, wait=30)
    assert found["error"]["code"] == "failed"
    assert "upload" in found["error"]["message"]


async def test_limits_of_a_transformation_are_its_own(caller: Caller):
    found = await status(caller, await caller.submit(job_of("in_a_minute")), wait=30)
    assert found["error"]["code"] == "timeout"
    assert found["run_ms"] < 20_000


async def test_equal_files_and_steps_of_a_client_give_the_stored_result(stand: JobStand, caller: Caller):
    first = await result(caller, await caller.submit(job_of("random_bytes", a_txt="1")))
    again = await result(caller, await caller.submit(job_of("random_bytes", a_txt="1")))
    other_file = await result(caller, await caller.submit(job_of("random_bytes", a_txt="2")))
    other_client = await stand.caller()
    other = await result(other_client, await other_client.submit(job_of("random_bytes", a_txt="1")))
    assert again["random.bin"] == first["random.bin"]
    assert told(again)["steps"][0]["cached"] is True
    assert told(again)["id"] != told(first)["id"]
    assert len({found["random.bin"] for found in (first, other_file, other)}) == 3


async def test_a_stored_result_that_has_just_gone_is_made_again(stand: JobStand, caller: Caller):
    first = await caller.submit(job_of("random_bytes", a_txt="gone"))
    await result(caller, first)
    (key,) = await stand.objects(f"{first}/result")
    await stand.gateway.core.storage.delete(key)
    again = await result(caller, await caller.submit(job_of("random_bytes", a_txt="gone")))
    assert told(again)["state"] == "succeeded"
    assert "cached" not in told(again)["steps"][0]


async def test_a_row_that_cannot_be_read_does_not_end_the_worker(make_job_stand: MakeJobStand, worker_modules: None):
    async with make_job_stand({**SETTINGS, "workers": 1}) as stand:
        caller = await stand.caller()
        first = await caller.submit(job_of("hold"))
        await running_step(caller, first)
        unreadable = await caller.submit(job_of("hold"))
        await stand.change(unreadable, cancelling=True, error_code="of_another_version")
        await caller.call("DELETE", f"/job/{first}")
        last = await caller.submit(job_of("random_bytes"))
        assert (await status(caller, last, wait=20))["state"] == "succeeded"


async def test_only_a_step_that_asks_for_it_has_the_network(caller: Caller):
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        files = await result(caller, await caller.submit(job_of({"name": "try_to_connect", "options": {"port": port}})))
        assert "no way out" in [line["message"] for line in log_of(files)]
        assert heard.empty()
        found = await status(
            caller, await caller.submit(job_of({"name": "connect", "options": {"port": port}})), wait=30
        )
        assert found["state"] == "succeeded"
        assert await heard.get() == b"hello"


def hooked(url: str, *steps: str) -> bytes:
    listed = [{"name": step} for step in steps]
    return tar_of({"job.json": json.dumps({"transformations": listed, "notify_hook": url}).encode()})


@pytest.mark.parametrize(
    ("steps", "state"), [(["random_bytes"], "succeeded"), (["in_a_minute"], "failed")], ids=["succeeded", "failed"]
)
async def test_the_hook_is_called_when_the_result_can_be_fetched(caller: Caller, steps: list[str], state: str):
    seen: list[tuple[bytes, int]] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")).split()[1]
        )
        body = await reader.readexactly(length)
        job_id = body.decode().removeprefix("uuid=")
        seen.append((body, (await caller.get(f"/job/{job_id}")).status))
        writer.write(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        job_id = await caller.submit(hooked(f"http://127.0.0.1:{port}/", *steps))

        async def called() -> bool:
            return bool(seen)

        await eventually(called)
    assert seen == [(f"uuid={job_id}".encode(), 200)]
    assert (await status(caller, job_id))["state"] == state


async def test_a_refused_hook_is_a_warning_and_a_delivery_that_was_refused(stand: JobStand, caller: Caller):
    job_id = await caller.submit(hooked("ftp://example.org/", "random_bytes"))
    files = await result(caller, job_id)
    assert told(files)["state"] == "succeeded"
    assert log_of(files)[0]["level"] == "WARNING"
    (refused,) = await deliveries(stand.gateway.core, job_id)
    assert (refused.outcome, refused.try_number) == ("refused", 0)


async def test_a_job_that_a_drain_interrupts_is_handed_back(make_job_stand: MakeJobStand, worker_modules: None):
    async with make_job_stand(SETTINGS, drain_timeout_s=0.0) as stand:
        caller = await stand.caller()
        job_id = await caller.submit(job_of("hold"))
        await running_step(caller, job_id)
        data = stand.gateway.core.settings.data_dir
    async with make_job_stand({**SETTINGS, "workers": 0}) as stand:
        assert stand.gateway.core.settings.data_dir == data
        (row,) = await stand.rows()
        assert (row.id, row.state, row.attempt) == (job_id, "queued", 0)


async def test_warm_boxes_are_replaced_when_modules_are_to_be_loaded_first(stand: JobStand, caller: Caller):
    pool = stand.gateway.core.state[SERVICE_KEY].pool
    before = set(processes(stand)[1])
    await pool.preload(("colorsys",))

    async def replaced() -> bool:
        boxes = set(processes(stand)[1])
        return len(boxes) >= 2 and not boxes & before

    await eventually(replaced)
    assert (await status(caller, await caller.submit(job_of("random_bytes")), wait=30))["state"] == "succeeded"


async def test_a_strict_upload_that_is_refused_leaves_nothing(stand: JobStand, caller: Caller):
    before = await stand.objects()
    answer = await caller.post(job_of("no_such_step"), "?strict=1")
    assert answer.status == 422
    assert "no_such_step" in answer.text
    assert await stand.rows(caller.client) == []
    assert await stand.objects() == before


async def test_a_job_whose_zygote_dies_runs_again(make_job_stand: MakeJobStand, worker_modules: None):
    async with make_job_stand({**SETTINGS, "lease_s": 3}) as stand:
        caller = await stand.caller()
        job_id = await caller.submit(job_of({"name": "hold", "options": {"seconds": 0.5}}))
        await eventually(lambda: _running(caller, job_id))
        os.kill(processes(stand)[0], signal.SIGKILL)
        found = await status(caller, job_id, wait=30)
        assert (found["state"], found["attempt"]) == ("succeeded", 2)


async def _running(caller: Caller, job_id: str) -> bool:
    return (await status(caller, job_id))["state"] == "running"


async def test_a_stored_upload_that_is_damaged_fails_its_job(stand: JobStand, caller: Caller):
    busy = [await caller.submit(job_of("hold")) for _ in range(2)]
    for job_id in busy:
        await running_step(caller, job_id)
    job_id = await caller.submit(job_of("random_bytes"))
    path = stand.gateway.core.storage.local_path(f"transform/{job_id}/input")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    for other in busy:
        await caller.call("DELETE", f"/job/{other}")
    found = await status(caller, job_id, wait=30)
    assert found["error"]["code"] == "bad_input"
