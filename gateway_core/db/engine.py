"""The database: short transactions on SQLite or PostgreSQL that a cancelled task cannot damage."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ColumnElement, Table, select, true

from gateway_core.db import clock, drivers
from gateway_core.db.backoff import full_jitter_s
from gateway_core.db.failures import HOPELESS, sqlstate
from gateway_core.db.files import lock_path, make_file
from gateway_core.db.locks import WriterLock
from gateway_core.db.sqlalchemy_core import AsyncEngine
from gateway_core.db.sqlite_threads import SqliteEngine
from gateway_core.db.transaction import Connection, Transaction
from gateway_core.db.url import DatabaseUrl, Dialect
from gateway_core.errors import DatabaseError, StartupError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

AsyncTransaction = AbstractAsyncContextManager[Transaction]

log = logging.getLogger(__name__)

_MOST_READERS = 3


class Database:
    """One database, for one event loop; nothing is opened before the first transaction.

    ``pool_size`` and ``max_overflow`` are this process's share: connections kept and added under load (default 10 and
    5; SQLite: at most 3 readers, each a thread, and one writer). A transaction begins within ``timeout_s`` and a
    statement ends within ``statement_timeout_s``, or DatabaseError is raised. Raises ConfigError for a wrong URL.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int | None = None,
        max_overflow: int = 5,
        timeout_s: float = 5.0,
        statement_timeout_s: float = 10.0,
    ) -> None:
        self._url = DatabaseUrl.parse(url)
        self._timeout_s = timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._owners: set[asyncio.Task[Any]] = set()
        self._cleaners: set[asyncio.Task[None]] = set()
        self._closed = False
        self._lock: WriterLock | None = None
        self._reader: AsyncEngine | SqliteEngine
        self._writer: AsyncEngine | SqliteEngine
        if self._url.path is not None:
            self._lock = WriterLock(lock_path(self._url.path))
            self._reader = drivers.sqlite_reader(self._url, min(pool_size or _MOST_READERS, _MOST_READERS), timeout_s)
            self._writer = drivers.sqlite_writer(self._url, timeout_s)
        else:
            timeouts = drivers.Timeouts(connect_s=timeout_s, statement_s=statement_timeout_s)
            engine = drivers.postgresql(
                self._url, connections=pool_size or 10, overflow=max_overflow, timeouts=timeouts
            )
            self._writer = engine
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def __repr__(self) -> str:
        return f"Database({self._url.shown})"

    @property
    def dialect(self) -> Dialect:
        """``sqlite`` or ``postgresql``."""
        return self._url.dialect

    def read(self) -> AsyncTransaction:
        """A transaction that sees one state of the database and cannot change it; as short as ``write``."""
        return self._transaction(self._reader, None)

    def write(self) -> AsyncTransaction:
        """A transaction that is committed at the end of its block and rolled back by any exception, cancellation too.

        Await nothing but its statements in it: on SQLite it is the only writer of all processes. One transaction
        inside another of the same task raises RuntimeError. PostgreSQL runs it at READ COMMITTED.
        """
        return self._transaction(self._writer, self._lock)

    def now(self) -> ColumnElement[float]:
        """The database's clock in Unix seconds, as a SQL expression."""
        return clock.now()

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT with ``on_conflict_do_nothing`` and ``on_conflict_do_update``, which both databases understand."""
        if self.dialect == "sqlite":
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)

    async def connect(self, *, retry_for_s: float = 30.0) -> None:
        """Reach the database once; a server that is away is tried for ``retry_for_s``. Raises StartupError."""
        try:
            if self._url.path is not None:
                await asyncio.to_thread(make_file, self._url.path)
                async with self.write() as transaction:  # which also begins in earnest
                    await transaction.execute(select(true()))
                    return
            await self._connect_server(time.monotonic() + retry_for_s)
        except (OSError, DatabaseError) as error:
            raise StartupError(f"{self._url.shown}: {error}") from error

    async def check(self) -> None:
        """Raise DatabaseError when a query cannot be answered now."""
        async with self.read() as transaction:
            await transaction.execute(select(true()))

    async def close(self) -> None:
        """Wait for what abandoned transactions still do, then close; later use raises DatabaseError."""
        self._closed = True
        if self._cleaners:
            await asyncio.wait(self._cleaners, timeout=self._timeout_s + self._statement_timeout_s)
        await self._reader.dispose()
        await self._writer.dispose()
        if self._lock is not None:
            self._lock.close()

    async def _connect_server(self, deadline: float) -> None:
        attempt = 0
        while True:
            try:
                return await self.check()
            except DatabaseError as error:
                if sqlstate(error.__cause__)[:2] in HOPELESS or time.monotonic() > deadline:
                    raise
                log.warning("%s: %s, trying again", self._url.shown, error)
            await asyncio.sleep(0.1 + full_jitter_s(attempt, base_s=0.2, cap_s=2.0))
            attempt += 1

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine | SqliteEngine, lock: WriterLock | None
    ) -> AsyncIterator[Transaction]:
        owner = asyncio.current_task()
        if owner is None or owner in self._owners:
            raise RuntimeError("a database transaction inside another one of the same task")
        self._owners.add(owner)
        try:
            began = time.monotonic()
            await self._take(lock)
            transaction = Transaction(cast("Connection", engine.connect()), self._statement_timeout_s)
            try:
                await transaction.begin(max(0.1, began + self._timeout_s - time.monotonic()))
                yield transaction
                await transaction.commit()
            except (asyncio.CancelledError, DatabaseError):  # nobody waits for a server that does not answer
                self._abandon(transaction, lock)
                raise
            except BaseException:
                await asyncio.wait((self._abandon(transaction, lock),), timeout=self._timeout_s)
                raise
            if lock is not None:
                lock.release()
        finally:
            self._owners.discard(owner)

    async def _take(self, lock: WriterLock | None) -> None:
        if self._closed:
            raise DatabaseError("the database is closed")
        if lock is None:
            return
        try:
            await lock.acquire(self._timeout_s)
        except TimeoutError as error:
            raise DatabaseError("the database is busy") from error
        except OSError as error:
            raise DatabaseError("the lock file of the database cannot be opened") from error

    def _abandon(self, transaction: Transaction, lock: WriterLock | None) -> asyncio.Task[None]:
        cleaner = asyncio.create_task(_clean_up(transaction, lock), name="database clean-up")
        self._cleaners.add(cleaner)
        cleaner.add_done_callback(self._cleaners.discard)
        return cleaner


async def _clean_up(transaction: Transaction, lock: WriterLock | None) -> None:
    try:
        await transaction.abandon()
    finally:
        if lock is not None:
            lock.release()
