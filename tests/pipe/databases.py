"""Fixtures for what touches SQL or Redis: it runs on both databases, with the plugin's tables. Loaded as a plugin."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete

from gateway_core.db.engine import Database
from gateway_core.db.migrate import CORE, run_migrations
from gateway_core.db.tables import metadata as core_metadata
from gateway_core.testing.services import PrivatePostgres, PrivateRedis, private_postgres, private_redis, require
from gateway_pipe import plugin
from gateway_pipe.tables import metadata

BOTH = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def pipe_postgres() -> Iterator[PrivatePostgres]:
    """One server for the session."""
    require("postgres")
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def pipe_redis() -> Iterator[PrivateRedis]:
    """One server for the session; a test that kills it starts it again."""
    require("redis")
    with private_redis() as server:
        yield server


@pytest.fixture(scope="session")
def pipe_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "gateway.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def pipe_postgres_url(pipe_postgres: PrivatePostgres) -> str:
    url = pipe_postgres.create("migrated")
    migrate(url)
    return url


@pytest.fixture(params=BOTH)
def pipe_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database with all tables: a file of the test's own, or one PostgreSQL database for all tests."""
    if request.param == "postgresql":
        return request.getfixturevalue("pipe_postgres_url")
    shutil.copy(request.getfixturevalue("pipe_sqlite_file"), tmp_path / "gateway.db")
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
async def pipe_db(pipe_url: str) -> AsyncIterator[Database]:
    """A connected database with the core's and the plugin's tables, all of them empty."""
    database = Database(pipe_url)
    await database.connect()
    async with database.write() as tx:
        for table in (*core_metadata.sorted_tables, *metadata.sorted_tables):
            await tx.execute(delete(table))
    yield database
    await database.close()


def migrate(url: str) -> None:
    """Migrate from code without a running loop; in a thread, so that the loop of the tests is left alone."""
    sources = [CORE, plugin.gateway_migrations()]
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run_migrations(url, sources)).result()
