"""Writes of many answers in few transactions: each commit waits for the disk, and there is one at a time."""

from __future__ import annotations

import asyncio

from sqlalchemy import Executable

from gateway_core.db.engine import Database
from gateway_core.errors import GatewayError

_MOST = 200


class Together:
    """One for a process. What is put while a transaction runs goes into the next one, in the order it came."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: list[tuple[Executable, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def put(self, statement: Executable) -> None:
        """Execute a statement that no other one depends on; when this returns, it lasts.

        Cancelling the caller does not take it back. Raises DatabaseError, also for what went wrong with another
        statement of the transaction.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="archive ledger")
        await done

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                error = await self._commit([statement for statement, _ in batch])
                for _, done in batch:
                    if done.done():  # cancelled
                        continue
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)
        finally:
            self._writing = None
            for _, done in self._waiting:
                done.cancel()

    async def _commit(self, statements: list[Executable]) -> GatewayError | None:
        try:
            async with self._db.write() as tx:
                for statement in statements:
                    await tx.execute(statement)
        except GatewayError as error:
            return error
        return None
