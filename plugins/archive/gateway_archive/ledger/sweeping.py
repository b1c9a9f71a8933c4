"""Removing what nobody needs any more: rows and journals of tickets that are gone, and what has become old."""

from __future__ import annotations

import asyncio
from typing import Final

import sqlalchemy as sa

from gateway_archive.ledger.journal import journaled_tickets, sweep_journals
from gateway_archive.ledger.learned import Learned
from gateway_archive.ledger.responses import Responses
from gateway_archive.tables import layouts, losses, responses, segments, tickets
from gateway_core import Gateway
from gateway_core.db.engine import Database

FOLDER: Final = "archive"
"""Name of the journals' folder in the data folder."""
_OF_TICKETS: Final = (layouts, responses, segments, losses)
_BATCH: Final = 500


async def sweep_ledger(gateway: Gateway, keep_s: float) -> None:
    """Sweep the database, once for the whole cluster; ``keep_s`` is as for ``Learned``. Raises DatabaseError."""
    await sweep_orphans(gateway.db)
    await Responses(gateway).sweep()
    await Learned(gateway, keep_s).sweep()


async def sweep_machine(gateway: Gateway) -> int:
    """Sweep the journals of this machine, which no other one can; how many. Raises DatabaseError and OSError."""
    folder = gateway.settings.data_dir / FOLDER
    named = await asyncio.to_thread(journaled_tickets, folder)
    living: set[str] = set()
    for first in range(0, len(named), _BATCH):
        batch = named[first : first + _BATCH]
        async with gateway.db.read() as tx:
            living.update(row.id for row in await tx.rows(sa.select(tickets.c.id).where(tickets.c.id.in_(batch))))
    return await asyncio.to_thread(sweep_journals, folder, living)


async def sweep_orphans(db: Database) -> int:
    """Delete the rows of tickets that are gone, some hundreds a transaction; how many. Raises DatabaseError."""
    deleted = 0
    for table in _OF_TICKETS:
        key = tuple(table.primary_key.columns)
        orphans = sa.select(*key).where(~sa.exists().where(tickets.c.id == table.c.ticket_id)).limit(_BATCH)
        while True:
            async with db.read() as tx:
                doomed = await tx.rows(orphans)  # mostly none: then nobody has to wait for a write
            if not doomed:
                break
            async with db.write() as tx:
                deleted += await tx.count(sa.delete(table).where(sa.tuple_(*key).in_([tuple(row) for row in doomed])))
    return deleted
