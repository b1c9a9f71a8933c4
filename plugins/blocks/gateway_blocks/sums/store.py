"""Checksums in the database: of which version of which file, in segments of 512 blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from gateway_blocks.files.identity import Identity
from gateway_blocks.files.paths import encode_name
from gateway_blocks.sums.layout import BlockLayout
from gateway_blocks.sums.table import SEGMENT_BLOCKS, BlockTable
from gateway_blocks.tables import files, segments
from gateway_core.db.engine import Database
from gateway_core.db.sweep import sweep_rows
from gateway_core.db.transaction import Transaction

_DIGEST_BYTES = 20
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where files lie: the machine's name, the root as an absolute path, and how large blocks are there."""

    host: str
    root: str
    block_bytes: int

    def of(self, names: tuple[str, ...], identity: Identity) -> FileKey:
        """The key of one version of a file."""
        path = encode_name("/".join(names)).decode("utf-8", "backslashreplace")
        spot = hashlib.sha256("\0".join((self.host, self.root, path, str(self.block_bytes))).encode()).hexdigest()
        version = hashlib.sha256(f"{spot} {identity}".encode()).hexdigest()
        return FileKey(version, spot, path, identity)


@dataclass(frozen=True, slots=True)
class FileKey:
    """One version of a file: ``id`` names it, ``spot`` names the file whatever its version."""

    id: str
    spot: str
    path: str = field(repr=False)
    identity: Identity


@dataclass(frozen=True, slots=True)
class Whole:
    """Digests of a whole file."""

    sha1: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database knows of a version: segments as ``BlockTable.load`` takes them."""

    whole: Whole | None
    segments: Sequence[tuple[int, bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Change:
    """What became known of a version and is to be kept: whole segments, digests of the whole file, or both."""

    key: FileKey
    segments: Sequence[tuple[int, bytes, bytes]] = ()
    whole: Whole | None = None


class SumStore:
    """All that is known of the files of one place. Every method raises DatabaseError."""

    def __init__(self, db: Database, place: Place) -> None:
        self._db = db
        self.place = place

    async def load(self, key: FileKey) -> Stored | None:
        """What is known of a version, None for nothing; it counts as used today."""
        async with self._db.read() as tx:
            row = await tx.first(
                sa.select(files.c.sha1, files.c.sha256, (self._db.now() - files.c.used).label("age")).where(
                    files.c.id == key.id
                )
            )
            if row is None:
                return None
            rows = await tx.rows(
                sa.select(segments.c.number, segments.c.known, segments.c.digests)
                .where(segments.c.file_id == key.id)
                .order_by(segments.c.number)
            )
        if row.age > _DAY_S:
            async with self._db.write() as tx:
                await tx.execute(sa.update(files).where(files.c.id == key.id).values(used=self._db.now()))
        whole = Whole(row.sha1, row.sha256) if row.sha1 is not None and row.sha256 is not None else None
        return Stored(whole, [_padded(found.number, found.known, found.digests) for found in rows])

    async def save(self, changes: Iterable[Change]) -> None:
        """Keep all of ``changes`` or nothing; a version that is new takes the place of the file's older ones."""
        async with self._db.write() as tx:
            for change in changes:
                await self._save(tx, change)

    async def forget(self, file_id: str) -> None:
        """Drop what is known of a version."""
        async with self._db.write() as tx:
            await _drop(tx, [file_id])

    async def sweep(self, unused_s: float) -> int:
        """Drop the versions that nobody asked for in so many seconds; how many."""
        gone = await sweep_rows(self._db, files, files.c.used, before=self._db.now() - unused_s)
        if gone:
            orphans = ~sa.exists().where(files.c.id == segments.c.file_id)
            async with self._db.write() as tx:
                await tx.execute(sa.delete(segments).where(orphans))
        return gone

    async def _save(self, tx: Transaction, change: Change) -> None:
        key = change.key
        if await tx.first(sa.select(files.c.id).where(files.c.id == key.id)) is None:
            older = await tx.rows(sa.select(files.c.id).where(files.c.place == key.spot))
            await _drop(tx, [row.id for row in older])
            insert = self._db.insert(files).values(self._row(key))
            await tx.execute(insert.on_conflict_do_nothing(index_elements=[files.c.id]))
        for number, known, digests in change.segments:
            values = self._trimmed(key, number, known=known, digests=digests)
            put = self._db.insert(segments).values(file_id=key.id, number=number, **values)
            await tx.execute(
                put.on_conflict_do_update(index_elements=[segments.c.file_id, segments.c.number], set_=values)
            )
        if change.whole is not None:
            whole = {"sha1": change.whole.sha1, "sha256": change.whole.sha256}
            await tx.execute(sa.update(files).where(files.c.id == key.id).values(whole))

    def _trimmed(self, key: FileKey, number: int, *, known: bytes, digests: bytes) -> dict[str, bytes]:
        """A segment without what lies behind the last block: most files are small, and have one digest."""
        blocks = BlockLayout(key.identity.size_bytes, self.place.block_bytes).count - number * SEGMENT_BLOCKS
        return {"known": known[: -(-blocks // 8)], "digests": digests[: blocks * _DIGEST_BYTES]}

    def _row(self, key: FileKey) -> dict[str, object]:
        return {
            "id": key.id,
            "place": key.spot,
            "host": self.place.host,
            "root": self.place.root,
            "path": key.path,
            "identity": str(key.identity),
            "size_bytes": key.identity.size_bytes,
            "block_bytes": self.place.block_bytes,
            "used": self._db.now(),
        }


def overlaid(table: BlockTable, found: Mapping[int, bytes]) -> list[tuple[int, bytes, bytes]]:
    """The segments of ``table`` that ``found`` (digests by block) belongs to, with ``found`` in them."""
    by_segment: dict[int, list[int]] = {}
    for index in found:
        by_segment.setdefault(index // SEGMENT_BLOCKS, []).append(index)
    result = []
    for number, indices in sorted(by_segment.items()):
        old_known, old_digests = table.export(number)
        known, digests = bytearray(old_known), bytearray(old_digests)
        for index in indices:
            at = index % SEGMENT_BLOCKS
            known[at // 8] |= 1 << at % 8
            digests[at * _DIGEST_BYTES : (at + 1) * _DIGEST_BYTES] = found[index]
        result.append((number, bytes(known), bytes(digests)))
    return result


def _padded(number: int, known: bytes, digests: bytes) -> tuple[int, bytes, bytes]:
    return number, known.ljust(SEGMENT_BLOCKS // 8, b"\0"), digests.ljust(SEGMENT_BLOCKS * _DIGEST_BYTES, b"\0")


async def _drop(tx: Transaction, ids: Collection[str]) -> None:
    if ids:
        await tx.execute(sa.delete(segments).where(segments.c.file_id.in_(ids)))
        await tx.execute(sa.delete(files).where(files.c.id.in_(ids)))
