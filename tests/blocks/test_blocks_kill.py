"""Servers that are killed while they hash: what they told stays true, and is not hashed again."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from gateway_blocks.files.identity import Identity
from gateway_core.testing import ServeProcess
from gateway_core.testing.plugin import Serve
from tests.blocks.marked import Marked
from tests.blocks.processes import (
    all_known,
    asked,
    blocks_env,
    children,
    first_pending,
    hashed_bytes,
    known,
    read_bytes,
)

MIB = 1 << 20
FILE = "/files/a.bin"
LATEST_S = 0.1
"""Between two times that blocks are saved; a server is killed anywhere in it."""
OTHER_READS = 4 * MIB
"""What a process may read besides the file that it hashes: its database, modules that it imports late."""
SOON_S = 15
"""Long for a busy machine."""


async def watch(session: ClientSession, told: dict[int, str]) -> None:
    """Put into ``told`` what is told of the file, until all is known or nobody answers any more."""
    pending: int | None = 0
    with suppress(ClientError):
        while pending is not None:
            body = await asked(session, FILE, after=pending - 1, wait=5)
            told.update(known(body))
            pending = first_pending(body)


@asynccontextmanager
async def watching(server: ServeProcess, told: dict[int, str]) -> AsyncIterator[None]:
    """Watch for the block, and after it until the watch ends by itself; every process that answers is asked."""
    async with AsyncExitStack() as stack:
        sessions = await connected(server, stack)
        tasks = [asyncio.create_task(watch(session, told)) for session in sessions]
        try:
            yield
        finally:
            done, late = await asyncio.wait(tasks, timeout=SOON_S)
            for task in late:
                task.cancel()
        assert not late
        for task in done:
            task.result()


async def connected(server: ServeProcess, stack: AsyncExitStack) -> list[ClientSession]:
    """Sessions with a connection each, to every process at least one."""
    port, sessions = int(server.url.rpartition(":")[2]), []
    async with asyncio.timeout(SOON_S):
        while not sessions or not all(accepted(pid, port) for pid in answering(server)):
            new = [await stack.enter_async_context(server.session()) for _ in range(4)]
            await asyncio.gather(*(greet(session) for session in new))
            sessions += new
    return sessions


async def greet(session: ClientSession) -> None:
    async with session.get("/healthz") as answer:
        assert answer.status == 200


def answering(server: ServeProcess) -> list[int]:
    """The processes that answer requests."""
    return children(server.pid) or [server.pid]


def accepted(pid: int, port: int) -> bool:
    """Whether the process holds a connection to this local port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if int(row[1].partition(":")[2], 16) == port and row[3] == "01"}
    names = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            names.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return bool(sockets & names)


def stored_blocks(data_dir: Path, source: Path, scratch: Path) -> set[int]:
    """Blocks of this version of the file whose SHA-1 is in the database; a copy is read, the server finds its own."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for path in data_dir.glob("gateway.db*"):
        shutil.copy(path, scratch)
    with closing(sqlite3.connect(scratch / "gateway.db")) as database:
        rows = database.execute(
            "SELECT number, known FROM blocks_segments JOIN blocks_files ON id = file_id WHERE identity = ?",
            [str(Identity.of(source.stat()))],
        ).fetchall()
    bits = {number: int.from_bytes(mask, "little") for number, mask in rows}
    return {512 * number + at for number, mask in bits.items() for at in range(512) if mask >> at & 1}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("workers", "rounds"),
    [(1, 3), pytest.param(1, 50, marks=pytest.mark.slow), pytest.param(2, 50, marks=pytest.mark.slow)],
)
async def test_nothing_that_was_told_is_hashed_again_after_a_kill(
    serve_process: Serve, tmp_path: Path, workers: int, rounds: int
):
    source, env = tmp_path / "www" / "a.bin", blocks_env(tmp_path / "www", full_digest=False, hash_workers=workers)
    told: dict[int, str] = {}
    stored: set[int] = set()
    half_done = 0
    file = Marked(512 * MIB, MIB)
    file.write(source)
    for number in range(rounds + 1):
        async with serve_process("--workers", str(workers), env=env) as server:
            await all_ready(server, workers)
            before = reads(server)
            async with server.session() as session:
                found = known(await all_known(session, FILE))
                again = await hashed_bytes(session)
            assert found == dict(enumerate(file.sha1s()))
            assert told.items() <= found.items()
            assert told.keys() <= stored
            assert again == (file.count - len(stored)) * MIB
            assert again <= reads(server) - before < again + workers * OTHER_READS
            if number < rounds:
                file, told = replace(file, version=number + 2), {}
                file.write(source)
                async with watching(server, told):
                    await until_told(told, random.randrange(file.count // 2))
                    await asyncio.sleep(random.uniform(0, LATEST_S))  # at any moment
                    for pid in {server.pid, *answering(server)}:
                        os.kill(pid, signal.SIGKILL)
                    await server.wait()
        stored = stored_blocks(tmp_path / "gateway", source, tmp_path / "copy")
        half_done += 0 < len(stored) < file.count
    assert half_done


async def until_told(told: dict[int, str], count: int) -> None:
    """Wait until more than ``count`` blocks are in ``told``."""
    async with asyncio.timeout(SOON_S):
        while len(told) <= count:
            await asyncio.sleep(0.002)


async def all_ready(server: ServeProcess, workers: int) -> None:
    """Wait until every process answers."""
    await server.wait_log("ready", count=workers + 1 if workers > 1 else 1)


def reads(server: ServeProcess) -> int:
    """Bytes that the processes that answer have read."""
    return sum(map(read_bytes, answering(server)))


async def test_of_two_processes_one_hashes_a_file_and_the_other_takes_over_when_it_dies(
    serve_process: Serve, tmp_path: Path
):
    file, told = Marked(512 * MIB, MIB), dict[int, str]()
    truth = dict(enumerate(file.sha1s()))
    file.write(tmp_path / "www" / "a.bin")
    async with serve_process("--workers", "2", env=blocks_env(tmp_path / "www", full_digest=False)) as server:
        await all_ready(server, 2)
        async with watching(server, told):
            pass
        assert told == truth
        async with server.session() as session:
            assert await hashed_bytes(session) == file.size_bytes  # once
        file.write(tmp_path / "www" / "a.bin")
        told = {}
        before = {pid: read_bytes(pid) for pid in answering(server)}
        async with watching(server, told):
            await until_told(told, 0)
            dead, heir = sorted(before, key=lambda pid: before[pid] - read_bytes(pid))
            os.kill(dead, signal.SIGKILL)
            told_bytes, heir_bytes = len(told) * MIB, read_bytes(heir)
        async with server.session() as session:
            async with asyncio.timeout(SOON_S):
                assert known(await all_known(session, FILE)) == truth
        assert told.items() <= truth.items()
        missing = file.size_bytes - told_bytes
        assert missing // 2 < read_bytes(heir) - heir_bytes < missing + OTHER_READS
