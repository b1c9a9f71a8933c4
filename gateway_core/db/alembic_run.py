"""The child process that migrates: the only place where Alembic is imported. Started by ``migrate.run_migrations``."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway_core.db.files import journal_mode, lock_path, make_file
from gateway_core.db.locks import writer_lock
from gateway_core.db.migrate import MigrationSource, newer
from gateway_core.db.url import DatabaseUrl
from gateway_core.errors import GatewayError, StartupError

_LOCK_WAIT_S = 60.0
_ADVISORY_LOCK = 0x67617465776179  # "gateway"
_TABLE_LOCK_WAIT = "30s"
_RANDOM = random.SystemRandom()


def main(order: str) -> int:
    """Do what ``order`` (JSON of ``run_migrations``) says; the exit code, with the reason of a failure on stderr."""
    wanted = json.loads(order)
    sources = [MigrationSource(**source) for source in wanted["sources"]]
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    def work(connection: Connection) -> None:
        for source in sources if wanted["command"] == "upgrade" else reversed(sources):
            _migrate(connection, source, command=wanted["command"], target=wanted["target"])

    try:
        url = DatabaseUrl.parse(wanted["url"])
        if url.path is not None:
            _on_sqlite(url, work)
        else:
            asyncio.run(_on_postgresql(url, work))
    except (GatewayError, CommandError, RevisionError, SQLAlchemyError, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        sys.stderr.write(f"the database could not be migrated: {reason}\n")
        return 1
    return 0


def _on_sqlite(url: DatabaseUrl, work: Callable[[Connection], None]) -> None:
    assert url.path is not None
    make_file(url.path)
    engine = create_engine(
        url.url.set(drivername="sqlite+pysqlite"),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": _LOCK_WAIT_S, "isolation_level": None},
    )

    def on_connect(connection: Any, _record: Any) -> None:
        # enforced keys would empty the referring tables when a batch operation replaces a table
        for pragma in ("foreign_keys=OFF", "synchronous=FULL", f"journal_mode={journal_mode()}"):
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with writer_lock(lock_path(url.path), _LOCK_WAIT_S), engine.begin() as connection:
            work(connection)
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise StartupError("it would leave rows that refer to rows that are not there")
    except TimeoutError:
        raise StartupError(f"another process held it for {_LOCK_WAIT_S:.0f} s") from None


async def _on_postgresql(url: DatabaseUrl, work: Callable[[Connection], None]) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url.url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": 10.0})
    try:
        async with engine.begin() as connection:
            deadline = time.monotonic() + _LOCK_WAIT_S
            asked = text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
            while not await connection.scalar(*asked):
                if time.monotonic() > deadline:
                    raise StartupError(f"another process was migrating it for {_LOCK_WAIT_S:.0f} s")
                await asyncio.sleep(_RANDOM.uniform(0.05, 0.2))
            await connection.execute(text(f"SET LOCAL lock_timeout = '{_TABLE_LOCK_WAIT}'"))
            await connection.run_sync(work)
    finally:
        await engine.dispose()


def _migrate(connection: Connection, source: MigrationSource, *, command: str, target: str | None) -> None:
    scripts = ScriptDirectory(source.directory)
    revisions = scripts.revision_map
    known = {script.revision for script in scripts.walk_revisions()}

    def steps(heads: Sequence[str], _context: MigrationContext) -> list[MigrationStep]:
        current = heads[0] if heads else None
        if current is not None and current not in known:
            raise StartupError(newer(source.name, current))
        if command == "upgrade":
            up = list(scripts.iterate_revisions(target or "head", current))
            return [MigrationStep.upgrade_from_script(revisions, script) for script in reversed(up)]
        down = scripts.iterate_revisions(current, target)
        return [MigrationStep.downgrade_from_script(revisions, script) for script in down]

    # the transaction around all sources is ours: Alembic sees it and begins none of its own
    context = MigrationContext.configure(
        connection,
        opts={"fn": steps, "version_table": source.version_table, "transactional_ddl": True, "render_as_batch": True},
    )
    with Operations.context(context):
        context.run_migrations()
