"""What is deleted when: results after their time, rows a week later, and objects that no row names."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa

from gateway_core import Storage, StorageError, StoredObject
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.observe.logs import get_logger
from gateway_transform.jobs.model import JobState
from gateway_transform.jobs.objects import PREFIX, job_of
from gateway_transform.jobs.rows import TOMBSTONE_S
from gateway_transform.jobs.store import JobStore
from gateway_transform.tables import deliveries, jobs

log = get_logger("gateway.transform")

_BATCH = 100
_ORPHAN_AGE_S = 3600.0
_TOMBSTONE: dict[str, Any] = {
    "state": JobState.EXPIRED.value,
    "expires": jobs.c.expires + TOMBSTONE_S,
    "input_key": "",
    "result_key": "",
    "result_sha256": "",
    "result_bytes": 0,
    "steps": "",
    "error_message": "",
    "log": "",
    "cache_key": "",
    "hook": "",
}
"""What is left of a job that expired: that there was one, whose, and when."""


async def sweep(store: JobStore, storage: Storage) -> None:
    """Expire jobs whose time is up and delete their objects; forget jobs that expired a week ago.

    A row gives up its objects before they are deleted, so that nobody is shown what is half gone; what a dying process
    leaves is an orphan. Raises DatabaseError.
    """
    while True:
        keys, count = await _settle(store.db)
        for key in keys:
            await _delete(storage, key)
        if count < _BATCH:
            return


async def sweep_orphans(store: JobStore, storage: Storage, *, older_than_s: float = _ORPHAN_AGE_S) -> int:
    """Delete objects older than that which no row names, and deliveries of jobs that are gone; how many objects.

    A job that has not ended keeps all it has, since a result is stored before its row names it. Reads the whole list of
    the plugin's objects. Raises DatabaseError, StorageError.
    """
    horizon = time.time() - older_than_s
    orphans = 0
    async for batch in _batches(storage, horizon):
        for key in await _unnamed(store.db, batch):
            orphans += await _delete(storage, key)
    gone = sa.delete(deliveries).where(deliveries.c.at < now() - older_than_s, deliveries.c.job_id.not_in(_ALL_IDS))
    async with store.db.write() as tx:
        await tx.execute(gone)
    return orphans


_ALL_IDS = sa.select(jobs.c.id)


async def _settle(db: Database) -> tuple[list[str], int]:
    """Deal with the rows that have waited longest since their time was up: objects to delete, and how many rows."""
    due = (
        sa.select(jobs.c.id, jobs.c.state, jobs.c.input_key, jobs.c.result_key)
        .where(jobs.c.expires <= now())
        .order_by(jobs.c.expires)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    async with db.write() as tx:
        rows = await tx.rows(due)
        dead = [row.id for row in rows if row.state == JobState.EXPIRED]
        ended = [row for row in rows if row.state != JobState.EXPIRED]
        if ended:
            await tx.execute(sa.update(jobs).where(jobs.c.id.in_([row.id for row in ended])).values(_TOMBSTONE))
        if dead:
            await tx.execute(sa.delete(deliveries).where(deliveries.c.job_id.in_(dead)))
            await tx.execute(sa.delete(jobs).where(jobs.c.id.in_(dead)))
    return [key for row in ended for key in (row.input_key, row.result_key) if key], len(rows)


async def _batches(storage: Storage, horizon: float) -> AsyncIterator[list[StoredObject]]:
    batch: list[StoredObject] = []
    async for found in storage.list(PREFIX):
        if found.modified <= horizon:
            batch.append(found)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _unnamed(db: Database, objects: Sequence[StoredObject]) -> list[str]:
    """Keys of those objects that are nobody's."""
    owners = {found.key: job_of(found.key) for found in objects}
    query = sa.select(jobs.c.id, jobs.c.state, jobs.c.input_key, jobs.c.result_key)
    async with db.read() as tx:
        rows = await tx.rows(query.where(jobs.c.id.in_(set(owners.values()))))
    named = {key for row in rows for key in (row.input_key, row.result_key)}
    at_work = {row.id for row in rows if not JobState(row.state).final}
    return [key for key, job_id in owners.items() if key not in named and job_id not in at_work]


async def _delete(storage: Storage, key: str) -> bool:
    """Delete, or leave it to the next search for orphans."""
    try:
        return await storage.delete(key)
    except StorageError as error:
        log.warning("an object of a job could not be deleted", key=key, error=str(error))
        return False
