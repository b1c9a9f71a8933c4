"""Jobs in the database, as clients and operators deal with them: accepted, found, cancelled, erased, tried again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from gateway_core import Conflict, NotFound, TooManyRequests
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.transaction import Transaction
from gateway_transform.jobs.model import ErrorCode, Job, JobState, Upload
from gateway_transform.jobs.rows import WAITING_OR_RUNNING, is_mine, job_from
from gateway_transform.settings import TransformSettings
from gateway_transform.tables import deliveries, jobs

_THROUGHPUT_OVER_S = 60.0
_LONGEST_RETRY_S = 60
_NOTHING: dict[str, Any] = {
    "attempt": 0,
    "worker": "",
    "token": "",
    "cancelling": False,
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
"""The row of a job that nobody has begun."""


class JobStore:
    """All jobs. A client sees its own and no other; ``client_id`` None, for operators, sees all.

    Whoever changes a job here wakes those who wait for it, after the commit. Every method raises DatabaseError while
    the database cannot answer.
    """

    def __init__(self, db: Database, settings: TransformSettings) -> None:
        self.db = db
        self._settings = settings
        self._insert = _insert(settings)

    async def has_room(self, client_id: str) -> None:
        """Raise TooManyRequests when the queue is full now, before a body is read for nothing."""
        async with self.db.read() as tx:
            await self._refuse_when_full(tx, client_id)

    async def accept(self, tx: Transaction, job_id: str, client_id: str, *, upload: Upload) -> None:
        """Put a job into the queue in the caller's transaction.

        Raises TooManyRequests, which names the limit, when the queue is full. Requests that come in the same moment may
        exceed a limit by their number on PostgreSQL.
        """
        values = {
            "id": job_id,
            "client_id": client_id,
            "input_key": upload.key,
            "input_sha256": upload.sha256,
            "input_bytes": upload.size_bytes,
        }
        if not await tx.count(self._insert, {f"new_{name}": value for name, value in values.items()}):
            await self._refuse_when_full(tx, client_id)
            raise TooManyRequests("The queue is full")

    async def find(self, job_id: str, client_id: str | None, *, with_position: bool = False) -> Job:
        """The job; raises NotFound, also for somebody else's.

        ``position``, on demand and while it is queued, counts those that are older: fair turns between clients may
        serve it sooner or later.
        """
        async with self.db.read() as tx:
            return await _found(tx, job_id, client_id, with_position=with_position)

    async def ask_cancel(self, job_id: str, client_id: str | None) -> Job:
        """Mark a job that waits or runs as cancelling, and return it; one that has ended is returned as it is.

        The worker that has it is told by its next heartbeat; one that waits is the next to be claimed. Raises NotFound.
        """
        asked = sa.update(jobs).where(is_mine(job_id, client_id), jobs.c.state.in_(WAITING_OR_RUNNING))
        async with self.db.write() as tx:
            await tx.execute(asked.values(cancelling=True))
            return await _found(tx, job_id, client_id)

    async def erase(self, job_id: str, client_id: str | None) -> list[str]:
        """Forget a job that has ended, and its deliveries; returns the keys of its objects, for the caller to delete.

        Raises NotFound, and Conflict while it waits or runs.
        """
        keys = (jobs.c.input_key, jobs.c.result_key)
        ended = sa.delete(jobs).where(is_mine(job_id, client_id), jobs.c.state.not_in(WAITING_OR_RUNNING))
        async with self.db.write() as tx:
            row = await tx.first(ended.returning(*keys))
            if row is None:
                found = await _found(tx, job_id, client_id)
                raise Conflict(f"The job is {found.state}: cancel it first")
            await tx.execute(sa.delete(deliveries).where(deliveries.c.job_id == job_id))
        return [key for key in row if key]

    async def retry(self, job_id: str) -> None:
        """Put a failed job into the queue again, as if it were new; its old result is swept later.

        Raises NotFound, and Conflict when it has not failed or its input is gone.
        """
        again = _NOTHING | {"state": JobState.QUEUED.value, "queued": now(), "started": None, "ended": None}
        failed = sa.update(jobs).where(
            jobs.c.id == job_id, jobs.c.state == JobState.FAILED, jobs.c.input_key != "", jobs.c.expires > now()
        )
        async with self.db.write() as tx:
            if not await tx.count(failed.values(again | {"expires": None})):
                found = await _found(tx, job_id, None)
                raise Conflict(f"The job is {found.state}: only a failed one whose input is kept can be tried again")

    async def listed(
        self, *, client_id: str | None = None, state: JobState | None = None, limit: int = 100
    ) -> Sequence[Job]:
        """Jobs, newest first, without their logs."""
        query = _HEADS.limit(limit)
        if client_id is not None:
            query = query.where(jobs.c.client_id == client_id)
        return await self._list(query if state is None else query.where(jobs.c.state == state))

    async def dead_letters(self, limit: int) -> Sequence[Job]:
        """Jobs whose every attempt lost its worker, last first, without their logs; ``retry`` tries one again."""
        dead = sa.and_(jobs.c.state == JobState.FAILED, jobs.c.error_code == ErrorCode.WORKER_LOST)
        return await self._list(_HEADS.where(dead).limit(limit))

    async def _list(self, query: sa.Select[Any]) -> Sequence[Job]:
        async with self.db.read() as tx:
            return [job_from(row) for row in await tx.rows(query)]

    async def _refuse_when_full(self, tx: Transaction, client_id: str) -> None:
        counts = await tx.first(
            sa.select(_waiting().label("of_all"), _waiting(jobs.c.client_id == client_id).label("own"))
        )
        assert counts is not None
        limits = self._settings
        if counts.own >= limits.max_queued_per_client:
            detail = f"{counts.own} of your jobs wait (transform.max_queued_per_client)"
        elif counts.of_all >= limits.max_queued:
            detail = f"{counts.of_all} jobs wait (transform.max_queued)"
        else:
            return
        raise TooManyRequests(detail, retry_after_s=await self._until_a_place_s(tx))

    async def _until_a_place_s(self, tx: Transaction) -> int:
        """How long a place in the queue takes to become free, as often as jobs ended in the last minute."""
        since = now() - _THROUGHPUT_OVER_S
        # what ended in that minute expires in that minute, ``keep_s`` later: an index has the expiry
        expires = jobs.c.expires.between(since + self._settings.keep_s, now() + self._settings.keep_s)
        ended = int(await tx.scalar(sa.select(sa.func.count()).where(expires, jobs.c.ended > since)))
        return min(_LONGEST_RETRY_S, round(_THROUGHPUT_OVER_S / max(1, ended)))


_HEADS = sa.select(
    *(column for column in jobs.c if column is not jobs.c.log), sa.literal("").label("log"), now().label("at")
).order_by(jobs.c.created.desc(), jobs.c.id)
_FOUND = sa.select(jobs, now().label("at")).where(jobs.c.id == sa.bindparam("asked_id"))
_OWN = _FOUND.where(jobs.c.client_id == sa.bindparam("asked_client"))


def _insert(settings: TransformSettings) -> sa.Insert:
    """The statement that accepts a job if there is room; made once, as making it takes longer than running it."""
    given = ("id", "client_id", "input_key", "input_sha256", "input_bytes")
    row: dict[str, sa.ColumnElement[Any]] = {
        name: sa.literal(value, jobs.c[name].type)
        for name, value in (_NOTHING | {"state": JobState.QUEUED.value}).items()
    }
    row |= {name: sa.bindparam(f"new_{name}", type_=jobs.c[name].type) for name in given}
    row |= {"created": now(), "queued": now()}
    room = sa.and_(
        _waiting() < settings.max_queued,
        _waiting(jobs.c.client_id == row["client_id"]) < settings.max_queued_per_client,
    )
    return sa.insert(jobs).from_select(list(row), sa.select(*row.values()).where(room))


def _waiting(*whose: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).where(jobs.c.state == JobState.QUEUED, *whose).scalar_subquery()


async def _found(tx: Transaction, job_id: str, client_id: str | None, *, with_position: bool = True) -> Job:
    statement = _FOUND if client_id is None else _OWN
    row = await tx.first(statement, {"asked_id": job_id, "asked_client": client_id})
    if row is None:
        raise NotFound("Job not found")
    before = None
    if with_position and row.state == JobState.QUEUED:
        before = await tx.scalar(sa.select(_waiting(jobs.c.created < row.created)))
    return job_from(row, before)
