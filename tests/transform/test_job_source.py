"""``job:<id>/<path>`` as a source."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import zipfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from gateway_core import (
    Client,
    Gateway,
    Role,
    SourceChanged,
    SourceFailed,
    SourceGone,
    SourceRefused,
    SourceRequest,
    SourceStalled,
)
from gateway_core.app.compose import compose
from gateway_core.settings import Inputs
from gateway_core.testing import SourceConformance, running_gateway
from gateway_transform import plugin
from gateway_transform.source import JobSource
from gateway_transform.tables import jobs
from tests.transform.job_stand import tar_of
from tests.transform.rows import add_job

OWNER = Client("1" * 32, "owner", frozenset({"transform:run"}))
OTHER = Client("2" * 32, "other", frozenset({"transform:run"}))
LARGE = os.urandom(600_000)


class Results:
    """Stored results, and the source that reads them: also a bed for the conformance suite."""

    owner = OWNER
    stranger = Client("3" * 32, "stranger", frozenset({"archive:ticket"}))

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.source = JobSource(gateway)
        self._jobs: dict[str, str] = {}

    async def put(self, name: str, data: bytes) -> str:
        archive = tar_of({"job.json": b"{}", "first.bin": LARGE, f"some folder/{name}": data, "last.bin": LARGE})
        if name in self._jobs:
            await self.change(self._jobs[name], **await self.store(f"transform/{name}", archive))
        else:
            self._jobs[name] = await self.job(name, archive)
        return f"job:{self._jobs[name]}/some%20folder/{name}"

    async def remove(self, name: str) -> None:
        async with self.gateway.db.write() as tx:
            await tx.execute(sa.delete(jobs).where(jobs.c.id == self._jobs[name]))

    async def store(self, key: str, archive: bytes) -> dict[str, Any]:
        """Columns of a job whose result it is."""
        async with self.gateway.storage.writer(key) as writer:
            await writer.write(archive)
            stored = await writer.commit()
        return {"result_key": key, "result_sha256": stored.sha256, "result_bytes": stored.size_bytes}

    async def job(self, name: str, archive: bytes, **columns: Any) -> str:
        """A job of OWNER that has ended, unless ``columns`` say otherwise."""
        result = await self.store(f"transform/{name}", archive)
        return await add_job(self.gateway, **{"client_id": OWNER.id, **result, **columns})

    async def change(self, job_id: str, **columns: Any) -> None:
        async with self.gateway.db.write() as tx:
            await tx.execute(sa.update(jobs).where(jobs.c.id == job_id).values(columns))

    async def read(self, url: str, client: Client = OWNER, **request: Any) -> bytes:
        async with asyncio.timeout(20), self.source.open(SourceRequest(url, client=client, **request)) as stream:
            return b"".join([chunk async for chunk in stream])


@asynccontextmanager
async def results_in(folder: Path, templates: Path, **section: Any) -> AsyncIterator[Results]:
    """A gateway that is opened and not running."""
    plugged = SimpleNamespace(gateway_settings=plugin.gateway_settings, gateway_migrations=plugin.gateway_migrations)
    options = {"data_dir": folder, "plugins": ("plugged",), "plugged": section}
    gateway = compose(Inputs(options=options), role=Role.CLI, extra={"plugged": plugged}).gateway
    gateway.make_data_dir()
    template, file = templates / "job-source.db", folder / "gateway.db"
    if template.exists():
        shutil.copy(template, file)
    async with gateway.opened():
        await gateway.ensure_schema()
        if not template.exists():
            shutil.copy(file, template)
        yield Results(gateway)


@pytest.fixture
async def results(tmp_path: Path, gateway_templates: Path) -> AsyncIterator[Results]:
    async with results_in(tmp_path, gateway_templates) as found:
        yield found


class TestJobSource(SourceConformance):
    @pytest.fixture
    async def bed(self, results: Results) -> Results:
        return results


async def test_somebody_elses_job_is_not_there(results):
    url = await results.put("a", b"alpha")
    with pytest.raises(SourceRefused, match="no such job"):
        await results.source.check(url, OTHER)
    with pytest.raises(SourceGone, match="no such job"):
        await results.read(url, OTHER)


async def test_where_jobs_need_no_client_neither_do_their_files(tmp_path, gateway_templates):
    async with results_in(tmp_path, gateway_templates, use_auth=False) as results:
        job_id = await results.job("a", tar_of({"a": b"alpha"}), client_id="")
        assert await results.read(f"job:{job_id}/a", results.stranger) == b"alpha"


async def test_ids_may_have_dashes_and_schemes_capitals(results):
    job_id = await results.job("a", tar_of({"a": b"alpha"}))
    parts = (job_id[:8], job_id[8:12], job_id[12:16], job_id[16:20], job_id[20:])
    assert await results.read(f"JOB:{'-'.join(parts).upper()}/a") == b"alpha"


@pytest.mark.parametrize(
    "columns",
    [
        {"state": "queued", "ended": None, "result_key": ""},
        {"state": "running", "ended": None, "result_key": ""},
        {"expires": 1.0},
        {"state": "expired", "expires": 1e12, "result_key": ""},
    ],
)
async def test_a_job_without_a_result_has_no_files(results, columns):
    job_id = await results.job("a", tar_of({"a": b"alpha"}), **columns)
    await results.source.check(f"job:{job_id}/a", OWNER)
    with pytest.raises(SourceGone, match="the job is"):
        await results.read(f"job:{job_id}/a")


async def test_a_result_that_was_deleted_is_gone(results):
    job_id = await results.job("a", tar_of({"a": b"alpha"}))
    await results.gateway.storage.delete("transform/a")
    with pytest.raises(SourceGone, match="not kept"):
        await results.read(f"job:{job_id}/a")


@pytest.mark.parametrize("path", ["some", "some/other", "nothing", "SOME/A"])
async def test_folders_and_other_names_are_not_there(results, path):
    job_id = await results.job("a", tar_of({"some/a": b"alpha"}))
    with pytest.raises(SourceGone, match="no such file"):
        await results.read(f"job:{job_id}/{path}")


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "./a", "../a", "a/..", "%2e%2e/a", "a//b", "a%5cb", "a%00", "%ff", "a?b"]
)
async def test_only_paths_of_results_are_taken(results, path):
    with pytest.raises(SourceRefused):
        await results.source.check(f"job:{'0' * 32}/{path}", OWNER)


async def test_names_in_any_script_are_found(results):
    job_id = await results.job("a", tar_of({"Übersicht/日本 #1?.pdf": b"alpha"}))
    url = f"job:{job_id}/%C3%9Cbersicht/%E6%97%A5%E6%9C%AC%20%231%3F.pdf"
    info = await results.source.probe(SourceRequest(url, client=OWNER))
    assert (info.name, info.media_type, info.size_bytes) == ("日本 #1?.pdf", "application/pdf", 5)


async def test_damage_behind_the_file_is_told_before_its_end(results):
    archive = bytearray(tar_of({"a": b"alpha", "b": LARGE}))
    archive[-len(LARGE) // 2] ^= 1
    job_id = await results.job("a", bytes(archive))
    with pytest.raises(SourceFailed, match="damaged"):
        await results.read(f"job:{job_id}/a")


async def test_bytes_that_rotted_in_the_storage_are_told(results):
    job_id = await results.job("a", tar_of({"a": b"alpha"}))
    path = results.gateway.storage.local_path("transform/a")
    data = bytearray(path.read_bytes())
    data[5] ^= 1  # the time in gzip's header, which no checksum of gzip covers
    path.write_bytes(data)
    with pytest.raises(SourceFailed, match="cannot be read"):
        await results.read(f"job:{job_id}/a")


async def test_another_result_is_another_version(results):
    url = await results.put("a", b"alpha")
    validator = (await results.source.probe(SourceRequest(url, client=OWNER))).validator
    assert await results.read(url, validator=validator, offset=2) == b"pha"
    await results.put("a", b"other")
    with pytest.raises(SourceChanged):
        await results.read(url, validator=validator)


class Stalling:
    """A storage that sends nothing."""

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def silence() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield key.encode()

        yield silence()


async def test_a_storage_that_is_silent_is_not_waited_for(results):
    job_id = await results.job("a", tar_of({"a": b"alpha"}))
    results.gateway.storage = Stalling()
    with pytest.raises(SourceStalled):
        await results.read(f"job:{job_id}/a", stall_s=0.05)


async def test_who_leaves_a_silent_storage_leaves_no_thread_behind(results):
    job_id = await results.job("a", tar_of({"a": b"alpha"}))
    storage, results.gateway.storage = results.gateway.storage, Stalling()
    waiting = [asyncio.create_task(results.read(f"job:{job_id}/a")) for _ in range(10)]
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    for task in waiting:
        task.cancel()
    await asyncio.wait_for(asyncio.wait(waiting), 10)
    assert all(task.cancelled() for task in waiting)
    results.gateway.storage = storage
    assert zlib.crc32(await results.read(f"job:{job_id}/a")) == zlib.crc32(b"alpha")


async def test_a_zip_of_results_for_whom_they_belong_to(tmp_path, gateway_templates):
    settings = {"plugins": "archive,transform", "transform": {"workers": 0}}
    async with (
        running_gateway(tmp_path / "gateway", settings=settings, templates=gateway_templates) as gateway,
        gateway.session() as session,
        asyncio.timeout(20),
    ):
        owner, secret = await gateway.add_client("transform:run", "archive:ticket")
        results = Results(gateway.core)
        job_id = await results.job("a", tar_of({"a.txt": b"alpha", "pages/1.png": LARGE}), client_id=owner.id)
        order = {"items": [f"job:{job_id}/a.txt", f"job:{job_id}/pages/1.png"]}
        async with session.post("/ticket/generate", json=order, headers={"Authorization": secret}) as answer:
            ticket = (await answer.json())["id"]
        async with session.get(f"/ticket/{ticket}/download") as answer:
            with zipfile.ZipFile(io.BytesIO(await answer.read())) as archive:
                assert {name: archive.read(name) for name in archive.namelist()} == {"a.txt": b"alpha", "1.png": LARGE}
        _, other = await gateway.add_client("transform:run", "archive:ticket")
        async with session.post("/ticket/generate", json=order, headers={"Authorization": other}) as answer:
            assert answer.status == 422
            assert "no such job" in await answer.text()
