"""Rows of jobs, made without anybody who runs them."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from gateway_core import Gateway
from gateway_core.db.clock import now
from gateway_transform.tables import jobs

_EMPTY: dict[str, Any] = {
    "client_id": "",
    "state": "succeeded",
    "started": None,
    "expires": None,
    "attempt": 1,
    "worker": "",
    "token": "",
    "lease_until": None,
    "cancelling": False,
    "input_key": "",
    "input_sha256": "",
    "input_bytes": 0,
    "result_key": "",
    "result_sha256": "",
    "result_bytes": 0,
    "step": "",
    "steps": "",
    "queued_ms": 0,
    "run_ms": 0,
    "error_code": "",
    "error_message": "",
    "error_step": "",
    "log": "",
    "cache_key": "",
    "hook": "",
    "hook_form": "",
}


async def add_job(gateway: Gateway, **columns: Any) -> str:
    """Insert a job that has just succeeded, with ``columns`` in place of what that means; its id.

    ``hook`` is the plain URL.
    """
    job_id = uuid.uuid4().hex
    row = {**_EMPTY, "id": job_id, "created": now(), "queued": now(), "ended": now(), **columns}
    if row["hook"]:
        row["hook"] = gateway.keyring.encrypt(row["hook"].encode()).decode()
        row["hook_form"] = row["hook_form"] or "circe"
    async with gateway.db.write() as tx:
        await tx.execute(sa.insert(jobs).values(row))
    return job_id
