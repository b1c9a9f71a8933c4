"""A campaign of kills against processes that take and run jobs: what is sent, who is killed, what must hold."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from aiohttp import ClientError, ClientSession, ClientTimeout

from gateway_core.db.engine import Database
from gateway_core.testing.services import free_port
from gateway_transform.tables import jobs
from tests.transform.conftest import MODULES
from tests.transform.job_stand import files_of, job_of
from tests.transform.modules.campaign_module import PARTS

LEASE_S = 3.0
ATTEMPTS = 3
START_S = 30.0


@dataclass
class Program:
    """A ``gateway`` process that is started again after each kill; its log goes into a file."""

    arguments: Sequence[str]
    env: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    readied: int = 0

    async def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "gateway_core", *self.arguments, stdout=log, stderr=log, env=self.env
            )
        async with asyncio.timeout(START_S):
            while self.log.read_text().count('"event": "ready"') <= self.readied:
                assert self.process.returncode is None, self.log.read_text()[-2000:]
                await asyncio.sleep(0.02)
        self.readied += 1

    async def kill(self) -> None:
        """End it as the kernel would."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End it in order, or by force."""
        if self.process is None or self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self.process.wait()
        if self.process.returncode is None:
            await self.kill()


@dataclass
class Campaign:
    """A gateway at ``url`` and the programs behind it; ``accepted`` maps the ids it gave to the numbers sent."""

    url: str
    secret: str
    database_url: str
    programs: list[Program]
    accepted: dict[str, int] = field(default_factory=dict)

    async def send(self, numbers: Sequence[int], seconds: float) -> None:
        """Send jobs until each was accepted, however often the gateway dies meanwhile."""
        async with ClientSession(self.url, timeout=ClientTimeout(total=10)) as http:
            for number in numbers:
                body = job_of({"name": "stamp", "options": {"seconds": seconds}}, number_txt=str(number))
                headers = {"Authorization": f"Bearer {self.secret}", "Idempotency-Key": f"job-{number}"}
                while True:
                    with contextlib.suppress(ClientError, TimeoutError):
                        async with http.post("/job/", data=body, headers=headers) as answer:
                            text = await answer.text()
                            if answer.status == 200:
                                self.accepted[text] = number
                                break
                            assert answer.status in {409, 429, 503}, text
                    await asyncio.sleep(0.05)

    async def watch(self) -> None:
        """Look at results as they appear: what was seen once must never be another. Until cancelled."""
        seen: dict[str, str] = {}
        async with ClientSession(self.url, timeout=ClientTimeout(total=10)) as http:
            while True:
                for job_id in list(self.accepted):
                    with contextlib.suppress(ClientError, TimeoutError):
                        async with http.get(f"/job/{job_id}", headers=self._headers) as answer:
                            body = await answer.read()
                            if answer.status == 200:
                                digest = hashlib.sha256(body).hexdigest()
                                assert seen.setdefault(job_id, digest) == digest, "a second visible result"
                            assert answer.status in {200, 202, 503}, body
                await asyncio.sleep(0.05)

    async def outcomes(self, timeout_s: float) -> Counter[str]:
        """Wait until every accepted job has ended, and look at each result."""
        ended: Counter[str] = Counter()
        async with ClientSession(self.url, timeout=ClientTimeout(total=70)) as http, asyncio.timeout(timeout_s):
            for job_id, number in self.accepted.items():
                ended[await self._outcome(http, job_id, number)] += 1
        return ended

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}

    async def _outcome(self, http: ClientSession, job_id: str, number: int) -> str:
        while True:
            async with http.get(f"/job/{job_id}/status?wait=30", headers=self._headers) as answer:
                status = await answer.json()
                assert answer.status == 200, status
            if status["state"] not in {"queued", "running"}:
                break
        async with http.get(f"/job/{job_id}", headers=self._headers) as answer:
            assert answer.status == 200
            files = files_of(await answer.read())
        told = json.loads(files["status.json"])
        assert (told["id"], told["state"], told["attempt"]) == (job_id, status["state"], status["attempt"])
        assert status["attempt"] <= ATTEMPTS
        if status["state"] == "succeeded":
            parts = {
                f"part-{part}.bin": hashlib.sha256(f"{number}:{part}".encode()).digest() * 100 for part in range(PARTS)
            }
            assert parts.items() <= files.items()
            return "succeeded"
        assert status["state"] == "failed"
        return str(status["error"]["code"])

    async def rows(self) -> dict[str, Any]:
        """State of each job in the database."""
        db = Database(self.database_url)
        try:
            async with db.read() as tx:
                return {row.id: row.state for row in await tx.rows(sa.select(jobs.c.id, jobs.c.state))}
        finally:
            await db.close()


@asynccontextmanager
async def campaign(folder: Path, *, workers: int, services: dict[str, str] | None = None) -> AsyncIterator[Campaign]:
    """A gateway with its own workers, or with as many ``gateway worker`` beside it when there are ``services``."""
    port, data = free_port(), folder / "data"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    env = inherited | {
        "PYTHONPATH": str(MODULES),
        "GATEWAY_DATA_DIR": str(data),
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_PLUGINS": "transform",
        "GATEWAY_PORT": str(port),
        "GATEWAY_TRANSFORM__MODULES": "campaign_module",
        "GATEWAY_TRANSFORM__LEASE_S": str(LEASE_S),
        "GATEWAY_TRANSFORM__MAX_ATTEMPTS": str(ATTEMPTS),
        "GATEWAY_TRANSFORM__WORKERS": str(0 if services else workers),
        "GATEWAY_STORAGE_URL": f"file://{folder / 'storage'}",
        **(services or {}),
    }
    programs = [Program(["serve"], env, folder / "serve.log")]
    for number in range(workers if services else 0):
        own = {"GATEWAY_TRANSFORM__WORKERS": "2", "GATEWAY_DATA_DIR": str(folder / f"worker-{number}")}
        programs.append(Program(["worker"], env | own, folder / f"worker-{number}.log"))
    try:
        for program in programs:
            await program.start()
        secret = await _new_secret(env)
        database = (services or {}).get("GATEWAY_DB_URL", f"sqlite:///{data / 'gateway.db'}")
        yield Campaign(f"http://127.0.0.1:{port}", secret, database, programs)
    finally:
        for program in programs:
            await program.stop()


async def _new_secret(env: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gateway_core", "client", "add", "campaign", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env=env,
    )
    out, _ = await process.communicate()
    return str(json.loads(out)["secret"])


def leftovers(folder: Path) -> list[str]:
    """Command lines of processes that were started for this campaign and still live."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ, line = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
            if str(folder).encode() in environ + line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found
