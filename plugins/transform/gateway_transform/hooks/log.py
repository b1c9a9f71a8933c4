"""The delivery log: what was tried, and how to try once more."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from gateway_core import Conflict, Gateway, NotFound
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.outbox import Outbox
from gateway_transform.hooks.message import WAKEUP
from gateway_transform.hooks.sending import Outcome, Verdict
from gateway_transform.jobs.claims import HOOK_TOPIC
from gateway_transform.jobs.model import JobState
from gateway_transform.tables import deliveries as table
from gateway_transform.tables import jobs


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try: ``at`` in Unix seconds, ``try_number`` from 1 (0: refused before any), ``status`` of an answer."""

    job_id: str
    at: float
    try_number: int
    outcome: Outcome
    status: int | None
    detail: str
    took_ms: int


async def record(db: Database, job_id: str, try_number: int, *, verdict: Verdict, took_ms: int) -> None:
    """Write a try down. Raises DatabaseError."""
    row = {
        "id": uuid.uuid4().hex,
        "job_id": job_id,
        "at": now(),
        "try_number": try_number,
        "outcome": verdict.outcome.value,
        "status": verdict.status,
        "detail": verdict.detail,
        "took_ms": took_ms,
    }
    async with db.write() as tx:
        await tx.execute(sa.insert(table).values(row))


async def deliveries(gateway: Gateway, job_id: str | None = None, *, limit: int = 100) -> Sequence[Delivery]:
    """The last tries for one job, or for all, last first. Raises DatabaseError."""
    query = sa.select(table).order_by(table.c.at.desc(), table.c.try_number.desc()).limit(limit)
    if job_id is not None:
        query = query.where(table.c.job_id == job_id)
    async with gateway.db.read() as tx:
        rows = await tx.rows(query)
    return [
        Delivery(row.job_id, row.at, row.try_number, Outcome(row.outcome), row.status, row.detail, row.took_ms)
        for row in rows
    ]


async def replay(gateway: Gateway, job_id: str) -> str:
    """Tell of the job's end once more, now, with all tries; returns the new message's ``webhook-id``.

    Raises NotFound, and Conflict when the job has no webhook, has not ended or is over.
    """
    async with gateway.db.write() as tx:
        row = await tx.first(
            sa.select(jobs.c.state, jobs.c.hook, (jobs.c.expires <= now()).label("over")).where(jobs.c.id == job_id)
        )
        if row is None:
            raise NotFound("Job not found")
        state = JobState.EXPIRED if row.over else JobState(row.state)
        if not state.final or state is JobState.EXPIRED:
            raise Conflict(f"The job is {state}")
        if not row.hook:
            raise Conflict("The job has no webhook")
        message_id = await Outbox(gateway.db).put(tx, HOOK_TOPIC, {"job": job_id, "state": state.value})
    gateway.wakeups.publish(WAKEUP)
    return message_id
