"""What is deleted when: calls whose time is over, what they brought after its own time, objects that no row names."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import sqlalchemy as sa

from gateway_core import Storage, StoredObject
from gateway_core.db.clock import now
from gateway_core.observe.logs import get_logger
from gateway_pipe.durable.bodies import PREFIX, call_of, discard
from gateway_pipe.durable.metrics import ENDED
from gateway_pipe.durable.model import CallState
from gateway_pipe.durable.store import OVERDUE, CallStore, expired_values
from gateway_pipe.settings import PipeSettings
from gateway_pipe.tables import calls

log = get_logger("gateway.pipe")

_BATCH = 100
_ORPHAN_AGE_S = 3600.0


async def sweep(store: CallStore, settings: PipeSettings) -> None:
    """End calls that no node took in their time, and forget those that ended ``keep_results`` ago, with their objects.

    A row gives up its objects before they are deleted; what a dying process leaves is an orphan. Raises DatabaseError.
    """
    due = sa.select(calls.c.seq).where(*OVERDUE).limit(_BATCH)
    overdue = sa.select(calls.c.seq, calls.c.body_key).where(calls.c.seq.in_(due), *OVERDUE).with_for_update()
    while True:
        async with store.db.write() as tx:
            rows = await tx.rows(overdue)
            ended = sa.update(calls).where(calls.c.seq.in_([row.seq for row in rows]))
            await tx.execute(ended.values(expired_values(settings.keep_results)))
        for row in rows:
            await discard(store.storage, row.body_key)
        ENDED.labels(CallState.EXPIRED.value).inc(len(rows))
        if rows:
            log.info("durable calls expired", count=len(rows))
        if len(rows) < _BATCH:
            break
    await _forget(store)


async def sweep_orphans(store: CallStore, *, older_than_s: float = _ORPHAN_AGE_S) -> int:
    """Delete objects older than that which no row names; how many.

    A row names its objects within the seconds after they are published. Raises DatabaseError, StorageError.
    """
    orphans = 0
    async for batch in _batches(store.storage, time.time() - older_than_s):
        query = sa.select(calls.c.body_key, calls.c.result_key)
        async with store.db.read() as tx:
            rows = await tx.rows(query.where(calls.c.id.in_({call_of(found.key) for found in batch})))
        named = {key for row in rows for key in row}
        for found in batch:
            if found.key not in named:
                await discard(store.storage, found.key)
                orphans += 1
    return orphans


async def _forget(store: CallStore) -> None:
    over = sa.select(calls.c.seq).where(calls.c.expires <= now()).limit(_BATCH)
    forgotten = sa.delete(calls).where(calls.c.seq.in_(over), calls.c.expires <= now())
    while True:
        async with store.db.write() as tx:
            rows = await tx.rows(forgotten.returning(calls.c.body_key, calls.c.result_key))
        for row in rows:
            for key in row:
                await discard(store.storage, key)
        if len(rows) < _BATCH:
            return


async def _batches(storage: Storage, horizon: float) -> AsyncIterator[Sequence[StoredObject]]:
    batch: list[StoredObject] = []
    async for found in storage.list(PREFIX):
        if found.modified <= horizon:
            batch.append(found)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
