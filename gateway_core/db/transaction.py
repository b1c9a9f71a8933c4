"""One transaction, whose connection comes back whole whatever happens to the task that uses it.

A driver that is cancelled in the middle of a statement leaves a connection that is in use and in a transaction
(sqlalchemy#8145, asyncpg#1156). So each operation is a task of its own that is never cancelled: a caller that goes away
only stops waiting for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Executable, Row
from sqlalchemy.exc import SQLAlchemyError

from gateway_core.db.failures import as_unavailable
from gateway_core.errors import DatabaseError

Params = Mapping[str, Any] | Sequence[Mapping[str, Any]]
T = TypeVar("T")

log = logging.getLogger(__name__)


class Result(Protocol):
    """What a statement gave, all of it already read."""

    @property
    def rowcount(self) -> int:
        """How many rows an UPDATE or DELETE met."""

    def all(self) -> Sequence[Row[Any]]:
        """All rows."""

    def first(self) -> Row[Any] | None:
        """The first row, None when there is none."""

    def scalar(self) -> Any:
        """First column of the first row, None when there is none."""


class Connection(Protocol):
    """A connection of one of the two drivers, as SQLAlchemy's AsyncConnection has it."""

    async def start(self) -> object:
        """Take it from the pool."""

    async def begin(self) -> object:
        """Begin a transaction."""

    async def execute(self, statement: Executable, parameters: Any = None, /) -> Result:
        """Run a statement and read all it gives."""

    async def commit(self) -> None:
        """Make it durable."""

    async def rollback(self) -> None:
        """Undo it."""

    async def invalidate(self) -> None:
        """Never give this connection to anybody again."""

    async def close(self) -> None:
        """Give it back to the pool."""


class Transaction:
    """What ``Database.read`` and ``Database.write`` give; for the task that opened it, until its block ends.

    Statements raise DatabaseError when the database cannot answer, and SQLAlchemy's own IntegrityError for a
    constraint. After a failed statement the transaction can only be rolled back, as PostgreSQL demands: catch outside
    of the block, or use ``Database.insert`` with ``on_conflict_do_nothing``.
    """

    def __init__(self, connection: Connection, statement_timeout_s: float) -> None:
        self._connection = connection
        self._statement_timeout_s = statement_timeout_s
        self._pending: asyncio.Task[Any] | None = None
        self._failed = False
        self._broken = False
        self._open = False

    async def execute(self, statement: Executable, params: Params | None = None) -> Result:
        """Run ``statement`` (once for each of a list of ``params``) and return its rows, all of them already read."""
        if self._failed:
            raise RuntimeError("a statement of this transaction failed; its error must leave the block")
        if not self._open or self._pending is not None:
            raise RuntimeError("the transaction has ended, or another task is using it")
        return await self._run(self._connection.execute(statement, params), self._statement_timeout_s)

    async def rows(self, statement: Executable, params: Params | None = None) -> Sequence[Row[Any]]:
        """All rows."""
        return (await self.execute(statement, params)).all()

    async def first(self, statement: Executable, params: Params | None = None) -> Row[Any] | None:
        """The first row, None when there is none."""
        return (await self.execute(statement, params)).first()

    async def scalar(self, statement: Executable, params: Params | None = None) -> Any:
        """First column of the first row, None when there is none."""
        return (await self.execute(statement, params)).scalar()

    async def count(self, statement: Executable, params: Params | None = None) -> int:
        """How many rows an UPDATE or DELETE met."""
        return (await self.execute(statement, params)).rowcount

    @property
    def open(self) -> bool:
        """Whether it still holds its connection."""
        return self._open

    async def begin(self, timeout_s: float) -> None:
        """Take a connection and begin; for Database only."""
        self._open = True
        self._broken = True  # until it has begun, and from the commit on, only a new connection is a clean one
        await self._run(self._begin(), timeout_s)
        self._broken = False

    async def commit(self) -> None:
        """Commit and give the connection back; for Database only.

        A DatabaseError here may come after the commit: only a broken connection knows.
        """
        if self._failed:
            raise RuntimeError("a statement of this transaction failed; its error must leave the block")
        self._broken = True
        await self._run(self._commit(), self._statement_timeout_s)

    async def abandon(self) -> None:
        """Wait for the operation under way, roll back and give the connection back; for Database only."""
        if self._pending is not None:
            await asyncio.wait((self._pending,))
            self._broken = _broke(self._pending) or self._broken
        if not self._open:
            return
        self._open = False
        clean = False
        try:
            if not self._broken:
                await self._connection.rollback()
                clean = True
        except (SQLAlchemyError, OSError):
            log.info("a transaction could not be rolled back, its connection is dropped", exc_info=True)
        finally:
            with contextlib.suppress(SQLAlchemyError, OSError):  # also: a connection that was never made
                if not clean:
                    await self._connection.invalidate()
            with contextlib.suppress(SQLAlchemyError, OSError):
                await self._connection.close()

    async def _begin(self) -> None:
        await self._connection.start()
        await self._connection.begin()

    async def _commit(self) -> None:
        await self._connection.commit()
        await self._connection.close()
        self._open = False

    async def _run(self, operation: Coroutine[Any, Any, T], timeout_s: float) -> T:
        task = asyncio.create_task(operation)
        self._pending = task
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if not done:
            self._failed = True
            raise DatabaseError(f"the database did not answer in {timeout_s:.1f} s")
        self._pending = None
        try:
            return task.result()
        except Exception as error:
            self._failed = True
            self._broken = _broke(task) or self._broken
            unavailable = as_unavailable(error)
            if unavailable is None:
                raise
            raise unavailable from error


def _broke(ended: asyncio.Task[Any]) -> bool:
    if ended.cancelled():
        return True
    error = ended.exception()
    return error is not None and as_unavailable(error) is not None
