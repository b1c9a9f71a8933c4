"""Deleting old rows without holding everybody else up."""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, Table, delete, select, tuple_

from gateway_core.db.engine import Database


async def sweep_rows(
    db: Database, table: Table, column: Column[float], *, before: ColumnElement[float] | float, batch: int = 500
) -> int:
    """Delete the rows of ``table`` whose ``column`` is less than ``before``, ``batch`` a transaction; how many.

    Raises DatabaseError; what was deleted before it stays deleted.
    """
    key = tuple_(*table.primary_key.columns)
    doomed = select(*table.primary_key.columns).where(column < before).limit(batch)
    statement = delete(table).where(key.in_(doomed), column < before)
    deleted = 0
    while True:
        async with db.write() as tx:
            count = await tx.count(statement)
        deleted += count
        if count < batch:
            return deleted
