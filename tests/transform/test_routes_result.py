"""``GET /job/<id>``: as Circe's clients know it, and all that HTTP makes of it; from files and from object stores."""

from __future__ import annotations

import asyncio
import io
import os
import time
import uuid
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio

from gateway_core import hookimpl
from gateway_core.http.conditional import parse_http_date
from gateway_core.storage.local import LocalStorage
from gateway_transform.jobs.model import ErrorCode, JobError, JobState
from tests.transform.job_stand import NO_JOB, Answer, Caller, JobStand, standing, tar_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = b"0123456789" * 10
LARGE = os.urandom(3 << 20)


class PathlessStorage(LocalStorage):
    """A storage that no other program can read, as an object store is."""

    def local_path(self, key: str) -> Path | None:
        return None


def pathless_plugin(root: Path) -> object:
    @hookimpl
    def gateway_storages():
        return {"pathless": lambda *_: PathlessStorage(root)}

    return SimpleNamespace(gateway_storages=gateway_storages)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["file", "object"])
async def job_stand(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path
) -> AsyncIterator[JobStand]:
    folder, extra, core = tmp_path_factory.mktemp("jobs"), None, {}
    if request.param == "object":
        extra = {"pathless": pathless_plugin(folder / "objects")}
        core = {"plugins": "transform,pathless", "storage_url": "pathless://"}
    async with standing(folder / "gateway", templates=gateway_templates, extra=extra, **core) as stood:
        yield stood


def lasting(answer: Answer) -> dict[str, str]:
    """Headers without those that every answer has anew."""
    headers = {name.title(): value for name, value in answer.headers.items()}
    return {name: value for name, value in headers.items() if name not in {"Date", "X-Request-Id"}}


# As in Circe


async def test_job_that_has_not_ended_is_202_accepted(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit()
    for _ in range(2):
        answer = await caller.get(f"/job/{job_id}")
        assert (answer.status, answer.text, answer.headers["Content-Type"]) == (
            202,
            "Accepted",
            "text/plain; charset=utf-8",
        )
        if (await job_stand.rows(caller.client))[0].state == "queued":
            await job_stand.claim(job_id)


@pytest.mark.parametrize(
    "job_id", [NO_JOB, str(uuid.UUID(NO_JOB)), "x", "0", NO_JOB[1:], f"{NO_JOB}0", "0-" * 32, "%00", "..%2f..", "é"]
)
async def test_what_is_no_job_is_404_not_found(caller: Caller, job_id: str):
    answer = await caller.get(f"/job/{job_id}")
    assert (answer.status, answer.text, answer.headers["Content-Type"]) == (
        404,
        "Not Found",
        "text/plain; charset=utf-8",
    )


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_result_comes_whole_and_never_encoded(job_stand: JobStand, caller: Caller, data: bytes):
    job_id = await job_stand.ended(caller, data)
    answer = await caller.get(f"/job/{job_id}", **{"Accept-Encoding": "gzip, deflate"})
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/x-tar", data)
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Content-Length"] == str(len(data))
    assert "Content-Disposition" not in answer.headers


@pytest.mark.parametrize("write", [str, str.upper], ids=["lower", "upper"])
async def test_id_may_have_dashes_and_capitals(job_stand: JobStand, caller: Caller, write):
    job_id = await job_stand.ended(caller, SMALL)
    assert (await caller.get(f"/job/{write(str(uuid.UUID(job_id)))}")).body == SMALL


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
async def test_job_that_failed_has_a_result_too(job_stand: JobStand, caller: Caller, state: JobState):
    job_id = await job_stand.ended(caller, SMALL, state=state, error=JobError(ErrorCode.FAILED))
    answer = await caller.get(f"/job/{job_id}")
    assert (answer.status, answer.body) == (200, SMALL)


# Beyond


async def test_result_tells_its_time_its_end_and_its_digest(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, SMALL)
    headers = (await caller.get(f"/job/{job_id}")).headers
    told = (await caller.get(f"/job/{job_id}/status")).json
    assert headers["ETag"] == f'"{told["result_sha256"]}"'
    assert parse_http_date(headers["Expires"]) == int(told["expires"])
    assert parse_http_date(headers["Last-Modified"]) <= time.time()


async def test_head_says_what_get_would(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, LARGE)
    got, head = await caller.get(f"/job/{job_id}"), await caller.call("HEAD", f"/job/{job_id}")
    assert (head.status, head.body) == (200, b"")
    assert lasting(head) == lasting(got)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_range_gives_its_bytes(job_stand: JobStand, caller: Caller, data: bytes):
    job_id, size = await job_stand.ended(caller, data), len(data)
    for asked, first, last in [("5-9", 5, 9), ("50-", 50, size - 1), ("-7", size - 7, size - 1)]:
        answer = await caller.get(f"/job/{job_id}", Range=f"bytes={asked}")
        assert (answer.status, answer.body) == (206, data[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"


async def test_several_ranges_come_as_parts(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, LARGE)
    answer = await caller.get(f"/job/{job_id}", Range="bytes=0-99,100000-299999")
    boundary = answer.headers["Content-Type"].removeprefix("multipart/byteranges; boundary=").encode()
    parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in answer.body.split(b"--" + boundary)[1:-1]]
    assert (answer.status, parts) == (206, [LARGE[:100], LARGE[100_000:300_000]])


async def test_range_beyond_the_end_is_416(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, SMALL)
    answer = await caller.get(f"/job/{job_id}", Range="bytes=100-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */100")


async def test_conditions_are_obeyed(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, SMALL)
    path, headers = f"/job/{job_id}", (await caller.get(f"/job/{job_id}")).headers
    tag, moment = headers["ETag"], headers["Last-Modified"]
    unchanged = await caller.get(path, **{"If-None-Match": tag})
    assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", tag)
    assert (await caller.get(path, **{"If-Modified-Since": moment})).status == 304
    assert (await caller.get(path, **{"If-Match": '"another"'})).status == 412
    assert (await caller.get(path, **{"Range": "bytes=0-9", "If-Range": tag})).status == 206
    assert (await caller.get(path, **{"Range": "bytes=0-9", "If-Range": '"another"'})).status == 200


async def test_expired_result_is_404_or_410_for_who_asks(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, SMALL)
    await job_stand.change(job_id, expires=1.0)
    assert [(await caller.get(f"/job/{job_id}{query}")).status for query in ("", "?gone=1")] == [404, 410]
    assert (await caller.get(f"/job/{job_id}/status")).json["state"] == "expired"


async def test_result_whose_object_is_gone_is_404(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, LARGE)
    for key in await job_stand.objects(job_id):
        await job_stand.gateway.core.storage.delete(key)
    answer = await caller.get(f"/job/{job_id}")
    assert (answer.status, answer.text) == (404, "Not Found")


# As a zip

FILES = {"job.json": b"{}", "out.log": b"", "a/deep/ä.txt": b"text " * 1000, "image.bin": LARGE}


async def test_zip_holds_the_files_of_the_result(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, tar_of(FILES))
    answer = await caller.get(f"/job/{job_id}?zip=1")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/zip")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job_id}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES


async def test_zip_can_be_resumed_with_its_own_tag(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, tar_of(FILES))
    path = f"/job/{job_id}?zip=1"
    whole, head = await caller.get(path), await caller.call("HEAD", path)
    assert head.headers["Content-Length"] == str(len(whole.body))
    tag = whole.headers["ETag"]
    assert tag != (await caller.get(f"/job/{job_id}")).headers["ETag"]
    rest = await caller.get(path, **{"Range": "bytes=1000-", "If-Range": tag})
    assert (rest.status, rest.body) == (206, whole.body[1000:])
    assert (await caller.get(path, **{"If-None-Match": tag})).status == 304


async def test_empty_zip_means_the_tar(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, SMALL)
    assert (await caller.get(f"/job/{job_id}?zip=")).body == SMALL


async def test_result_that_is_no_archive_makes_no_zip(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, tar_of(FILES)[:-20])
    answer = await caller.get(f"/job/{job_id}?zip=1")
    assert (answer.status, answer.headers["Content-Type"]) == (502, "application/problem+json")


async def test_zips_leave_no_file(job_stand: JobStand, caller: Caller):
    job_id = await job_stand.ended(caller, tar_of(FILES))
    await caller.get(f"/job/{job_id}?zip=1")
    left = [path for path in job_stand.gateway.core.scratch_dir.rglob("*") if path.is_file()]
    assert [path.name for path in left] == [".lock"] * len(left)


async def test_whoever_asks_again_at_once_is_answered_when_the_job_ends(
    job_stand: JobStand, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway_transform.web.eager.HOLD_S", 60.0)
    job_id = await caller.submit()
    assert (await caller.get(f"/job/{job_id}")).status == 202
    asking = asyncio.create_task(caller.get(f"/job/{job_id}"))
    await job_stand.end(job_id, b"the result")
    answer = await asking
    assert (answer.status, answer.body) == (200, b"the result")


async def test_whoever_asks_for_many_jobs_in_turn_is_not_held(caller: Caller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway_transform.web.eager.HOLD_S", 60.0)
    ids = [await caller.submit() for _ in range(3)]
    assert [(await caller.get(f"/job/{job_id}")).status for job_id in ids] == [202, 202, 202]
