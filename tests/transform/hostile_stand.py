"""A gateway in a process and a world of its own, given hostile jobs, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import tarfile
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import ClientSession, ClientTimeout

from gateway_core.storage.removal import remove_folder
from gateway_core.testing import ServeProcess, serve_process
from tests.transform.conftest import MODULES
from tests.transform.job_stand import eventually, job_of

SLOTS = 4
LIMITS = {"JOB_TIMEOUT_S": 3, "MEMORY_MB": 128, "DISK_MB": 50, "PROCESSES": 20, "MAX_FILES": 200}
CANARY = "CANARY-" + "5ec2e7" * 5 + "00"
"""In the gateway's environment, its settings, its data folder and in a neighbour's job."""
LONGEST_ANSWER_S = 5.0
_SAMPLES_S = 0.02


@dataclass
class Ended:
    """A job's account by the gateway, its result, the members of that archive, and how long it all took."""

    told: dict[str, Any]
    files: dict[str, bytes]
    members: list[tarfile.TarInfo]
    seconds: float

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self.files["status.json"])

    @property
    def code(self) -> str:
        """``succeeded`` or the code of the error; archive and gateway must agree."""
        error = self.status["error"]
        assert (self.status["state"], error) == (self.told["state"], self.told["error"]), (self.status, self.told)
        return "succeeded" if error is None else error["code"]

    @property
    def message(self) -> str:
        return self.status["error"]["message"]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of out.log, which must all be whole."""
        return [json.loads(line) for line in self.files["out.log"].splitlines()]

    @property
    def found(self) -> Any:
        return json.loads(self.files["found.json"])


@dataclass
class HostileStand:
    """``base`` holds all that the gateway has: its data folder, its settings, its folder for temporary files."""

    base: Path
    server: ServeProcess
    http: ClientSession

    async def submit(self, body: bytes) -> str:
        async with self.http.post("/job/", data=io.BytesIO(body)) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            return text

    async def end_of(self, job_id: str) -> Ended:
        """Wait for a job's end, and take its result."""
        began = time.monotonic()
        told: dict[str, Any] = {"state": "queued"}
        async with asyncio.timeout(60):
            while told["state"] in {"queued", "running"}:
                async with self.http.get(f"/job/{job_id}/status?wait=10") as answer:
                    told = await answer.json()
        async with self.http.get(f"/job/{job_id}") as answer:
            body = await answer.read()
            assert answer.status == 200, body
        members, files = read_archive(body)
        return Ended(told, files, members, time.monotonic() - began)

    async def run(self, *steps: Any, **files: str) -> Ended:
        return await self.end_of(await self.submit(job_of(*steps, **files)))

    async def stays_healthy(self) -> None:
        """Ask until cancelled; AssertionError, TimeoutError when an answer is not good or late."""
        while True:
            async with asyncio.timeout(LONGEST_ANSWER_S), self.http.get("/healthz") as answer:
                assert answer.status == 200
            await asyncio.sleep(0.05)

    async def attack(self, name: str, **options: Any) -> Ended:
        """Run that transformation: the gateway must answer meanwhile, and nothing of it be left afterwards."""
        marker = f"evil-{time.monotonic_ns() % 10**9}"
        step = {"name": name, "options": {**options, "marker": marker}}
        health = asyncio.create_task(self.stays_healthy())
        running = asyncio.create_task(self.run(step, a_txt="a"))
        try:
            await asyncio.wait({health, running}, return_when=asyncio.FIRST_COMPLETED)
            if health.done():
                await health
            ended = await running
        finally:
            for task in (health, running):
                task.cancel()
            await asyncio.wait({health, running})
        assert bearers(marker) == []
        await self.only_warm_boxes()
        assert (await self.run("hello")).files["hello.txt"] == b"hello"
        assert self.server_lives()
        return ended

    def server_lives(self) -> bool:
        return Path(f"/proc/{self.server.pid}").exists() and not any(
            line.get("level") in {"error", "critical"} for line in self.server.logs
        )

    def boxes(self) -> list[Path]:
        """Folders of boxes."""
        folders = [*self.base.glob("data/scratch/*/boxes"), *self.base.glob("tmp/gateway-boxes-*")]
        return [folder / box for folder in folders for box in names(folder) if "work" in names(folder / box)]

    async def only_warm_boxes(self) -> None:
        """Until only boxes are left that wait for a job, each with its two empty folders, and nothing beside them."""

        async def clean() -> bool:
            boxes = self.boxes()
            warm = all(names(box) == ["tmp", "work"] and not names(box / "tmp") + names(box / "work") for box in boxes)
            return warm and len(boxes) == SLOTS

        await eventually(clean)

    def everything(self) -> list[str]:
        """All files and folders."""
        return [os.path.join(folder, name) for folder, below, files in os.walk(self.base) for name in below + files]

    def listing(self) -> set[str]:
        """All, but what comes and goes with every box and every transaction."""
        boxes = tuple(str(box) for box in self.boxes())
        return {path for path in self.everything() if not path.startswith(boxes) and not path.endswith("-journal")}


def names(folder: Path) -> list[str]:
    """Sorted; none when it is not there any more."""
    with contextlib.suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def read_archive(body: bytes) -> tuple[list[tarfile.TarInfo], dict[str, bytes]]:
    """Members, which are files and folders inside, and contents of the files."""
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz", errors="surrogateescape") as archive:
        members = archive.getmembers()
        files = {each.name: found.read() for each in members if (found := archive.extractfile(each)) is not None}
    assert all(each.isreg() or each.isdir() for each in members)
    assert not any(each.name.startswith("/") or ".." in each.name.split("/") for each in members)
    assert not any(each.mode & 0o7077 for each in members)
    assert len(files) + sum(each.isdir() for each in members) == len(members)
    return members, files


def bearers(marker: str) -> list[str]:
    """Processes that have the marker as their name or in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        for name in ("comm", "environ", "cmdline"):
            with contextlib.suppress(OSError):
                if marker.encode() in (path / name).read_bytes():
                    found.append(f"{path.name} {name}")
    return found


def children(pid: int) -> list[int]:
    """Of all threads of a process; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    return found


class PeakMemory:
    """The largest peak (VmHWM, bytes) of any one process below ``pid``, looked at again and again in a thread."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self.processes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_SAMPLES_S):
            waiting, seen = [self._pid], 0
            while waiting:
                pid = waiting.pop()
                seen += 1
                waiting += children(pid)
                with contextlib.suppress(OSError):
                    if peak := re.search(rb"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_bytes()):
                        self.bytes = max(self.bytes, int(peak[1]) << 10)
            self.processes = max(self.processes, seen)


@contextlib.contextmanager
def own_world() -> Iterator[Path]:
    """A folder that every user gets through to."""
    base = Path(tempfile.mkdtemp(prefix="gateway-hostile-"))
    try:
        for folder in (base, base / "tmp"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        yield base
    finally:
        remove_folder(base)


@asynccontextmanager
async def serving(base: Path) -> AsyncIterator[ServeProcess]:
    """``gateway serve`` with small limits in the full sandbox; what it has lies in ``base``."""
    (base / "settings.py").write_text(f"# {CANARY}\n")
    (base / "settings.py").chmod(0o644)
    transform = {
        "MODULES": "hostile_module,hostile_ways_module",
        "WORKERS": SLOTS,
        "SANDBOX": "require",
        **LIMITS,
    }
    env = {
        "PYTHONPATH": str(MODULES),
        "TMPDIR": str(base / "tmp"),
        "TOKEN_OF_ANOTHER": CANARY,
        "GATEWAY_CONFIG": str(base / "settings.py"),
        "GATEWAY_PLUGINS": "transform",
        **{f"GATEWAY_TRANSFORM__{name}": str(value) for name, value in transform.items()},
    }
    async with serve_process(data_dir=base / "data", env=env) as server:
        yield server


@asynccontextmanager
async def hostile_standing() -> AsyncIterator[HostileStand]:
    """A gateway for hostile jobs, with one client."""
    with own_world() as base:
        async with serving(base) as server:
            secret = await server.secret()
            (base / "data" / "planted").write_text(CANARY)
            (base / "data" / "planted").chmod(0o644)
            headers = {"Authorization": f"Bearer {secret}"}
            async with server.session(headers=headers, timeout=ClientTimeout(total=90)) as http:
                stand = HostileStand(base, server, http)
                await stand.only_warm_boxes()
                yield stand
