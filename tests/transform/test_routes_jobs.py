"""Jobs from upload to result through a real sandbox: where Circe hung, strict uploads, cancelling, zips."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from typing import Any

import pytest
import pytest_asyncio

from tests.transform.job_stand import Caller, JobStand, files_of, job_of, tar_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def caller(working_stand: JobStand) -> Caller:
    return await working_stand.caller()


async def blocked(caller: Caller, body: bytes) -> dict[str, bytes]:
    """Files of the result of a job that is waited for."""
    async with asyncio.timeout(60):
        answer = await caller.post(body, "?block=1")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-tar")
    return files_of(answer.body)


def error_of(files: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(files["status.json"])["error"]


# Where Circe says 202 for ever, and hangs


@pytest.mark.parametrize(
    "body",
    [b"", b"no archive", tar_of({"a.txt": b"no job"}), tar_of({"job.json": b"no JSON"}), tar_of({"job.json": b"[]"})],
    ids=["empty", "no-archive", "no-job", "no-json", "no-object"],
)
async def test_upload_that_is_no_job_ends_as_bad_input(caller: Caller, body: bytes):
    found = await blocked(caller, body)
    assert error_of(found)["code"] == "bad_input"
    assert found["out.log"]


async def test_way_out_of_the_folder_is_refused_by_name(caller: Caller):
    found = await blocked(caller, tar_of({"job.json": b'{"transformations": []}', "../../x": b"out"}))
    assert error_of(found)["code"] == "bad_input"
    assert "path_escapes" in error_of(found)["message"]


# Strict


async def test_strict_takes_a_good_job(caller: Caller):
    job_id = await caller.submit(
        job_of({"name": "uppercase", "options": {"alphabet": "latin"}}, a_txt="a"), "?strict=1"
    )
    assert (await caller.get(f"/job/{job_id}/status?wait=30")).json["state"] == "succeeded"


async def test_strict_names_the_fields_that_do_not_fit(working_stand: JobStand, caller: Caller):
    body = job_of({"name": "uppercase", "options": {"alphabet": "runes"}}, "unheard_of")
    before = await working_stand.objects()
    answer = await caller.post(body, "?strict=1")
    assert (answer.status, answer.headers["Content-Type"]) == (422, "application/problem+json")
    assert {"transformations.0.options.alphabet", "transformations.1.name"} == answer.json["errors"]["json"].keys()
    assert (await working_stand.rows(caller.client), await working_stand.objects()) == ([], before)


async def test_strict_refuses_what_is_no_archive(working_stand: JobStand, caller: Caller):
    answer = await caller.post(b"no archive", "?strict=1")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert answer.json["detail"].startswith("bad_input: not_gzip")
    assert await working_stand.rows(caller.client) == []


# Cancelling


async def test_running_job_is_cancelled_and_keeps_what_it_had(caller: Caller):
    job_id = await caller.submit(job_of("nap", a_txt="a"))
    async with caller.http.get(f"/job/{job_id}/events", headers={"Authorization": caller.secret}) as events:
        async with asyncio.timeout(30):
            while b'"step": "nap"' not in await events.content.readline():
                pass
    assert (await caller.call("DELETE", f"/job/{job_id}")).status == 202
    told = (await caller.get(f"/job/{job_id}/status?wait=30")).json
    assert (told["state"], told["error"]["code"]) == ("cancelled", "cancelled")
    found = files_of((await caller.get(f"/job/{job_id}")).body)
    assert found["a.txt"] == b"a"
    assert b"good night" in found["out.log"]


# As a zip


async def test_result_of_a_sandbox_comes_as_a_zip(caller: Caller):
    job_id = await caller.submit(job_of("copy_here", "uppercase", a_txt="aä"))
    await caller.get(f"/job/{job_id}/status?wait=30")
    tar, packed = await caller.get(f"/job/{job_id}"), await caller.get(f"/job/{job_id}?zip=1")
    with zipfile.ZipFile(io.BytesIO(packed.body)) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    assert found == files_of(tar.body)
    assert found["a.txt"].decode() == "AÄ"
