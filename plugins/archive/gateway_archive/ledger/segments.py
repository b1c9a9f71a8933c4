"""CRC-32s of source bytes that went through: as bytes, and in the database for all processes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final
from zlib import crc32

import sqlalchemy as sa

from gateway_archive.layout.model import Segment
from gateway_archive.ledger.together import Together
from gateway_archive.tables import segments as table
from gateway_core import Gateway

RECORD_BYTES: Final = 32
_DATA = struct.Struct("<IQQI")
_CHECK = struct.Struct("<Ixxxx")
_RECORD = struct.Struct("<24sIxxxx")
_IN_THREAD_RECORDS: Final = 1000
_LATE_S: Final = 2.0
"""A transaction may show its rows that much after the time which stands in them."""


def pack_one(segment: Segment) -> bytes:
    """A record of ``RECORD_BYTES`` with a check of its own."""
    data = _DATA.pack(*segment)
    return data + _CHECK.pack(crc32(data))


def pack(segments: Iterable[Segment]) -> bytes:
    """A record for each segment."""
    return b"".join(map(pack_one, segments))


def unpack(packed: bytes) -> Iterator[Segment]:
    """The segments of all records that are neither torn, nor empty, nor cut off."""
    whole = len(packed) - len(packed) % RECORD_BYTES
    for data, check in _RECORD.iter_unpack(memoryview(packed)[:whole]):
        if crc32(data) == check:
            yield Segment._make(_DATA.unpack(data))


class SegmentStore:
    """Segments in one gateway's database, many to a row; methods raise DatabaseError."""

    def __init__(self, gateway: Gateway, together: Together | None = None) -> None:
        self._db, self._together = gateway.db, together or Together(gateway.db)

    async def save(self, pack_id: str, ticket_id: str, etag: str, *, segments: Sequence[Segment]) -> None:
        """Make ``segments`` all that the row ``pack_id`` (32 hex digits, of one writer) holds."""
        if len(segments) > _IN_THREAD_RECORDS:
            packed = await asyncio.to_thread(pack, segments)
        else:
            packed = pack(segments)
        now = self._db.now()
        row = {"id": pack_id, "ticket_id": ticket_id, "etag": etag, "updated": now, "packed": packed}
        put = self._db.insert(table).values(row)
        changed = {"updated": now, "packed": packed}
        await self._together.put(put.on_conflict_do_update(index_elements=[table.c.id], set_=changed))

    async def load(self, ticket_id: str, etag: str, *, since: float = 0.0) -> tuple[Iterator[Segment], float]:
        """What was saved for a layout at ``since`` or later, and the time to give as ``since`` next.

        Rows of about that time come again, so that none is missed. Segments are unpacked as they are asked for.
        """
        query = sa.select(table.c.updated, table.c.packed).where(
            table.c.ticket_id == ticket_id, table.c.etag == etag, table.c.updated >= since - _LATE_S
        )
        async with self._db.read() as tx:
            rows = await tx.rows(query)
        newest = max((row.updated for row in rows), default=since)
        return chain.from_iterable(unpack(row.packed) for row in rows), max(newest, since)
