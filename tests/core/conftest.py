"""Databases and services for the core's tests; everything that touches SQL runs on both databases."""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete

from gateway_core.db.engine import Database
from gateway_core.db.migrate import CORE, run_migrations
from gateway_core.db.tables import metadata
from gateway_core.testing.services import PrivatePostgres, PrivateRedis, private_postgres, private_redis, require

BOTH = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PrivatePostgres]:
    """One server for the session; a test that kills it starts it again."""
    require("postgres")
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    """One server for the session; a test that kills it starts it again."""
    require("redis")
    with private_redis() as server:
        yield server


@pytest.fixture(params=BOTH)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    return request.getfixturevalue("postgres_server").create(f"empty_{uuid4().hex}")


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database with the core's tables: a file of the test's own, or one PostgreSQL database for all tests."""
    if request.param == "postgresql":
        return request.getfixturevalue("migrated_postgres_url")
    shutil.copy(request.getfixturevalue("migrated_sqlite_file"), tmp_path / "gateway.db")
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A connected database with the core's tables, all of them empty."""
    database = await emptied(Database(database_url))
    yield database
    await database.close()


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_sqlite_file: Path) -> str:
    """URL of an SQLite database with the core's tables."""
    shutil.copy(migrated_sqlite_file, tmp_path / "gateway.db")
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "gateway.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres_server: PrivatePostgres) -> str:
    url = postgres_server.create("migrated")
    migrate(url)
    return url


def migrate(url: str) -> None:
    """Migrate from code without a running loop; in a thread, so that the loop of the tests is left alone."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run_migrations(url, [CORE])).result()


async def emptied(database: Database) -> Database:
    await database.connect()
    async with database.write() as tx:
        for table in reversed(metadata.sorted_tables):
            await tx.execute(delete(table))
    return database


@pytest.fixture
def no_forgotten_failure(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails the test when a task of it ended with an exception that nobody looked at."""
    gc.freeze()  # what is there already is not looked through: with the heap of a long session that takes half a second
    caplog.clear()
    yield
    gc.collect()
    gc.unfreeze()
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert not [record for record in records if "never retrieved" in record.getMessage()]
