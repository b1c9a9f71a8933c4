"""PostgreSQL that is away, comes late, restarts or goes silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import func, insert, select, text

from gateway_core.db.engine import Database
from gateway_core.db.tables import meta
from gateway_core.errors import DatabaseError, StartupError
from gateway_core.testing.services import PrivatePostgres, free_port

ANSWER_S = 1.0
pytestmark = pytest.mark.usefixtures("no_forgotten_failure")


@pytest.fixture
async def postgres_db(postgres_server: PrivatePostgres, migrated_postgres_url: str) -> AsyncIterator[Database]:
    db = Database(migrated_postgres_url, pool_size=3, max_overflow=0, timeout_s=ANSWER_S, statement_timeout_s=ANSWER_S)
    await db.connect()
    yield db
    if not postgres_server.answers():
        postgres_server.start()
    await db.close()


async def put(db: Database, key: str) -> None:
    async with db.write() as tx:
        statement = db.insert(meta).values(key=key, value="1")
        await tx.execute(statement.on_conflict_do_nothing())


async def put_when_back(db: Database, key: str) -> None:
    """As ``put``; a server that has just come back may need longer than ANSWER_S at first."""
    async with asyncio.timeout(20):
        while True:
            with suppress(DatabaseError):
                return await put(db, key)
            await asyncio.sleep(0.02)


async def sessions(db: Database, state: str) -> int:
    activity = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = :state"
    async with db.read() as tx:
        return int(await tx.scalar(text(activity).bindparams(state=state)))


async def test_killed_server_is_a_database_error_and_its_return_needs_no_new_database(
    postgres_db: Database, postgres_server: PrivatePostgres
):
    await asyncio.gather(*(put(postgres_db, f"before {number}") for number in range(3)))
    postgres_server.kill()
    began = time.monotonic()
    with pytest.raises(DatabaseError):
        await put(postgres_db, "away")
    assert time.monotonic() - began < 4 * ANSWER_S
    await asyncio.to_thread(postgres_server.start)
    await asyncio.gather(*(put_when_back(postgres_db, f"after {number}") for number in range(3)))


async def test_server_killed_inside_a_transaction_loses_only_that_one(
    postgres_db: Database, postgres_server: PrivatePostgres
):
    await put(postgres_db, "kept")

    async def lose() -> None:
        async with postgres_db.write() as tx:
            await tx.execute(insert(meta).values(key="lost", value="1"))
            postgres_server.kill()
            await tx.execute(insert(meta).values(key="lost too", value="1"))

    with pytest.raises(DatabaseError):
        await lose()
    await asyncio.to_thread(postgres_server.start)
    await put_when_back(postgres_db, "back")
    async with postgres_db.read() as tx:
        found = {row.key for row in await tx.rows(select(meta.c.key))}
    assert "kept" in found
    assert not found & {"lost", "lost too"}


async def test_silent_server_is_told_in_time_and_no_session_is_left_behind(
    postgres_db: Database, postgres_server: PrivatePostgres
):
    await asyncio.gather(*(put(postgres_db, f"{number}") for number in range(3)))
    postgres_server.pause()
    try:
        began = time.monotonic()
        results = await asyncio.gather(*(put(postgres_db, "silent") for _ in range(6)), return_exceptions=True)
        took = time.monotonic() - began
    finally:
        postgres_server.resume()
    assert all(isinstance(result, DatabaseError) for result in results)
    assert took < 4 * ANSWER_S, f"took {took:.1f} s"
    await put_when_back(postgres_db, "back")
    while postgres_db._cleaners:
        await asyncio.wait(postgres_db._cleaners)
    async with asyncio.timeout(10):  # the server takes a moment to see that its clients have gone
        while await sessions(postgres_db, "idle in transaction"):
            await asyncio.sleep(0.02)


async def test_cut_session_inside_a_transaction_is_a_database_error(postgres_db: Database):
    other = Database(postgres_db._url.url.render_as_string(hide_password=False))

    async def be_cut() -> None:
        async with postgres_db.write() as tx:
            pid = await tx.scalar(select(func.pg_backend_pid()))
            async with asyncio.timeout(20):
                await asyncio.create_task(cut(other, pid))
            await tx.execute(select(meta))

    with pytest.raises(DatabaseError):
        await be_cut()
    await other.close()
    await put(postgres_db, "after the cut")


async def cut(db: Database, pid: int) -> None:
    async with db.read() as tx:
        await tx.execute(select(func.pg_terminate_backend(pid)))


async def test_connect_waits_for_a_server_that_comes_later(
    postgres_db: Database, postgres_server: PrivatePostgres, migrated_postgres_url: str
):
    postgres_server.kill()
    late = Database(migrated_postgres_url)
    connecting = asyncio.create_task(late.connect(retry_for_s=20.0))
    await asyncio.wait((connecting,), timeout=0.5)
    assert not connecting.done()
    await asyncio.to_thread(postgres_server.start)
    await connecting
    await late.close()


async def test_connect_gives_up_with_a_startup_error_that_names_the_server():
    port = free_port()
    db = Database(f"postgresql://user:s3cret@127.0.0.1:{port}/name")
    with pytest.raises(StartupError, match=f"127.0.0.1:{port}/name") as caught:
        await db.connect(retry_for_s=0.3)
    await db.close()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["password", "database"])
async def test_connect_does_not_wait_for_what_no_waiting_cures(postgres_server: PrivatePostgres, wrong: str):
    url = postgres_server.url("missing" if wrong == "database" else "postgres")
    if wrong == "password":
        url = url.replace(postgres_server.password, "wrong")
    db = Database(url)
    began = time.monotonic()
    with pytest.raises(StartupError):
        await db.connect(retry_for_s=20.0)
    assert time.monotonic() - began < 10.0
    await db.close()


async def test_sqlite_that_cannot_be_opened_is_a_startup_error(tmp_path):
    (tmp_path / "gateway.db").write_bytes(b"this is no database" * 100)
    for url in (f"sqlite:///{tmp_path}/gateway.db", f"sqlite:///{tmp_path}/gateway.db/below.db"):
        db = Database(url)
        with pytest.raises(StartupError, match=r"gateway\.db"):
            await db.connect()
        await db.close()
