"""What was hashed is saved first and seen then: a block that was told is never hashed again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import islice

from gateway_blocks.sums.record import Record
from gateway_blocks.sums.store import Change, SumStore, Whole, overlaid
from gateway_core import GatewayError
from gateway_core.observe.logs import get_logger

log = get_logger("gateway.blocks")

_PAUSE_S = 0.1
"""Between two transactions while large files are hashed; a file that is done is saved without it."""
_AFTER_FAILURE_S = 1.0
_FILES_AT_ONCE = 64
"""In one transaction, which holds off all other writers on SQLite."""


class Keeper:
    """Saves in groups, all files together; while the database is away it holds on to what there is."""

    def __init__(self, store: SumStore) -> None:
        self._store = store
        self._dirty: dict[str, Record] = {}
        self._something = asyncio.Event()
        self._urgent = asyncio.Event()

    def put_block(self, record: Record, index: int, digest: bytes) -> None:
        """Keep a block's digest."""
        record.unsaved[index] = digest
        self._mark(record)

    def put_whole(self, record: Record, whole: Whole) -> None:
        """Keep a file's digests."""
        record.unsaved_whole = whole
        self._mark(record)

    async def flush(self) -> None:
        """Save what there is and publish it; raises DatabaseError, and then it is still there."""
        for _ in range(0, len(self._dirty), _FILES_AT_ONCE):
            await self._flush_some()

    async def _flush_some(self) -> None:
        names = list(islice(self._dirty, _FILES_AT_ONCE))
        records = [record for name in names if (record := self._dirty.pop(name)).fault is None]
        found = [(record, dict(record.unsaved), record.unsaved_whole) for record in records]
        try:
            await self._store.save(
                Change(record.key, overlaid(record.table, blocks), whole) for record, blocks, whole in found
            )
        except BaseException:
            self._dirty = {record.key.id: record for record in records} | self._dirty
            raise
        for record, blocks, whole in found:
            record.publish(blocks, whole)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Save as things come; at the end, once more."""
        task = asyncio.create_task(self._run(), name="blocks keeper")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            with suppress(GatewayError):  # then it is hashed again
                await self.flush()

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            self._urgent.clear()
            started = time.monotonic()
            try:
                await self.flush()
            except GatewayError as error:
                log.warning("checksums could not be saved, trying again", error=str(error))
                self._something.set()
                await asyncio.sleep(_AFTER_FAILURE_S)
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("saving checksums failed")
                self._something.set()
                await asyncio.sleep(_AFTER_FAILURE_S)
            await asyncio.sleep(time.monotonic() - started)  # half of the time belongs to other writers
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self._urgent.wait()

    def _mark(self, record: Record) -> None:
        self._dirty[record.key.id] = record
        self._something.set()
        if record.table.known + len(record.unsaved) >= record.layout.count:
            self._urgent.set()
