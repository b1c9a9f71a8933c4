"""The transactional outbox: things to do after a commit, which happen if and only if it happened.

At least once: whoever handles an item must bear it twice (give the receiver the item's ``id`` to tell).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Update, insert, null, select, tuple_, update

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.sweep import sweep_rows
from gateway_core.db.tables import outbox
from gateway_core.db.transaction import Transaction
from gateway_core.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """One thing to do. ``attempt`` counts from 1 and proves the claim; ``created`` is in Unix seconds."""

    id: str
    topic: str
    payload: Mapping[str, Any]
    attempt: int
    created: float


class Outbox:
    """Items in one database, by topic (at most 64 characters).

    Every method raises DatabaseError while the database cannot answer; those that end a claim raise LeaseLost when it
    has run out and somebody else has the item.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put(self, tx: Transaction, topic: str, payload: Mapping[str, Any], *, delay_s: float = 0.0) -> str:
        """Add an item in the caller's transaction, due ``delay_s`` after it; ``payload`` is JSON. Returns its id."""
        item_id = uuid.uuid4().hex
        row = {"id": item_id, "topic": topic, "payload": json.dumps(payload), "attempt": 0}
        await tx.execute(insert(outbox).values(**row, next_at=now() + delay_s, created=now()))
        return item_id

    async def claim(self, topic: str, *, limit: int, lease_s: float) -> list[OutboxItem]:
        """Up to ``limit`` due items, oldest first, each for this caller alone until ``lease_s`` have passed."""
        due = (
            select(outbox.c.id)
            .where(outbox.c.topic == topic, outbox.c.finished == null(), outbox.c.next_at <= now())
            .order_by(outbox.c.next_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        take = (
            update(outbox)
            .where(outbox.c.id.in_(select(due.c.id)))
            .values(attempt=outbox.c.attempt + 1, next_at=now() + lease_s)
            .returning(outbox.c.id, outbox.c.topic, outbox.c.payload, outbox.c.attempt, outbox.c.created)
        )
        async with self._db.write() as tx:
            rows = await tx.rows(take)
        items = (OutboxItem(row.id, row.topic, json.loads(row.payload), row.attempt, row.created) for row in rows)
        return sorted(items, key=lambda item: item.created)

    async def done(self, item: OutboxItem) -> None:
        """It is done and never comes again."""
        await self._end(item, _claimed(item).values(finished=now()))

    async def retry(self, item: OutboxItem, delay_s: float) -> None:
        """It failed; it is due again after ``delay_s``."""
        await self._end(item, _claimed(item).values(next_at=now() + delay_s))

    async def put_off(self, items: Sequence[OutboxItem], delay_s: float) -> None:
        """Nothing was done about them: they are due again after ``delay_s``, and their claims do not count.

        Those whose claim has run out are left to whoever has them now.
        """
        claims = [(item.id, item.attempt) for item in items]
        mine = update(outbox).where(tuple_(outbox.c.id, outbox.c.attempt).in_(claims), outbox.c.finished == null())
        async with self._db.write() as tx:
            await tx.execute(mine.values(attempt=outbox.c.attempt - 1, next_at=now() + delay_s))

    async def dead(self, item: OutboxItem, error: str) -> None:
        """It failed for good; the row stays, with ``error``, until it is swept."""
        await self._end(item, _claimed(item).values(finished=now(), error=error))

    async def next_due_s(self, topic: str) -> float | None:
        """Seconds until the next item is due, 0 when one is now, None when there is none: how long to sleep."""
        waiting = select(outbox.c.next_at - now()).where(outbox.c.topic == topic, outbox.c.finished == null())
        async with self._db.read() as tx:
            left = await tx.scalar(waiting.order_by(outbox.c.next_at).limit(1))
        return None if left is None else max(0.0, float(left))

    async def sweep(self, older_than_s: float) -> int:
        """Delete what was finished longer ago than that; how many."""
        return await sweep_rows(self._db, outbox, outbox.c.finished, before=now() - older_than_s)

    async def _end(self, item: OutboxItem, statement: Update) -> None:
        async with self._db.write() as tx:
            if not await tx.count(statement):
                raise LeaseLost(f"the claim on item {item.id} has run out")


def _claimed(item: OutboxItem) -> Update:
    return update(outbox).where(outbox.c.id == item.id, outbox.c.attempt == item.attempt, outbox.c.finished == null())
