"""The client library of Circe, as it is, against the gateway; transformations as they were written for Circe."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import circe_client
import pytest
import pytest_asyncio

from tests.transform.job_stand import JobStand

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = TypeVar("T")


@pytest_asyncio.fixture(loop_scope="module")
async def circe(working_stand: JobStand) -> circe_client.Client:
    client, secret = await working_stand.gateway.add_client()
    return circe_client.Client(f"{working_stand.gateway.url}/", secret, client.id)


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("grün und blau\n", encoding="utf-8")
    return str(path)


async def call(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Run what blocks in a thread: the gateway is in this event loop."""
    async with asyncio.timeout(60):
        return await asyncio.to_thread(function, *arguments, **named)


def documents(job: circe_client.Job) -> dict[str, bytes]:
    return {name: file.read() for name, file in job.result.documents}


def log_of(job: circe_client.Job) -> list[dict[str, Any]]:
    return list(job.result.log)


async def test_available_transformations_are_an_object_by_name(circe: circe_client.Client):
    found = await call(circe.available_transformations)
    assert "uppercase" in found
    assert found["nap"] | {"label": "Nap", "help": "Sleeps", "options": []} == found["nap"]
    assert found["uppercase"]["options"] == [
        {
            "id": "alphabet",
            "label": "Alphabet",
            "default": "all",
            "free_input": False,
            "values": {"all": "All letters", "latin": "Latin letters only"},
        }
    ]


async def test_callable_without_description_is_described_by_its_name(circe: circe_client.Client):
    found = (await call(circe.available_transformations))["explode"]
    assert {key: found[key] for key in ("label", "help", "options")} == {
        "label": "explode",
        "help": "explode",
        "options": [],
    }


async def test_limits_are_told_beside_circes_keys(working_stand: JobStand, circe: circe_client.Client):
    found = (await call(circe.available_transformations))["nap"]
    assert found["limits"] == {
        "seconds": working_stand.settings.job_timeout_s,
        "memory_mb": working_stand.settings.memory_mb,
        "network": False,
    }
    assert (found["version"], found["deterministic"]) == ("", False)


async def test_blocking_job_brings_its_documents(circe: circe_client.Client, text_file: str):
    job = circe.new_job().add_file(text_file).add_transformation("uppercase")
    await call(circe.send, job, wait=True)
    assert documents(job)["words.txt"].decode() == "GRÜN UND BLAU\n"


async def test_steps_run_in_order_in_one_folder_and_folders_are_kept(circe: circe_client.Client, text_file: str):
    job = circe.new_job().add_file(text_file, "in.txt")
    job.add_transformation("copy_here", {"folder": "before"}).add_transformation("uppercase").add_transformation(
        "Count"
    )
    await call(circe.send, job, wait=True)
    found = documents(job)
    assert found["before/in.txt"].decode() == "grün und blau\n"
    assert found["in.txt"].decode() == "GRÜN UND BLAU\n"
    assert found["count.txt"].isdigit()


async def test_asynchronous_job_has_an_id_and_is_fetched_when_it_is_done(circe: circe_client.Client, text_file: str):
    job = circe.new_job().add_file(text_file).add_transformation("uppercase")
    await call(circe.send, job)
    assert re.fullmatch(r"[0-9a-f]{32}", job.uuid)
    await call(circe.poll, job, poll_interval=0)
    fetched = circe.new_job()
    fetched.uuid = job.uuid
    await call(circe.fetch, fetched)
    assert documents(fetched) == documents(job)
    assert documents(job)["words.txt"].decode() == "GRÜN UND BLAU\n"


async def test_job_that_runs_is_not_fetched_yet(working_stand: JobStand, circe: circe_client.Client):
    job = circe.new_job().add_transformation("nap", {"seconds": 60})
    await call(circe.send, job)
    await call(circe.fetch, job)
    assert job.result is None
    with pytest.raises(circe_client.TimeoutException):
        await call(circe.poll, job, timeout=-1)
    async with working_stand.http.delete(f"/job/{job.uuid}", headers={"Authorization": circe.secret_key}) as answer:
        assert answer.status == 202


async def test_log_is_read_line_by_line(circe: circe_client.Client, text_file: str):
    job = circe.new_job().add_file(text_file).add_transformation("uppercase").add_transformation("unheard_of")
    await call(circe.send, job, wait=True)
    lines = log_of(job)
    told = [(line["level"], line["message"]) for line in lines]
    assert told == [
        ("INFO", "Executing transformation uppercase"),
        ("INFO", "file converted"),
        ("WARNING", "No such transformation: unheard_of"),
    ]
    assert (lines[1]["file"], lines[1]["letters"]) == ("words.txt", 14)
    for line in lines:
        assert list(line)[:4] == ["timestamp", "level", "name", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
        assert re.fullmatch(r"job_logger_[0-9a-f]{32}", line["name"])
    assert all("time" in line for line in (lines[0], lines[2]))


async def test_result_has_the_job_and_its_log_at_the_root(circe: circe_client.Client, text_file: str, tmp_path: Path):
    job = circe.new_job().add_file(text_file).add_transformation("uppercase")
    await call(circe.send, job, wait=True, destination_file=str(tmp_path / "result.tar.gz"))
    with tarfile.open(tmp_path / "result.tar.gz", "r:gz") as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
    assert found.keys() == {"job.json", "out.log", "status.json", "words.txt"}
    assert json.loads(found["job.json"])["transformations"] == [{"name": "uppercase", "options": {}}]
    status = json.loads(found["status.json"])
    assert (status["state"], status["error"]) == ("succeeded", None)
    assert status["outputs"]["words.txt"]["sha256"] == hashlib.sha256(found["words.txt"]).hexdigest()


async def test_job_that_fails_answers_a_blocking_client_with_its_log(circe: circe_client.Client, text_file: str):
    job = circe.new_job().add_file(text_file).add_transformation("explode").add_transformation("uppercase")
    await call(circe.send, job, wait=True)
    assert documents(job)["words.txt"].decode() == "grün und blau\n"
    status = json.loads(documents(job)["status.json"])
    assert (status["state"], status["error"]["code"], status["error"]["step"]) == ("failed", "failed", "explode")
    assert [step["state"] for step in status["steps"]] == ["failed", "skipped"]
    assert [line["message"] for line in log_of(job)][:2] == [
        "Executing transformation explode",
        "this will not go well",
    ]
    assert "it did not go well" in json.dumps(log_of(job)[2:])


async def test_credentials_file_is_taken(working_stand: JobStand, text_file: str, tmp_path: Path):
    client, secret = await working_stand.gateway.add_client()
    path = tmp_path / "credentials.json"
    endpoint = f"{working_stand.gateway.url}/"
    path.write_text(json.dumps({"uuid": client.id, "title": client.name, "secret": secret, "endpoint": endpoint}))
    circe = circe_client.Client(credentials_file_path=str(path))
    job = circe.new_job().add_file(text_file)
    await call(circe.send, job, wait=True)
    assert documents(job)["words.txt"].decode() == "grün und blau\n"


@pytest.mark.parametrize("wait", [False, True])
async def test_wrong_secret_is_access_denied(circe: circe_client.Client, text_file: str, wait: bool):
    wrong = circe_client.Client(circe.endpoint, "another secret", circe.application_uuid)
    with pytest.raises(circe_client.AccessDenied):
        await call(wrong.send, wrong.new_job().add_file(text_file), wait=wait)


async def test_unknown_client_is_access_denied(circe: circe_client.Client, text_file: str):
    unknown = circe_client.Client(circe.endpoint, circe.secret_key, "0" * 32)
    with pytest.raises(circe_client.AccessDenied):
        await call(unknown.send, unknown.new_job().add_file(text_file))


async def test_job_of_another_client_is_never_fetched(
    working_stand: JobStand, circe: circe_client.Client, text_file: str
):
    job = circe.new_job().add_file(text_file).add_transformation("uppercase")
    await call(circe.send, job)
    await call(circe.poll, job, poll_interval=0)
    client, secret = await working_stand.gateway.add_client()
    other = circe_client.Client(circe.endpoint, secret, client.id)
    stolen = other.new_job()
    stolen.uuid = job.uuid
    await call(other.fetch, stolen)
    assert stolen.result is None
