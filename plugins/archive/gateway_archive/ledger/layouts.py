"""Layouts of tickets in the database, one for each format, and the entries that were lost on the way."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from gateway_archive.layout.frozen import Frozen
from gateway_archive.report import Failure
from gateway_archive.tables import layouts, losses
from gateway_core import Gateway
from gateway_core.errors import StartupError

_IN_THREAD_ENTRIES: Final = 1000
_IN_THREAD_BYTES: Final = 32 << 10
_IN_THREAD_LOSSES: Final = 100
_UNREADABLE: Final = Failure("a file", "", "failed", "failed: why cannot be read any more")
_UNPACKED_AT_ONCE_BYTES: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which layout is stored: ``generation`` counts from 1, ``stale`` are the items that must be asked again."""

    etag: str
    generation: int
    stale: frozenset[int] = frozenset()


class Layouts:
    """What all processes agree on for a ticket's archives; methods raise DatabaseError."""

    def __init__(self, gateway: Gateway) -> None:
        self._db, self._keyring = gateway.db, gateway.keyring

    async def stamp(self, ticket_id: str, format_name: str) -> Stamp | None:
        """Which layout is stored, be it one of another version; None for none."""
        query = sa.select(layouts.c.etag, layouts.c.generation, layouts.c.stale).where(*_key(ticket_id, format_name))
        async with self._db.read() as tx:
            row = await tx.first(query)
        return None if row is None else _stamp(row)

    async def load(self, ticket_id: str, format_name: str) -> tuple[Stamp, Frozen] | None:
        """The layout; None for none, or for one that cannot be read, of which ``stamp`` still tells."""
        query = sa.select(layouts.c.etag, layouts.c.generation, layouts.c.stale, layouts.c.frozen)
        async with self._db.read() as tx:
            row = await tx.first(query.where(*_key(ticket_id, format_name)))
        if row is None:
            return None
        if len(row.frozen) > _IN_THREAD_BYTES:
            frozen = await asyncio.to_thread(self._unseal, row.frozen)
        else:
            frozen = self._unseal(row.frozen)
        return None if frozen is None else (_stamp(row), frozen)

    async def store(
        self, ticket_id: str, format_name: str, *, etag: str, frozen: Frozen, after: Stamp | None
    ) -> Stamp | None:
        """Store it in the place of ``after``, or as the first one; None when somebody else was faster.

        It is the next generation unless it has the ETag of ``after``, and nothing of it is stale.
        """
        sealed = await asyncio.to_thread(self._seal, frozen) if len(frozen) > _IN_THREAD_ENTRIES else self._seal(frozen)
        row = {"etag": etag, "stale": "[]", "frozen": sealed}
        if after is None:
            stamp = Stamp(etag, 1)
            first = {"ticket_id": ticket_id, "format": format_name, "generation": stamp.generation, **row}
            put = self._db.insert(layouts).values(first).on_conflict_do_nothing().returning(layouts.c.etag)
            async with self._db.write() as tx:
                stored = await tx.first(put) is not None
        else:
            stamp = Stamp(etag, after.generation + (etag != after.etag))
            same = (layouts.c.etag == after.etag, layouts.c.generation == after.generation)
            change = sa.update(layouts).where(*_key(ticket_id, format_name), *same)
            async with self._db.write() as tx:
                stored = bool(await tx.count(change.values(generation=stamp.generation, **row)))
        return stamp if stored else None

    async def mark_stale(self, ticket_id: str, format_name: str, etag: str, *, items: Iterable[int]) -> None:
        """These items, too, must be asked again before the layout is shown anew; nothing for another ETag."""
        mine = (*_key(ticket_id, format_name), layouts.c.etag == etag)
        async with self._db.write() as tx:
            row = await tx.first(sa.select(layouts.c.stale).where(*mine).with_for_update())
            if row is not None:
                stale = json.dumps(sorted({*json.loads(row.stale), *items}))
                await tx.execute(sa.update(layouts).where(*mine).values(stale=stale))

    async def lose(self, ticket_id: str, etag: str, *, entry: int, failure: Failure) -> None:
        """The entry failed on the way and is filled up from now on; the first failure counts."""
        sealed = self._keyring.encrypt(json.dumps(asdict(failure)).encode("ascii"))
        row = {"ticket_id": ticket_id, "etag": etag, "entry": entry, "failure": sealed}
        async with self._db.write() as tx:
            await tx.execute(self._db.insert(losses).values(row).on_conflict_do_nothing())

    async def losses(self, ticket_id: str, etag: str) -> dict[int, Failure]:
        """The entries of a layout that were lost, in their order."""
        query = sa.select(losses.c.entry, losses.c.failure).where(
            losses.c.ticket_id == ticket_id, losses.c.etag == etag
        )
        async with self._db.read() as tx:
            rows = await tx.rows(query.order_by(losses.c.entry))
        if len(rows) > _IN_THREAD_LOSSES:
            return await asyncio.to_thread(self._failures, rows)
        return self._failures(rows)

    def _failures(self, rows: Sequence[Any]) -> dict[int, Failure]:
        return {row.entry: self._failure(row.failure) for row in rows}

    def _failure(self, sealed: bytes) -> Failure:
        try:
            return Failure(**json.loads(self._keyring.decrypt(sealed)))
        except StartupError:  # under a key that this process does not have: it is lost all the same
            return _UNREADABLE

    def _seal(self, frozen: Frozen) -> bytes:
        compressing = zlib.compressobj(1)
        packed = [compressing.compress(line) for line in frozen.encode()]
        return self._keyring.encrypt(b"".join([*packed, compressing.flush()]))

    def _unseal(self, sealed: bytes) -> Frozen | None:
        try:
            return Frozen.decode(_lines(self._keyring.decrypt(sealed)))
        except (ValueError, StartupError):  # of another version, or under a key that this process does not have
            return None


def _lines(packed: bytes) -> Iterator[bytes]:
    """What was compressed, line by line; all at once would take many times the memory."""
    unpacking, rest = zlib.decompressobj(), b""
    for first in range(0, len(packed), _UNPACKED_AT_ONCE_BYTES):
        *lines, rest = (rest + unpacking.decompress(packed[first : first + _UNPACKED_AT_ONCE_BYTES])).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _key(ticket_id: str, format_name: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return layouts.c.ticket_id == ticket_id, layouts.c.format == format_name


def _stamp(row: Any) -> Stamp:
    return Stamp(row.etag, row.generation, frozenset(json.loads(row.stale)))
