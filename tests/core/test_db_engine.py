"""Transactions: what they promise while everything goes well, and when a statement or a task does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import stat
import time
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from gateway_core.db.engine import Database
from gateway_core.db.files import journal_mode
from gateway_core.db.tables import meta
from gateway_core.db.url import DatabaseUrl
from gateway_core.errors import ConfigError, DatabaseError

pytestmark = pytest.mark.usefixtures("no_forgotten_failure")

SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT count(*) FROM n",
    "postgresql": "SELECT pg_sleep(0.15)",
}


async def put(db: Database, key: str, value: str = "x") -> None:
    async with db.write() as tx:
        await tx.execute(insert(meta).values(key=key, value=value))


async def keys(db: Database) -> list[str]:
    async with db.read() as tx:
        return [row.key for row in await tx.rows(select(meta.c.key).order_by(meta.c.key))]


async def test_write_is_committed_at_the_end_of_its_block(db: Database):
    await put(db, "a")
    assert await keys(db) == ["a"]


async def test_exception_rolls_everything_back_and_the_next_write_works(db: Database):
    async def fail() -> None:
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key="a", value="1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await put(db, "b")
    assert await keys(db) == ["b"]


async def test_statement_with_a_list_of_parameters_runs_for_each(db: Database):
    async with db.write() as tx:
        await tx.execute(insert(meta).values(value="v"), [{"key": "a"}, {"key": "b"}])
    assert await keys(db) == ["a", "b"]


async def test_count_scalar_and_first_answer_what_they_say(db: Database):
    await put(db, "a", "1")
    async with db.write() as tx:
        assert await tx.count(update(meta).values(value="2")) == 1
        assert await tx.scalar(select(meta.c.value)) == "2"
        assert await tx.first(select(meta).where(meta.c.key == "none")) is None


async def test_read_sees_one_state_although_another_task_commits(db: Database):
    await put(db, "a")
    async with db.read() as tx:
        assert await tx.scalar(select(func.count()).select_from(meta)) == 1
        writer = asyncio.create_task(put(db, "b"))
        # SQLite's commit waits for readers, PostgreSQL's does not
        await asyncio.wait((writer,), timeout=0.3 if db.dialect == "sqlite" else 20)
        assert await tx.scalar(select(func.count()).select_from(meta)) == 1
    await writer
    assert await keys(db) == ["a", "b"]


async def test_read_refuses_to_write(db: Database):
    with pytest.raises(DatabaseError, match="read-only"):
        async with db.read() as tx:
            await tx.execute(insert(meta).values(key="a", value="1"))


async def test_transaction_inside_another_of_the_same_task_raises(db: Database):
    async with db.read():
        with pytest.raises(RuntimeError, match="inside another"):
            await put(db, "a")
    await put(db, "a")


async def test_task_started_inside_a_transaction_has_transactions_of_its_own(db: Database):
    async with db.read() as tx:
        assert await asyncio.create_task(keys(db)) == []
        assert await tx.scalar(select(text("1"))) == 1


async def test_unique_violation_is_sqlalchemys_integrity_error(db: Database):
    await put(db, "a")
    with pytest.raises(IntegrityError):
        await put(db, "a")


async def test_wrong_sql_is_not_told_as_an_unavailable_database(db: Database):
    with pytest.raises((OperationalError, ProgrammingError)):
        async with db.read() as tx:
            await tx.execute(text("SELECT nothing_like_that FROM meta"))


async def test_nothing_is_committed_after_a_swallowed_failure(db: Database):
    await put(db, "a")

    async def swallow() -> None:
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key="b", value="1"))
            with contextlib.suppress(IntegrityError):
                await tx.execute(insert(meta).values(key="a", value="1"))

    with pytest.raises(RuntimeError, match="must leave the block"):
        await swallow()
    assert await keys(db) == ["a"]


async def test_ended_transaction_cannot_be_used(db: Database):
    async with db.write() as tx:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        await tx.execute(select(meta))


async def test_insert_understands_on_conflict(db: Database):
    for value in ("1", "2"):
        async with db.write() as tx:
            statement = db.insert(meta).values(key="a", value=value)
            await tx.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
    async with db.read() as tx:
        assert await tx.scalar(select(meta.c.value)) == "2"


async def test_now_is_the_time_in_unix_seconds_with_fractions(db: Database):
    before = time.time()
    async with db.read() as tx:
        seen = [await tx.scalar(select(db.now())) for _ in range(20)]
    assert all(isinstance(at, float) for at in seen)
    assert before - 1.0 < min(seen) <= max(seen) < time.time() + 1.0
    assert any(at % 1 for at in seen)


async def test_now_can_be_compared_and_stored(db: Database):
    async with db.write() as tx:
        assert await tx.scalar(select(db.now() + 60 > time.time())) == 1
        assert await tx.scalar(select(db.now() - 60 > time.time())) == 0


async def test_cancelled_statement_is_rolled_back_and_its_connection_comes_back(db: Database):
    async def slow_write() -> None:
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key="a", value="1"))
            started.set_result(tx)
            await tx.execute(text(SLOW[db.dialect]))

    started = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(slow_write())
    transaction = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    under_way = transaction._pending
    assert under_way is not None
    assert not under_way.done(), "the cancelled task waited for the statement"
    await put(db, "b")
    assert await keys(db) == ["b"]


async def test_no_connection_and_no_lock_is_lost_by_a_hundred_cancellations(db: Database):
    async def work(number: int) -> None:
        async with db.write() as tx:
            await tx.execute(insert(meta).values(key=f"{number:03}a", value="1"))
            await tx.execute(insert(meta).values(key=f"{number:03}b", value="1"))

    moment = random.Random(1)
    for start in range(0, 100, 10):
        tasks = [asyncio.create_task(work(start + offset)) for offset in range(10)]
        for task in tasks:
            await asyncio.sleep(moment.uniform(0.0, 0.004))
            task.cancel()
        await asyncio.wait(tasks)
    found = await keys(db)
    assert len(found) % 2 == 0, "half of a transaction was committed"
    assert {key[:3] for key in found if key.endswith("a")} == {key[:3] for key in found if key.endswith("b")}
    await put(db, "after")
    while db._cleaners:
        await asyncio.wait(db._cleaners)
    assert db._writer.sync_engine.pool.checkedout() == 0


async def test_timed_out_body_rolls_back_and_frees_the_database(db: Database):
    async def wait_for_ever() -> None:
        async with asyncio.timeout(0.05), db.write() as tx:
            await tx.execute(insert(meta).values(key="a", value="1"))
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait_for_ever()
    await put(db, "b")
    assert await keys(db) == ["b"]


async def test_closed_database_answers_with_a_database_error(db: Database):
    await db.close()
    with pytest.raises(DatabaseError, match="closed"):
        await keys(db)


async def test_close_waits_for_an_abandoned_statement(database_url: str):
    db = Database(database_url)
    await db.connect()

    async def read_slowly() -> None:
        async with db.read() as tx:
            started.set()
            await tx.execute(text(SLOW[db.dialect]))

    started = asyncio.Event()
    task = asyncio.create_task(read_slowly())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert db._cleaners
    await db.close()
    assert not db._cleaners


async def test_begin_gives_up_when_all_connections_are_in_use(database_url: str):
    db = Database(database_url, pool_size=1, max_overflow=0, timeout_s=0.3)
    await db.connect()
    async with db.read() as tx:
        await tx.execute(select(text("1")))
        with pytest.raises(DatabaseError):
            await asyncio.create_task(keys(db))
    await db.close()


async def test_check_passes_on_a_database_that_answers(db: Database):
    await db.check()


async def test_statement_beyond_its_limit_is_a_database_error_and_the_next_one_works(database_url: str):
    endless = {
        "sqlite": SLOW["sqlite"].replace("300000", "3000000"),
        "postgresql": "SELECT pg_sleep(20)",
    }
    db = Database(database_url, statement_timeout_s=0.2)
    with pytest.raises(DatabaseError):
        async with db.read() as tx:
            await tx.execute(text(endless[db.dialect]))
    await keys(db)
    await db.close()


async def test_sqlite_files_belong_to_their_owner_only(tmp_path: Path):
    db = Database(f"sqlite:///{tmp_path}/new/folder/gateway.db")
    await db.connect()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new/folder").iterdir()}
    await db.close()
    assert modes == {"gateway.db": 0o600, "gateway.db.lock": 0o600, "gateway.db.lock.next": 0o600}


async def test_sqlite_enforces_foreign_keys_and_syncs_fully(tmp_path: Path):
    db = Database(f"sqlite:///{tmp_path}/gateway.db")
    await db.connect()
    async with db.write() as tx:
        assert await tx.scalar(text("PRAGMA foreign_keys")) == 1
        assert await tx.scalar(text("PRAGMA synchronous")) == 2
        assert await tx.scalar(text("PRAGMA journal_mode")) == journal_mode().lower()
    await db.close()


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "DELETE"),
        ((3, 44, 5), "DELETE"),
        ((3, 44, 6), "WAL"),
        ((3, 45, 0), "DELETE"),
        ((3, 50, 6), "DELETE"),
        ((3, 50, 7), "WAL"),
        ((3, 51, 2), "DELETE"),
        ((3, 51, 3), "WAL"),
        ((3, 52, 0), "WAL"),
    ],
)
def test_wal_is_used_only_where_its_reset_bug_is_fixed(version: tuple[int, int, int], mode: str):
    assert journal_mode(version) == mode


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:////var/lib/x.db", "sqlite+pysqlite:////var/lib/x.db"),
        ("sqlite+aiosqlite:////var/lib/x.db", "sqlite+pysqlite:////var/lib/x.db"),
        ("sqlite:///x.db", f"sqlite+pysqlite:///{os.getcwd()}/x.db"),
        ("postgres://u:p@h/n", "postgresql+asyncpg://u:p@h/n"),
        ("postgresql://u:p@h:1/n?sslmode=require", "postgresql+asyncpg://u:p@h:1/n?ssl=require"),
        ("postgresql+asyncpg://h/n", "postgresql+asyncpg://h/n"),
    ],
)
def test_all_usual_forms_of_url_are_understood(given: str, used: str):
    assert DatabaseUrl.parse(given).url.render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense s3cret",
        "mysql://u:s3cret@h/n",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://u:s3cret@h:port/n",
    ],
)
def test_url_that_does_not_fit_is_a_config_error_without_its_text(given: str):
    with pytest.raises(ConfigError) as caught:
        Database(given)
    assert "s3cret" not in str(caught.value)


async def test_password_is_in_no_log_line_error_or_repr(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    db = Database("postgresql://user:s3cret@127.0.0.1:1/name?sslmode=disable", timeout_s=0.5)
    with pytest.raises(DatabaseError) as caught:
        await db.check()
    await db.close()
    assert "s3cret" not in caplog.text + str(caught.value) + repr(caught.value.__cause__) + repr(db)
