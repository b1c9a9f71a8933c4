"""What the tests of the routes stand on: a gateway that takes jobs, clients of it, and a worker's hands."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from aiohttp import ClientSession
from multidict import CIMultiDictProxy

from gateway_core import Client
from gateway_core.testing import RunningGateway, running_gateway
from gateway_transform.jobs.claims import Claims
from gateway_transform.jobs.model import Claim, JobError, JobState, Outcome, Upload
from gateway_transform.jobs.topics import job_topic
from gateway_transform.settings import TransformSettings
from gateway_transform.tables import jobs

NO_JOB = "0" * 32


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def job_of(*steps: str | Mapping[str, Any], **files: str) -> bytes:
    """A job's archive: its steps by name or as objects, and text files (``a_txt`` is ``a.txt``)."""
    listed = [{"name": step} if isinstance(step, str) else step for step in steps]
    named = {name.replace("_", "."): text.encode() for name, text in files.items()}
    return tar_of({"job.json": json.dumps({"transformations": listed}).encode(), **named})


def files_of(archive: bytes) -> dict[str, bytes]:
    """Files of a tar.gz by name."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        return {m.name: found.read() for m in opened if (found := opened.extractfile(m)) is not None}


def signed(secret: str, data: bytes | str) -> str:
    """The digest that Circe's client sends."""
    return hmac.new(secret.encode(), data.encode() if isinstance(data, str) else data, hashlib.sha256).hexdigest()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; TimeoutError after 20 s."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Caller:
    """One client: ``call`` sends its secret unless headers say otherwise."""

    http: ClientSession
    client: Client
    secret: str
    prefix: str = ""

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        headers = {"Authorization": f"Bearer {self.secret}", **options.pop("headers", {})}
        async with self.http.request(method, self.prefix + path, headers=headers, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, headers=headers)

    async def post(self, body: Any, query: str = "", **headers: str) -> Answer:
        body = io.BytesIO(body) if isinstance(body, bytes) else body
        return await self.call("POST", f"/job/{query}", data=body, headers=headers)

    async def submit(self, body: bytes = b"an archive", query: str = "", **headers: str) -> str:
        """Id of a new job."""
        answer = await self.post(body, query, **headers)
        assert answer.status == 200, answer.text
        return answer.text

    def circe(self, data: bytes | str) -> str:
        """Circe's credential for a body or an id."""
        return f"{self.client.id} {signed(self.secret, data)}"


@dataclass(frozen=True)
class JobStand:
    """A gateway with the transform plugin. Where it has no workers of its own, a test ends its jobs itself."""

    gateway: RunningGateway
    http: ClientSession

    @property
    def settings(self) -> TransformSettings:
        return self.gateway.core.section(TransformSettings)

    async def caller(self, *scopes: str) -> Caller:
        """A new client."""
        client, secret = await self.gateway.add_client(*scopes)
        return Caller(self.http, client, secret, self.settings.prefix)

    async def claim(self, job_id: str) -> Claim:
        """Take a waiting job as a worker does; those before it are taken too."""
        core = self.gateway.core
        claims = await Claims(core.db, self.settings, core.keyring, worker="a test").claim(1000)
        core.wakeups.publish(job_topic(job_id))
        return next(claim for claim in claims if claim.job_id == job_id)

    async def publish(
        self, claim: Claim, archive: bytes, *, state: JobState = JobState.SUCCEEDED, error: JobError | None = None
    ) -> None:
        """End it with that result."""
        core = self.gateway.core
        async with core.storage.writer(f"transform/{claim.job_id}/result-{claim.token}") as writer:
            await writer.write(archive)
            stored = await writer.commit()
        outcome = Outcome(state, Upload(stored.key, stored.sha256, stored.size_bytes), 5, error=error)
        claims = Claims(core.db, self.settings, core.keyring, worker="a test")
        assert await claims.publish(claim, outcome)
        core.wakeups.publish(job_topic(claim.job_id))

    async def end(self, job_id: str, archive: bytes, **how: Any) -> None:
        """Claim it and publish that result."""
        await self.publish(await self.claim(job_id), archive, **how)

    async def ended(self, caller: Caller, archive: bytes, **how: Any) -> str:
        """Id of a new job that has ended with that result."""
        job_id = await caller.submit()
        await self.end(job_id, archive, **how)
        return job_id

    async def rows(self, client: Client | None = None) -> list[Any]:
        """Jobs in the database, of one client or of all."""
        query = sa.select(jobs) if client is None else sa.select(jobs).where(jobs.c.client_id == client.id)
        async with self.gateway.core.db.read() as tx:
            return list(await tx.rows(query))

    async def change(self, job_id: str, **values: Any) -> None:
        """Change a job's row."""
        async with self.gateway.core.db.write() as tx:
            await tx.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))

    async def forget(self, job_id: str) -> None:
        """Delete a job's row."""
        async with self.gateway.core.db.write() as tx:
            await tx.execute(sa.delete(jobs).where(jobs.c.id == job_id))

    async def objects(self, job_id: str = "") -> list[str]:
        """Keys in the storage, of one job or of all."""
        return [stored.key async for stored in self.gateway.core.storage.list(f"transform/{job_id}")]


@asynccontextmanager
async def standing(
    data_dir: Path,
    transform: Mapping[str, Any] | None = None,
    *,
    templates: Path,
    extra: Mapping[str, object] | None = None,
    **core: Any,
) -> AsyncIterator[JobStand]:
    """A JobStand with those settings; only accepts unless they give it workers. ``extra`` are plugins not installed."""
    settings = {"plugins": "transform", "transform": {"workers": 0, **(transform or {})}, **core}
    async with running_gateway(data_dir, settings=settings, plugins=extra, templates=templates) as gateway:
        async with gateway.session() as http:
            yield JobStand(gateway, http)
