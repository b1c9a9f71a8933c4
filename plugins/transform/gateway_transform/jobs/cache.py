"""Results that can be given again: equal files and steps of the same client."""

from __future__ import annotations

import sqlalchemy as sa

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_transform.jobs.model import JobState, Upload
from gateway_transform.tables import jobs


async def find_cached(db: Database, client_id: str, cache_key: str) -> Upload | None:
    """The newest result of that client for ``cache_key`` that has not expired, None for none or an empty key.

    It may expire at any moment: whoever opens it must bear ObjectMissing.
    """
    if not cache_key:
        return None
    query = (
        sa.select(jobs.c.result_key, jobs.c.result_sha256, jobs.c.result_bytes)
        .where(
            jobs.c.client_id == client_id,
            jobs.c.cache_key == cache_key,
            jobs.c.state == JobState.SUCCEEDED,
            jobs.c.expires > now(),
        )
        .order_by(jobs.c.ended.desc())
        .limit(1)
    )
    async with db.read() as tx:
        row = await tx.first(query)
    return None if row is None else Upload(row.result_key, row.result_sha256, row.result_bytes)
