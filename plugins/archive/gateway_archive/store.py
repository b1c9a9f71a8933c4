"""Tickets in the database: made, found, listed, dropped; their items are encrypted."""

from __future__ import annotations

import asyncio
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, overload

import sqlalchemy as sa
from pydantic import TypeAdapter

from gateway_archive.tables import tickets
from gateway_archive.tickets import Item, Options, Order, Ticket, TicketType
from gateway_core import Gateway, NotFound
from gateway_core.auth.keyring import Keyring
from gateway_core.db.sweep import sweep_rows

PAGE_SIZE = 10
_ITEMS = TypeAdapter(tuple[Item, ...])
_KNOWN_OF_OPTIONS = set(Options.model_fields)
_IN_THREAD_BYTES = 256 << 10
_PART_ITEMS = 200
_PARTS_KEPT = 16
_HEAD = (tickets.c.id, tickets.c.client_id, tickets.c.type, tickets.c.created, tickets.c.expires, tickets.c.options)


class TicketStore:
    """All tickets; one that has expired is not found any more, swept or not."""

    def __init__(self, gateway: Gateway, *, ttl_s: float) -> None:
        self._gateway = gateway
        self._ttl_s = ttl_s

    async def create(self, order: Order, client_id: str) -> Ticket:
        """Store what is known of an order's fields; when this returns, it lasts."""
        db = self._gateway.db
        ticket_id = str(uuid.uuid4())
        items = await _threaded(self._seal, order.items)
        life_s = order.options.expires_in or self._ttl_s
        row = {
            "id": ticket_id,
            "client_id": client_id,
            "type": order.type.value,
            "created": db.now(),
            "expires": db.now() + life_s,
            "options": order.options.model_dump_json(include=_KNOWN_OF_OPTIONS, exclude_defaults=True),
            "items": items,
        }
        async with db.write() as tx:
            await tx.execute(sa.insert(tickets).values(row))
            created = await tx.scalar(sa.select(tickets.c.created).where(tickets.c.id == ticket_id))
        return Ticket(ticket_id, client_id, order.type, created, created + life_s, order.options, order.items)

    async def get(self, ticket_id: str) -> Ticket:
        """The ticket with its items; raises NotFound."""
        db = self._gateway.db
        query = sa.select(*_HEAD, tickets.c["items"]).where(tickets.c.id == ticket_id, tickets.c.expires > db.now())
        async with db.read() as tx:
            row = await tx.first(query)
        if row is None:
            raise NotFound("Ticket not found")
        return replace(_ticket(row), items=await _threaded(self._unseal, row[-1]))

    async def head(self, ticket_id: str) -> Ticket:
        """The ticket without its items; raises NotFound."""
        db = self._gateway.db
        async with db.read() as tx:
            row = await tx.first(sa.select(*_HEAD).where(tickets.c.id == ticket_id, tickets.c.expires > db.now()))
        if row is None:
            raise NotFound("Ticket not found")
        return _ticket(row)

    async def exists(self, ticket_id: str) -> bool:
        """Whether there is such a ticket, expired or not."""
        async with self._gateway.db.read() as tx:
            return bool(await tx.scalar(sa.select(sa.exists().where(tickets.c.id == ticket_id))))

    async def page(self, number: int, client_id: str | None) -> tuple[int, Sequence[Ticket]]:
        """How many tickets live, of one client or of all, and the ``number``-th ten of them, oldest first."""
        db = self._gateway.db
        alive = tickets.c.expires > db.now()
        mine = alive if client_id is None else sa.and_(alive, tickets.c.client_id == client_id)
        query = sa.select(*_HEAD).where(mine).order_by(tickets.c.created, tickets.c.id)
        async with db.read() as tx:
            count = await tx.scalar(sa.select(sa.func.count()).select_from(tickets).where(mine))
            rows = await tx.rows(query.limit(PAGE_SIZE).offset(PAGE_SIZE * (number - 1)))
        return count, [_ticket(row) for row in rows]

    async def everything(self) -> Sequence[Ticket]:
        """All living tickets, oldest first, without items."""
        db = self._gateway.db
        query = sa.select(*_HEAD).where(tickets.c.expires > db.now()).order_by(tickets.c.created, tickets.c.id)
        async with db.read() as tx:
            return [_ticket(row) for row in await tx.rows(query)]

    async def drop(self, ticket_id: str) -> bool:
        """Remove the ticket; False when there was none."""
        async with self._gateway.db.write() as tx:
            return bool(await tx.count(sa.delete(tickets).where(tickets.c.id == ticket_id)))

    async def drop_all(self) -> int:
        """Remove all tickets; returns how many."""
        async with self._gateway.db.write() as tx:
            return await tx.count(sa.delete(tickets))

    async def sweep(self) -> int:
        """Remove expired tickets, with the headers and URLs they carry; returns how many."""
        db = self._gateway.db
        return await sweep_rows(db, tickets, tickets.c.expires, before=db.now())

    def _seal(self, items: Sequence[Item]) -> str:
        parts = (tuple(items[first : first + _PART_ITEMS]) for first in range(0, len(items), _PART_ITEMS))
        return " ".join(_sealed(self._gateway.keyring, part) for part in parts)

    def _unseal(self, text: str) -> Sequence[Item]:
        return _SealedItems(self._gateway.keyring, text)


class _SealedItems(Sequence[Item]):
    """Items as they are stored, some hundred decrypted and decoded when one of them is wanted; for all threads.

    ``text`` has their tokens with spaces between: equally many items in each but the last. Tickets of earlier versions
    have all in one.
    """

    def __init__(self, keyring: Keyring, text: str) -> None:
        self._tokens = text.split(" ")
        self._unsealed = partial(_unsealed, keyring)
        self._part = lru_cache(_PARTS_KEPT)(self._unsealed)  # as many places as answers read of one ticket at once
        self._part_items = len(self._part(self._tokens[0]))
        self._count = (len(self._tokens) - 1) * self._part_items + len(self._part(self._tokens[-1]))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        found = range(self._count)[index]
        if isinstance(found, range):
            return [self[number] for number in found]
        part, number = divmod(found, self._part_items)
        return self._part(self._tokens[part])[number]

    def __iter__(self) -> Iterator[Item]:
        for token in self._tokens:
            yield from self._unsealed(token)


def _sealed(keyring: Keyring, items: tuple[Item, ...]) -> str:
    return keyring.encrypt(zlib.compress(_ITEMS.dump_json(items, exclude_defaults=True), 1)).decode()


def _unsealed(keyring: Keyring, token: str) -> tuple[Item, ...]:
    return _ITEMS.validate_json(zlib.decompress(keyring.decrypt(token.encode())))


async def _threaded(work: Any, value: Any) -> Any:
    """Run ``work(value)``, in a thread where it would hold up the loop."""
    if len(value) > (_IN_THREAD_BYTES if isinstance(value, str) else 1000):
        return await asyncio.to_thread(work, value)
    return work(value)


def _ticket(row: Any) -> Ticket:
    return Ticket(
        id=row.id,
        client_id=row.client_id,
        type=TicketType(row.type),
        created=row.created,
        expires=row.expires,
        options=Options.model_validate_json(row.options),
    )
