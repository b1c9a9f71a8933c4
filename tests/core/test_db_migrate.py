"""Migrations: what is pending, upgrades that happen whole or not at all, and starters that race."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy import column, insert, inspect, select, table, text

from gateway_core.db import alembic_run
from gateway_core.db.engine import Database
from gateway_core.db.migrate import CORE, MigrationSource, pending, run_migrations
from gateway_core.db.tables import meta, metadata
from gateway_core.errors import ConfigError, StartupError

FIRST = """
import sqlalchemy as sa
from alembic import op
revision = "x1"
down_revision = None
def upgrade():
    op.create_table("x", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
def downgrade():
    op.drop_table("x")
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision: str = "x2"
down_revision: str | None = "x1"
def upgrade() -> None:
    with op.batch_alter_table("x") as batch:
        batch.alter_column("name", new_column_name="title", existing_type=sa.Text)
def downgrade() -> None:
    with op.batch_alter_table("x") as batch:
        batch.alter_column("title", new_column_name="name", existing_type=sa.Text)
"""
BROKEN = """
import sqlalchemy as sa
from alembic import op
revision = "x2"
down_revision = "x1"
def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("this is not SQL")
def downgrade():
    pass
"""


def plugin(folder: Path, *scripts: str, name: str = "hello") -> MigrationSource:
    versions = folder / name / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    for number, script in enumerate(scripts):
        (versions / f"{number:04}_step.py").write_text(script)
    return MigrationSource(name, str(versions.parent))


async def apply(url: str, sources: list[MigrationSource], command: str = "upgrade", target: str | None = None) -> None:
    """What the child does, without the second it takes to start one."""
    order = {"url": url, "sources": [asdict(source) for source in sources], "command": command, "target": target}
    assert await asyncio.to_thread(alembic_run.main, json.dumps(order)) == 0


async def tables(url: str) -> set[str]:
    db = Database(url)
    await db.connect()
    async with db.read() as tx:
        names = {
            "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
            "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        }
        found = {row[0] for row in await tx.rows(text(names[db.dialect]))}
    await db.close()
    return found


async def state(url: str, *sources: MigrationSource) -> dict[str, tuple[str | None, str | None]]:
    db = Database(url)
    await db.connect()
    try:
        return await pending(db, sources)
    finally:
        await db.close()


async def test_new_database_is_before_the_first_revision_and_after_migrating_at_the_last(
    empty_database_url: str, tmp_path: Path
):
    hello = plugin(tmp_path, FIRST, SECOND)
    assert await state(empty_database_url, CORE, hello) == {"core": (None, "core_0001"), "hello": (None, "x2")}
    await run_migrations(empty_database_url, [CORE, hello])
    assert await state(empty_database_url, CORE, hello) == {"core": ("core_0001", "core_0001"), "hello": ("x2", "x2")}


async def test_core_migrations_make_exactly_the_tables_of_the_code(database_url: str):
    db = Database(database_url)
    await db.connect()
    if db.dialect == "sqlite":
        with db._reader.sync_engine.connect() as connection:
            differences = compare(connection)
    else:
        async with db._reader.connect() as connection:
            differences = await connection.run_sync(compare)
    await db.close()
    assert differences == []


def compare(connection) -> list[object]:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    def ours(_object, name, kind, _reflected, _compared) -> bool:
        if name == "uq_clients_name":  # stands in the migration alone, see db/tables.py
            return False
        return not (kind == "table" and name.startswith("alembic_version"))

    context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": ours})
    names = {index["name"] for table in metadata.tables for index in inspect(connection).get_indexes(table)}
    missing = [index.name for table in metadata.sorted_tables for index in table.indexes if index.name not in names]
    return [*compare_metadata(context, metadata), *missing]


async def test_each_source_has_its_own_version_table(empty_database_url: str, tmp_path: Path):
    await apply(empty_database_url, [CORE, plugin(tmp_path, FIRST)])
    assert {"alembic_version_core", "alembic_version_hello", "x"} <= await tables(empty_database_url)


async def test_source_can_be_taken_out_and_put_back(empty_database_url: str, tmp_path: Path):
    hello = plugin(tmp_path, FIRST)
    await apply(empty_database_url, [CORE, hello])
    await apply(empty_database_url, [CORE])
    hello = plugin(tmp_path, FIRST, SECOND)
    await apply(empty_database_url, [CORE, hello])
    assert (await state(empty_database_url, hello))["hello"] == ("x2", "x2")


async def test_rows_survive_a_batch_operation(empty_database_url: str, tmp_path: Path):
    await apply(empty_database_url, [plugin(tmp_path, FIRST)])
    db = Database(empty_database_url)
    async with db.write() as tx:
        await tx.execute(insert(table("x", column("id"), column("name"))).values(id=1, name="kept"))
    await apply(empty_database_url, [plugin(tmp_path, FIRST, SECOND)])
    async with db.read() as tx:
        assert await tx.scalar(select(column("title")).select_from(table("x"))) == "kept"
    await db.close()


async def test_failing_migration_leaves_nothing_behind_of_any_source(empty_database_url: str, tmp_path: Path):
    with pytest.raises(StartupError, match="not") as caught:
        await run_migrations(empty_database_url, [CORE, plugin(tmp_path, FIRST, BROKEN)])
    assert "Traceback" not in str(caught.value)
    assert await tables(empty_database_url) == set()


async def test_downgrade_undoes_one_source_to_a_revision_and_all_of_them_to_nothing(
    empty_database_url: str, tmp_path: Path
):
    hello = plugin(tmp_path, FIRST, SECOND)
    await apply(empty_database_url, [CORE, hello])
    await apply(empty_database_url, [hello], "downgrade", target="x1")
    assert (await state(empty_database_url, hello))["hello"] == ("x1", "x2")
    await apply(empty_database_url, [CORE, hello], "downgrade")
    assert await tables(empty_database_url) == {"alembic_version_core", "alembic_version_hello"}


async def test_upgrade_to_a_target_stops_there(empty_database_url: str, tmp_path: Path):
    hello = plugin(tmp_path, FIRST, SECOND)
    await apply(empty_database_url, [hello], "upgrade", target="x1")
    assert (await state(empty_database_url, hello))["hello"] == ("x1", "x2")


async def test_target_for_several_sources_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="the one plugin"):
        await run_migrations("sqlite:///never.db", [CORE, plugin(tmp_path, FIRST)], "upgrade", target="x1")


async def test_database_newer_than_the_code_is_told_by_both_ways(empty_database_url: str, tmp_path: Path):
    await apply(empty_database_url, [plugin(tmp_path / "new", FIRST, SECOND)])
    old = plugin(tmp_path / "old", FIRST)
    with pytest.raises(StartupError, match="revision x2 of hello, which this version does not know"):
        await state(empty_database_url, old)
    with pytest.raises(StartupError, match="revision x2 of hello, which this version does not know"):
        await run_migrations(empty_database_url, [old])


async def test_three_starters_at_once_all_succeed(empty_database_url: str, tmp_path: Path):
    sources = [CORE, plugin(tmp_path, FIRST, SECOND)]
    await asyncio.gather(*(run_migrations(empty_database_url, sources) for _ in range(3)))
    assert (await state(empty_database_url, *sources))["hello"] == ("x2", "x2")


async def test_migration_waits_for_a_writer_and_does_not_lose_its_row(sqlite_url: str, tmp_path: Path):
    db = Database(sqlite_url)
    async with db.write() as tx:
        migrating = asyncio.create_task(run_migrations(sqlite_url, [plugin(tmp_path, FIRST)]))
        await asyncio.wait((migrating,), timeout=1.5)
        assert not migrating.done()
        await tx.execute(insert(meta).values(key="a", value="1"))
    await migrating
    async with db.read() as tx:
        assert await tx.scalar(select(meta.c.value)) == "1"
    await db.close()


async def test_unreachable_server_is_a_startup_error_without_the_password():
    with pytest.raises(StartupError, match="could not be migrated") as caught:
        await run_migrations("postgresql://user:s3cret@127.0.0.1:1/name", [CORE])
    assert "s3cret" not in str(caught.value)


async def test_url_is_not_among_the_arguments_of_the_child(sqlite_url: str, tmp_path: Path):
    waits = FIRST.replace(
        "def upgrade():", "def upgrade():\n    import pathlib, time\n    while not WAIT.exists(): time.sleep(0.01)"
    )
    waits = waits.replace("revision =", f"import pathlib\nWAIT = pathlib.Path({str(tmp_path / 'go')!r})\nrevision =", 1)
    migrating = asyncio.create_task(run_migrations(sqlite_url, [plugin(tmp_path, waits)]))
    lines: list[bytes] = []
    while not lines:
        await asyncio.sleep(0.02)
        lines = migrations_running()
    (tmp_path / "go").touch()
    await migrating
    assert not [line for line in lines if b"sqlite" in line]


def migrations_running() -> list[bytes]:
    """Command lines of those children of this process that migrate."""
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    found = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
    return [line for line in found if b"gateway_core.db.migrate" in line]


async def test_cancelled_migration_kills_its_child_and_leaves_no_lock(sqlite_url: str, tmp_path: Path):
    begun = tmp_path / "begun"
    endless = FIRST.replace(
        "def upgrade():",
        f"def upgrade():\n    import pathlib, time\n    pathlib.Path({str(begun)!r}).touch()\n    time.sleep(60)",
    )
    migrating = asyncio.create_task(run_migrations(sqlite_url, [plugin(tmp_path, endless)]))
    while not begun.exists():
        assert not migrating.done()
        await asyncio.sleep(0.02)
    assert migrations_running()
    migrating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await migrating
    assert not migrations_running()
    await run_migrations(sqlite_url, [CORE])


@pytest.mark.parametrize("name", ["", "Hello", "a-b", "1a", 'x"; DROP'])
def test_name_that_cannot_be_a_table_is_refused(name: str):
    with pytest.raises(ConfigError):
        MigrationSource(name, CORE.directory)


def test_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no folder"):
        MigrationSource("hello", str(tmp_path))


async def test_scripts_with_two_heads_are_refused(sqlite_url: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="x2, x3"):
        await state(sqlite_url, plugin(tmp_path, FIRST, SECOND, SECOND.replace('"x2"', '"x3"')))


def test_server_loads_neither_alembic_nor_what_it_is_not_configured_for():
    code = """
import sys
from gateway_core.db import engine, idempotency, migrate, outbox, periodic, wakeups
engine.Database("sqlite:///never-opened.db")
print(*sorted({"alembic", "asyncpg", "redis"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, check=True)
    assert ended.stdout == b"\n"
