"""All versions of files that are being asked for: found, hashed on demand, and waited for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from prometheus_client import Counter, Gauge

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.files.identity import Identity
from gateway_blocks.files.root import OpenFile
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.shelf import Shelf, lately_asked
from gateway_blocks.sums.store import Whole
from gateway_blocks.sums.turns import Turns
from gateway_blocks.sums.wholes import Wholes
from gateway_blocks.sums.workshop import Workshop
from gateway_core import GatewayError, Unavailable
from gateway_core.observe.logs import get_logger

log = get_logger("gateway.blocks")

HASHED_BYTES = Counter("gateway_blocks_hashed_bytes_total", "Bytes hashed by block")
HASHING = Gauge("gateway_blocks_hashing_files", "Files being hashed by block", multiprocess_mode="livesum")
WAITING = Gauge("gateway_blocks_waiting_files", "Files waiting to be hashed", multiprocess_mode="livesum")

_ACTIVE_FILES = 16
_MAX_WAITING = 1000
_MAX_WAITING_OF_CLIENT = 100
_ASK_AGAIN_S = 1.0
_FOLLOW_S = 0.3
_INTEREST_S = 30.0


@dataclass(frozen=True, slots=True)
class Queue:
    """Files being hashed by block and waiting for it, and how many whole digests are to come."""

    active: tuple[Record, ...]
    waiting: tuple[Record, ...]
    whole_waiting: int


class Catalogue:
    """One for each process that serves. ``running`` first."""

    def __init__(self, workshop: Workshop, *, whole: bool) -> None:
        self._workshop = workshop
        self._wants_whole = whole
        self._busy: dict[str, Record] = {}
        self._active: dict[str, Record] = {}
        self._shelf = Shelf(lambda record: record.key.id in self._busy or lately_asked(record, _INTEREST_S))
        self._wholes = Wholes(workshop, self._shelf, self._drop)
        self._turns = Turns(total=_MAX_WAITING, per_client=_MAX_WAITING_OF_CLIENT)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Hash and save, for the block."""
        return self._workshop.running()

    def peek(self, identity: Identity) -> Record | None:
        """What is in memory of this version, under whatever name; costs nothing."""
        return self._shelf.peek(identity)

    async def find(self, file: OpenFile) -> Record:
        """What is known of an open file; raises DatabaseError."""
        store = self._workshop.store
        key = store.place.of(file.names, file.identity)
        record = self._shelf.get(key.id)
        if record is None:
            stored = await store.load(key)
            record = self._shelf.get(key.id)  # somebody else may have been faster
        if record is None:
            record = Record(key, file.names, store.place.block_bytes)
            if stored is not None:
                record.take(stored)
            self._shelf.put(record)
        return record

    def ask(self, record: Record, client: str, *, whole: bool = True) -> bool:
        """See to it that the file gets hashed; False when ``client`` has too many waiting: ask again later."""
        record.asked = time.monotonic()
        if record.fault is not None or self._workshop.closing:
            return False
        if record.key.id not in self._shelf:
            self._shelf.put(record)
        if record.complete:
            if whole and self._wants_whole and record.whole is None:
                self._wholes.ask(record)
            return True
        if record.key.id in self._busy:
            return True
        accepted = self._turns.add(client, record.key.id)
        self._admit()
        return accepted

    def prefer(self, record: Record, indices: Iterable[int]) -> None:
        """Somebody reads these blocks right now: they come first."""
        if record.key.id in self._active:
            self._workshop.prefer(record.key.id, (index for index in indices if record.table.get(index) is None))

    async def digests(self, record: Record, client: str) -> AsyncIterator[bytes]:
        """SHA-1 of each block in order, as they become known; raises FileChanged when the version is gone."""
        for index in range(record.layout.count):
            known = _known(record, index)
            while not known():
                self.ask(record, client)
                await record.wait_for(known, _ASK_AGAIN_S)
            digest = record.table.get(index)
            assert digest is not None
            yield digest

    async def whole(self, record: Record, client: str) -> Whole:
        """Digests of the whole file, when they are there; raises FileChanged, and Unavailable where nobody makes any.

        Blocks come first, so that a file is read twice when nothing is known of it.
        """
        while record.whole is None:
            if not self._wants_whole:
                raise Unavailable("digests of whole files are switched off (BLOCKS__FULL_DIGEST)")
            self.ask(record, client)
            await record.wait_for(lambda: record.whole is not None, _ASK_AGAIN_S)
        return record.whole

    async def check(self, record: Record, index: int) -> bytes:
        """Hash a block once more, whatever is known of it; raises FileChanged, and an error of the disk."""
        found: dict[int, bytes] = {}
        name = f"{record.key.id}:check:{index}"
        await self._workshop.hash(record, name, iter((index,)), on_block=found.__setitem__)
        return found[index]

    async def discard(self, record: Record) -> None:
        """Forget a version whose digests turned out wrong, in memory and in the database."""
        self._drop(record, FileChanged("the file changed without a new time stamp"))
        await self._workshop.store.forget(record.key.id)

    def discard_all(self) -> None:
        """Forget what is in memory and not being hashed: another process says that something there is wrong."""
        for record in self._shelf:
            if record.key.id not in self._busy:
                self._shelf.remove(record)

    def queue(self) -> Queue:
        """What is under way and what waits."""
        waiting = tuple(record for record in map(self._shelf.get, list(self._turns)) if record is not None)
        return Queue(tuple(self._active.values()), waiting, len(self._wholes))

    def _admit(self) -> None:
        closing = self._workshop.closing
        while not closing and len(self._active) < _ACTIVE_FILES and (name := self._turns.next()) is not None:
            record = self._shelf.get(name)
            if record is not None and record.fault is None and not record.complete and name not in self._busy:
                self._busy[name] = self._active[name] = record
                self._workshop.spawn(self._hash(record))
        HASHING.set(len(self._active))
        WAITING.set(len(self._turns))

    async def _hash(self, record: Record) -> None:
        """One file, from the first missing block until the last is saved."""
        name, claims = record.key.id, self._workshop.claims
        claimed = claims.claim(name)
        try:
            if claimed:
                await self._hash_missing(record)
            self._inactive(name)
            if claimed:
                await record.wait_for(lambda: record.complete, _INTEREST_S)
            else:
                await self._follow(record)
        except GatewayError as error:
            self._drop(record, error)
        finally:
            if claimed:
                claims.release(name)
            del self._busy[name]
            self._inactive(name)
        if not record.complete:
            if lately_asked(record, _INTEREST_S):
                self.ask(record, "")
        elif self._wants_whole and record.whole is None:
            self._wholes.ask(record)

    def _inactive(self, name: str) -> None:
        """Let another file be hashed."""
        if self._active.pop(name, None) is not None:
            self._admit()

    async def _hash_missing(self, record: Record) -> None:
        await self._workshop.learn(record)  # another process may have been here meanwhile
        if not record.complete:
            keeper, layout = self._workshop.keeper, record.layout

            def found(index: int, digest: bytes) -> None:
                HASHED_BYTES.inc(layout.length(index))
                keeper.put_block(record, index, digest)

            await self._workshop.hash(record, record.key.id, record.table.missing(), on_block=found)

    async def _follow(self, record: Record) -> None:
        """Another process of this machine hashes the file: learn from the database until it is done, or has died."""
        name = record.key.id
        while not record.complete and lately_asked(record, _INTEREST_S):
            await record.wait_for(lambda: record.complete, _FOLLOW_S)
            if self._workshop.claims.claim(name):
                self._workshop.claims.release(name)
                return
            await self._workshop.learn(record)

    def _drop(self, record: Record, fault: GatewayError) -> None:
        if record.fault is None:
            log.info("file not hashed", path=record.key.path, reason=str(fault))
        self._shelf.remove(record)
        record.fail(fault)


def _known(record: Record, index: int) -> Callable[[], bool]:
    return lambda: record.table.get(index) is not None
