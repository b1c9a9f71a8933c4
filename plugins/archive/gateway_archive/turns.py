"""Whose turn it is to download, for all processes on one database.

A ticket waits, is granted a turn that it must take up within a minute (half a minute after it last asked, where it only
asks now and then), then is active. Rows are held for half a minute and renewed, so that a process that dies frees its
places by itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gateway_archive.tables import turns
from gateway_core import Conflict, Gateway
from gateway_core.db.transaction import Transaction

TOPIC = "archive.turns"
HOLD_S = 30.0
RENEW_S = 10.0
TAKE_UP_S = 60.0
WAITING, GRANTED, ACTIVE = "waiting", "granted", "active"
_PASSERBY = "-"
"""Holder of a place in the queue that nobody keeps a connection open for: of who does not ask again it is soon free."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ticket stands: ``position`` 0 is next; ``available`` means that its download may begin now."""

    position: int
    available: bool


class AlreadyWaiting(Conflict):
    """Somebody waits with this ticket already."""


class Turns:
    """The queue of one gateway's database."""

    def __init__(self, gateway: Gateway, *, limit: int) -> None:
        self._gateway, self._limit = gateway, limit
        self._held: set[str] = set()

    async def wait(self, ticket_id: str, waiter: str) -> Place:
        """Enter the queue, or stay in it; call again after each wake-up and every 10 s. Raises AlreadyWaiting."""
        async with self._gateway.db.write() as tx:
            rows = await self._rows(tx)
            mine = [row for row in rows if row.ticket_id == ticket_id]
            if any(row.state in {GRANTED, ACTIVE} for row in mine):
                place = Place(0, available=True)
            else:
                if mine and mine[0].holder not in {waiter, _PASSERBY}:
                    raise AlreadyWaiting("Already waiting")
                await self._enter(tx, mine, ticket_id=ticket_id, holder=waiter)
                place = await self._grant(tx, ticket_id)
        return place

    async def place(self, ticket_id: str) -> Place | None:
        """Where a ticket stands, which changes nothing; None for one that does not wait and is not served."""
        living = sa.select(turns).where(turns.c.until > self._gateway.db.now()).order_by(turns.c.number)
        async with self._gateway.db.read() as tx:
            rows = await tx.rows(living)
        mine = {row.state for row in rows if row.ticket_id == ticket_id}
        if mine & {GRANTED, ACTIVE}:
            return Place(0, available=True)
        return self._waiting_place(rows, ticket_id) if mine else None

    async def leave(self, ticket_id: str, waiter: str) -> None:
        """Give up the place in the queue."""
        gone = (turns.c.ticket_id == ticket_id, turns.c.holder == waiter, turns.c.state == WAITING)
        async with self._gateway.db.write() as tx:
            count = await tx.count(sa.delete(turns).where(*gone))
        if count:
            self._gateway.wakeups.publish(TOPIC)

    async def begin(self, ticket_id: str) -> str | Place:
        """Begin a download: the id of the turn, for ``end``; or the place in the queue while it is not its turn."""
        db = self._gateway.db
        async with db.write() as tx:
            mine = [row for row in await self._rows(tx) if row.ticket_id == ticket_id]
            granted = next((row.id for row in mine if row.state == GRANTED), None)
            if granted is None:
                waiting = [row for row in mine if row.state == WAITING]
                await self._enter(tx, waiting, ticket_id=ticket_id, holder=waiting[0].holder if waiting else _PASSERBY)
                place = await self._grant(tx, ticket_id)
                if not place.available:
                    return place
                granted = await tx.scalar(
                    sa.select(turns.c.id).where(turns.c.ticket_id == ticket_id, turns.c.state == GRANTED)
                )
            held = {"state": ACTIVE, "holder": self._gateway.instance, "until": db.now() + HOLD_S}
            await tx.execute(sa.update(turns).where(turns.c.id == granted).values(held))
        self._held.add(str(granted))
        return str(granted)

    async def end(self, turn_id: str) -> None:
        """The download has ended, however it did."""
        self._held.discard(turn_id)
        async with self._gateway.db.write() as tx:
            await tx.execute(sa.delete(turns).where(turns.c.id == turn_id))
        self._gateway.wakeups.publish(TOPIC)

    async def renew(self) -> None:
        """Hold on to the turns that ``begin`` has handed out, not to one whose request was cancelled meanwhile."""
        db = self._gateway.db
        if not self._held:
            return
        mine = turns.c.id.in_(sorted(self._held))
        async with db.write() as tx:
            await tx.execute(sa.update(turns).where(mine).values(until=db.now() + HOLD_S))

    async def _rows(self, tx: Transaction) -> Sequence[Any]:
        await tx.execute(sa.delete(turns).where(turns.c.until <= self._gateway.db.now()))
        return await tx.rows(sa.select(turns).order_by(turns.c.number))

    async def _enter(self, tx: Transaction, mine: Sequence[Any], *, ticket_id: str, holder: str) -> None:
        until = self._gateway.db.now() + HOLD_S
        if mine:
            await tx.execute(sa.update(turns).where(turns.c.id == mine[0].id).values(holder=holder, until=until))
            return
        number = sa.select(sa.func.coalesce(sa.func.max(turns.c.number), 0) + 1).scalar_subquery()
        row = {"id": uuid.uuid4().hex, "ticket_id": ticket_id, "number": number, "state": WAITING}
        await tx.execute(sa.insert(turns).values({**row, "holder": holder, "until": until}))

    async def _grant(self, tx: Transaction, ticket_id: str) -> Place:
        """Grant free places to those who wait longest; says where the ticket stands then."""
        db = self._gateway.db
        rows = await tx.rows(sa.select(turns).order_by(turns.c.number))
        for row in [row for row in rows if row.state == WAITING][: self._free(rows)]:
            until = row.until if row.holder == _PASSERBY else db.now() + TAKE_UP_S
            granted = {"state": GRANTED, "until": until}
            await tx.execute(sa.update(turns).where(turns.c.id == row.id).values(granted))
        return self._waiting_place(rows, ticket_id)

    def _free(self, rows: Sequence[Any]) -> int:
        taken = sum(1 for row in rows if row.state != WAITING)
        return max(0, self._limit - taken)

    def _waiting_place(self, rows: Sequence[Any], ticket_id: str) -> Place:
        """Where a ticket that waits stands when all free places are taken by those who wait longest."""
        waiting, free = [row.ticket_id for row in rows if row.state == WAITING], self._free(rows)
        position = waiting.index(ticket_id) if ticket_id in waiting else 0
        return Place(max(0, position - free), available=position < free)
