"""SQLite for an event loop: each connection is used by one thread at a time, one trip to it for a statement.

Drivers that offer sqlite3's calls one by one to the loop make six such trips for a transaction with one statement; here
they are two, one for BEGIN and the statement, one for COMMIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Executable, Row

T = TypeVar("T")


class SqliteEngine:
    """``connections`` at most, each with a thread to work in."""

    def __init__(self, engine: Engine, connections: int) -> None:
        self.sync_engine = engine
        self.threads = ThreadPoolExecutor(connections, thread_name_prefix="sqlite")
        self.places = asyncio.Semaphore(connections)

    def connect(self) -> SqliteConnection:
        """A connection, not yet taken from the pool."""
        return SqliteConnection(self)

    async def dispose(self) -> None:
        """Close what is idle; a thread that still works on a statement ends after it."""
        self.sync_engine.dispose()
        self.threads.shutdown(wait=False)


class SqliteConnection:
    """As ``transaction.Connection`` describes. BEGIN comes with the first statement; without one nothing is done.

    It has a place before it uses a thread: threads that wait for connections would keep those who could give one back
    from their work.
    """

    def __init__(self, engine: SqliteEngine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._placed = False

    async def start(self) -> None:
        """Wait for a place."""
        await self._engine.places.acquire()
        self._placed = True

    async def begin(self) -> None:
        """Nothing yet."""

    async def execute(self, statement: Executable, parameters: Any = None, /) -> Fetched:
        """Begin if that is still to do, run the statement and read its rows."""
        return await self._in_thread(lambda: self._run(statement, parameters))

    async def commit(self) -> None:
        """Commit and give the connection back."""
        connection = self._connection
        if connection is not None:
            await self._in_thread(lambda: _commit(connection))
        self._leave()

    async def rollback(self) -> None:
        """Roll back."""
        if self._connection is not None:
            await self._in_thread(self._connection.rollback)

    async def invalidate(self) -> None:
        """Close the driver's connection."""
        if self._connection is not None and not self._connection.closed:
            await self._in_thread(self._connection.invalidate)

    async def close(self) -> None:
        """Give it back, if it was not already."""
        try:
            if self._connection is not None and not self._connection.closed:
                await self._in_thread(self._connection.close)
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._placed:
            self._placed = False
            self._engine.places.release()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._engine.threads, work)

    def _run(self, statement: Executable, parameters: Any) -> Fetched:
        if self._connection is None:
            self._connection = self._engine.sync_engine.connect()
            self._connection.begin()
        result = self._connection.execute(statement, parameters)
        rows = result.all() if result.returns_rows else ()
        return Fetched(rows, result.rowcount)


@dataclass(frozen=True, slots=True)
class Fetched:
    """As ``transaction.Result`` describes."""

    rows: Sequence[Row[Any]]
    rowcount: int

    def all(self) -> Sequence[Row[Any]]:
        """All rows."""
        return self.rows

    def first(self) -> Row[Any] | None:
        """The first row, None when there is none."""
        return self.rows[0] if self.rows else None

    def scalar(self) -> Any:
        """First column of the first row, None when there is none."""
        return self.rows[0][0] if self.rows else None


def _commit(connection: Connection) -> None:
    connection.commit()
    connection.close()
