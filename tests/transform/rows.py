"""Rows of jobs, made without anybody who runs them."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from gateway_core import Gateway
from gateway_core.db.clock import now
from gateway_transform.jobs.store import _NOTHING
from gateway_transform.tables import jobs

_ENDED: dict[str, Any] = _NOTHING | {
    "client_id": "",
    "state": "succeeded",
    "started": None,
    "expires": None,
    "attempt": 1,
    "lease_until": None,
    "input_key": "",
    "input_sha256": "",
    "input_bytes": 0,
}


async def add_job(gateway: Gateway, **columns: Any) -> str:
    """Insert a job that has just succeeded, with ``columns`` in place of what that means; its id.

    ``hook`` is the plain URL.
    """
    job_id = uuid.uuid4().hex
    row = {**_ENDED, "id": job_id, "created": now(), "queued": now(), "ended": now(), **columns}
    if row["hook"]:
        row["hook"] = gateway.keyring.encrypt(row["hook"].encode()).decode()
        row["hook_form"] = row["hook_form"] or "circe"
    async with gateway.db.write() as tx:
        await tx.execute(sa.insert(jobs).values(row))
    return job_id
