"""Several processes on one database, some of which die."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert, select, true

from gateway_core.db.engine import Database
from gateway_core.db.tables import meta
from gateway_core.errors import DatabaseError

INCREMENT = """
import asyncio, sys, time
from sqlalchemy import select, update
from gateway_core.db.engine import Database
from gateway_core.db.tables import meta

async def main():
    db = Database(sys.argv[1], timeout_s=20.0)
    await db.connect()
    print("ready", flush=True)
    sys.stdin.readline()
    longest = 0.0
    for _ in range(100):
        began = time.monotonic()
        async with db.write() as tx:
            count = int(await tx.scalar(select(meta.c.value).where(meta.c.key == "n").with_for_update()))
            await tx.execute(update(meta).where(meta.c.key == "n").values(value=str(count + 1)))
        longest = max(longest, time.monotonic() - began)
    print(longest, flush=True)
    await db.close()

asyncio.run(main())
"""

WRITE_PAIRS = """
import asyncio, sys
from sqlalchemy import insert
from gateway_core.db.engine import Database
from gateway_core.db.tables import meta

async def main():
    db = Database(sys.argv[1])
    await db.connect()
    for number in range(100000):
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key=f"{sys.argv[2]}:{number}:a", value="1" * 3000))
            await tx.execute(insert(meta).values(key=f"{sys.argv[2]}:{number}:b", value="1" * 3000))
        print(number, flush=True)

asyncio.run(main())
"""

HOLD_WRITE = """
import asyncio, sys
from gateway_core.db.engine import Database

async def main():
    db = Database(sys.argv[1])
    async with db.write():
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

FILL_AND_HOLD = """
import asyncio, sys
from sqlalchemy import insert, update
from gateway_core.db.engine import Database
from gateway_core.db.tables import meta

async def main():
    db = Database(sys.argv[1])
    async with db.write() as tx:
        await tx.execute(update(meta).values(value="overwritten"))
        for number in range(3000):
            await tx.execute(insert(meta).values(key=f"half {number}", value="x" * 4000))
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def python(code: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own that runs ``code``; killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(40):
        return (await process.stdout.readline()).decode().strip()


async def test_three_processes_lose_no_increment_and_none_starves(db: Database, database_url: str):
    async with db.write() as tx:
        await tx.execute(insert(meta).values(key="n", value="0"))
    shares: list[float] = []
    # In turn a write waits for a few others of 300; whoever is passed by waits for most of the time, each time.
    # A machine that is busy elsewhere may stop a process for as long, but not always.
    while not shares or (shares[-1] > 1 / 3 and len(shares) < 4):
        shares.append(await longest_wait(database_url))
        async with db.read() as tx:
            assert await tx.scalar(select(meta.c.value).where(meta.c.key == "n")) == str(300 * len(shares))
    assert min(shares) < 1 / 3


async def longest_wait(database_url: str) -> float:
    """How long one write waited at most while three processes made a hundred each, as a share of the whole time."""
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(python(INCREMENT, database_url)) for _ in range(3)]
        assert [await line(process) for process in processes] == ["ready"] * 3
        began = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
        waits = [float(await line(process)) for process in processes]
        return max(waits) / (time.monotonic() - began)


async def test_killed_writer_loses_nothing_acknowledged_and_leaves_no_half(db: Database, database_url: str):
    moment = random.Random(7)
    acknowledged: list[str] = []
    for round_ in range(4):
        async with python(WRITE_PAIRS, database_url, str(round_)) as process:
            acknowledged.append(f"{round_}:{await line(process)}")
            await asyncio.sleep(moment.uniform(0.0, 0.1))
            process.kill()
            rest, _ = await process.communicate()
        acknowledged += [f"{round_}:{number}" for number in rest.decode().split("\n")[:-1]]
        began = time.monotonic()
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key=f"after {round_}", value="1"))
        assert time.monotonic() - began < 4.0
    async with db.read() as tx:
        keys = {row.key for row in await tx.rows(select(meta.c.key).where(meta.c.key.not_like("after%")))}
    assert {f"{pair}:{half}" for pair in acknowledged for half in "ab"} <= keys
    assert {key[:-1] + "b" for key in keys if key.endswith("a")} == {key for key in keys if key.endswith("b")}
    if db.dialect == "sqlite":
        with contextlib.closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_next_reader_undoes_the_pages_that_a_killed_writer_had_written(sqlite_url: str, tmp_path: Path):
    db = Database(sqlite_url)
    async with db.write() as tx:
        await tx.execute(insert(meta).values(key="a", value="before"))
    async with python(FILL_AND_HOLD, sqlite_url) as process:
        assert await line(process) == "held"
        process.kill()
        await process.wait()
    assert (tmp_path / "gateway.db").stat().st_size > 4_000_000, "nothing was written before the kill"
    async with db.read() as tx:
        assert [row.value for row in await tx.rows(select(meta))] == ["before"]
    await db.close()


async def test_stopped_writer_makes_others_fail_in_time_and_go_on_after_it(sqlite_url: str):
    db = Database(sqlite_url, timeout_s=0.5)
    async with python(HOLD_WRITE, sqlite_url) as process:
        assert await line(process) == "held"
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(DatabaseError, match="busy"):
            async with db.write():
                pass
        assert time.monotonic() - began < 4.0
        async with db.read() as tx:
            assert await tx.rows(select(meta)) == []
        process.kill()
        await process.wait()
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key="a", value="1"))
    await db.close()


async def test_waiting_for_another_process_does_not_block_the_loop(sqlite_url: str, tmp_path: Path):
    db = Database(sqlite_url, timeout_s=0.6)
    await db.connect()
    with (tmp_path / "gateway.db.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        lags: list[float] = []

        async def beat() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.01)
                lags.append(time.monotonic() - began - 0.01)

        heart = asyncio.create_task(beat())
        with pytest.raises(DatabaseError, match="busy"):
            async with db.write():
                pass
        heart.cancel()
        await asyncio.wait((heart,))
    await db.close()
    assert len(lags) > 5
    assert sorted(lags)[len(lags) // 2] < 0.05


async def test_writer_that_gave_up_leaves_the_line_free_for_the_next(sqlite_url: str, tmp_path: Path):
    impatient, patient = Database(sqlite_url, timeout_s=0.1), Database(sqlite_url, timeout_s=5.0)
    with (tmp_path / "gateway.db.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatabaseError):
            async with impatient.write():
                pass
        waiting = asyncio.create_task(patient.connect())
        await asyncio.wait((waiting,), timeout=0.1)
        assert not waiting.done()
    await waiting
    await impatient.close()
    await patient.close()


async def test_busy_writers_with_locks_of_their_own_take_turns(sqlite_url: str):
    order: list[str] = []

    async def write_often(db: Database, name: str) -> None:
        while len(order) < 60:
            async with db.write() as tx:
                await tx.execute(select(true()))
                order.append(name)

    databases = [Database(sqlite_url) for _ in "ab"]
    await asyncio.gather(*(write_often(db, name) for db, name in zip(databases, "ab", strict=True)))
    for db in databases:
        await db.close()
    longest = max(len(run) for name in "ab" for run in "".join(order[10:]).split(name))
    assert longest <= 10, "".join(order)
