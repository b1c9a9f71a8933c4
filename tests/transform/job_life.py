"""What the tests of jobs share: accepting, claiming and publishing in a line each."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from gateway_core.auth.keyring import Keyring
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_transform.jobs.claims import Claims
from gateway_transform.jobs.model import Claim, ErrorCode, JobError, JobState, Outcome, Upload
from gateway_transform.jobs.store import JobStore
from gateway_transform.settings import TransformSettings
from gateway_transform.tables import jobs


class Jobs:
    """A store, and workers by name, on one database."""

    def __init__(self, db: Database, keyring: Keyring, **settings: Any) -> None:
        self.db = db
        self.keyring = keyring
        self.settings = TransformSettings(**settings)
        self.store = JobStore(db, self.settings)

    def having(self, **settings: Any) -> Jobs:
        """The same jobs under other settings."""
        return Jobs(self.db, self.keyring, **settings)

    def worker(self, name: str = "worker", **settings: Any) -> Claims:
        own = self.settings.model_copy(update=settings)
        return Claims(self.db, own, self.keyring, worker=name)

    async def accept(self, client_id: str = "client") -> str:
        job_id = uuid.uuid4().hex
        async with self.db.write() as tx:
            await self.store.accept(tx, job_id, client_id, upload=Upload(f"transform/{job_id}/input", "ab" * 32, 10))
        return job_id

    async def claimed(self, client_id: str = "client") -> Claim:
        """A new job that a worker has."""
        job_id = await self.accept(client_id)
        (claim,) = await self.worker().claim(1)
        assert claim.job_id == job_id
        return claim

    async def ended(self, state: JobState = JobState.SUCCEEDED, **outcome: Any) -> str:
        """A new job that was run to that end."""
        claim = await self.claimed()
        assert await self.worker().publish(claim, outcome_of(claim, state, **outcome))
        return claim.job_id

    async def lose(self, *job_ids: str) -> None:
        """Let the leases of these running jobs run out, of all of them when none is named."""
        query = sa.update(jobs).where(jobs.c.state == JobState.RUNNING)
        await self.change(query.where(jobs.c.id.in_(job_ids)) if job_ids else query, lease_until=now() - 1.0)

    async def set(self, job_id: str, **columns: Any) -> None:
        await self.change(sa.update(jobs).where(jobs.c.id == job_id), **columns)

    async def change(self, query: sa.Update, **columns: Any) -> None:
        async with self.db.write() as tx:
            await tx.execute(query.values(columns))

    async def row(self, job_id: str) -> Any:
        async with self.db.read() as tx:
            return await tx.first(sa.select(jobs).where(jobs.c.id == job_id))


def outcome_of(claim: Claim, state: JobState = JobState.SUCCEEDED, **changes: Any) -> Outcome:
    """An attempt's outcome, whose result is its own."""
    error = JobError(ErrorCode.FAILED, "it broke", "step") if state is JobState.FAILED else None
    result = Upload(f"transform/{claim.job_id}/result-{claim.token}", "cd" * 32, 20)
    return Outcome(**{"state": state, "result": result, "run_ms": 7, "error": error, **changes})
