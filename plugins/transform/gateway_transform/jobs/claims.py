"""Jobs as workers deal with them: claimed under a lease, kept by heartbeats, published once.

Whatever a worker does with a job is one conditional update on its token. A worker that was lost and comes back finds
that its token is not the row's any more, and changes nothing.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from gateway_core.auth.keyring import Keyring
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.outbox import Outbox
from gateway_core.db.transaction import Transaction
from gateway_transform.jobs.model import Claim, ErrorCode, Hook, JobError, JobState, Outcome
from gateway_transform.jobs.rows import LOG_TAIL, clean, error_from, upload_from
from gateway_transform.jobs.turns import in_turns
from gateway_transform.settings import TransformSettings
from gateway_transform.tables import jobs

HOOK_TOPIC = "transform.hook"
"""Outbox items ``{"job": id, "state": final state}``: somebody is to be told of a job's end."""

_MOST_LOST = 100
_INPUT_KEPT_FOR = frozenset({JobState.FAILED})


class Pulse(NamedTuple):
    """What a worker tells of a job it runs: its claim's token, the step, and the end of out.log."""

    token: str
    step: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker learns of its jobs: those that are not its own any more, and those to cancel."""

    lost: frozenset[str]
    cancelling: frozenset[str]


class Claims:
    """The jobs of one worker process, called ``worker`` in their rows.

    Every method raises DatabaseError while the database cannot answer; what it was to do may then be done or not, and
    calling it again is safe.
    """

    def __init__(self, db: Database, settings: TransformSettings, keyring: Keyring, *, worker: str) -> None:
        self._db = db
        self._settings = settings
        self._keyring = keyring
        self._outbox = Outbox(db)
        self._take = _take(db, clean(worker, _length(jobs.c.worker)), settings.lease_s)

    async def claim(self, limit: int) -> list[Claim]:
        """Up to ``limit`` jobs that wait, each for this worker alone until its lease ends.

        First those with a verdict; then in turns: of the client with the fewest jobs running, then of the one served
        longest ago, each client's oldest first. On PostgreSQL, workers that claim in the same moment may take turns out
        of order, never the same job.
        """
        async with self._db.write() as tx:
            rows = await tx.rows(self._take, {"most": limit, "new_token": uuid.uuid4().hex})
        return sorted(map(_claim, rows), key=lambda claim: (claim.verdict is None, claim.created))

    async def heartbeat(self, pulses: Mapping[str, Pulse]) -> Beat:
        """Keep the jobs with these ids for another lease, all in one transaction.

        A job whose lease ran out and that nobody has taken since is kept too.
        """
        if not pulses:
            return Beat(frozenset(), frozenset())
        # always in the order of their ids: transactions that lock rows in another order would wait for each other
        told = [
            {
                **_holder(job_id, pulse.token),
                "at_step": clean(pulse.step, _length(jobs.c.step)),
                "log_end": clean(pulse.log[-LOG_TAIL:], LOG_TAIL),
            }
            for job_id, pulse in sorted(pulses.items())
        ]
        query = sa.select(jobs.c.id, jobs.c.token, jobs.c.cancelling).where(
            jobs.c.id.in_(list(pulses)), jobs.c.state == JobState.RUNNING
        )
        async with self._db.write() as tx:
            await tx.execute(_BEAT, [{**values, "lease_s": self._settings.lease_s} for values in told])
            rows = [row for row in await tx.rows(query) if row.token == pulses[row.id].token]
        kept = frozenset(row.id for row in rows)
        return Beat(frozenset(pulses) - kept, frozenset(row.id for row in rows if row.cancelling))

    async def publish(self, claim: Claim, outcome: Outcome) -> bool:
        """Make ``outcome`` the job's end, with the webhook that tells of it, the outcome's or one noted before.

        False when the claim was lost: nothing has changed, and the result object is the caller's to delete. Otherwise
        it is the one visible result, and the input of a job that did not fail is the caller's to delete: the row names
        it no more. True again, without a second webhook, when this very result was published before.
        """
        values = _holder(claim.job_id, claim.token) | self._end(outcome)
        async with self._db.write() as tx:
            ended = await tx.first(_END, values)
            if ended is not None:
                if ended.hook:
                    payload = {"job": claim.job_id, "state": outcome.state.value}
                    await self._outbox.put(tx, HOOK_TOPIC, payload, delay_s=self._settings.webhook_backoff_s[0])
                return True
            return await _is_published(tx, claim, outcome)

    async def note_hook(self, claim: Claim, hook: Hook) -> None:
        """Keep who is to be told of the end, for the case that this attempt does not come to one."""
        async with self._db.write() as tx:
            await tx.execute(_HELD, _holder(claim.job_id, claim.token) | self._hooked(hook))

    async def hand_back(self, claim: Claim) -> bool:
        """Let another worker have it, as if it had never been claimed; False when it was lost already."""
        begun = jobs.c.attempt if claim.verdict is not None else jobs.c.attempt - 1
        back = _HELD.values(**_WAITING, attempt=begun)
        async with self._db.write() as tx:
            return bool(await tx.count(back, _holder(claim.job_id, claim.token)))

    async def requeue_lost(self) -> int:
        """Put jobs whose lease has run out into the queue again; how many.

        One whose attempts are used up can be claimed once more, to be published as lost. Nothing is written, and nobody
        waits, when there is none.
        """
        ran_out = sa.and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now())
        async with self._db.read() as tx:
            if await tx.first(sa.select(jobs.c.id).where(ran_out).limit(1)) is None:
                return 0
        lost = (
            sa.select(jobs.c.id)
            .where(ran_out)
            .order_by(jobs.c.id)
            .limit(_MOST_LOST)
            .with_for_update(skip_locked=True)
            .cte("lost")
        )
        used_up = sa.and_(jobs.c.attempt >= self._settings.max_attempts, sa.not_(jobs.c.cancelling))
        message = f"its worker was lost; attempts made: {self._settings.max_attempts}"
        back = (
            sa.update(jobs)
            .where(jobs.c.id.in_(sa.select(lost.c.id)))
            .values(
                **_WAITING,
                cancelling=sa.or_(jobs.c.cancelling, used_up),
                error_code=sa.case((used_up, ErrorCode.WORKER_LOST.value), else_=jobs.c.error_code),
                error_message=sa.case((used_up, message), else_=jobs.c.error_message),
                error_step=sa.case((used_up, jobs.c.step), else_=jobs.c.error_step),
            )
            .returning(jobs.c.id)  # SQLite's driver does not count what begins with WITH
        )
        async with self._db.write() as tx:
            return len(await tx.rows(back))

    def _end(self, outcome: Outcome) -> dict[str, Any]:
        error, hook = outcome.error, outcome.hook
        values: dict[str, Any] = {
            "state": outcome.state.value,
            "kept_for_s": self._settings.keep_s,
            "lease_until": None,
            "cancelling": False,
            "result_key": outcome.result.key,
            "result_sha256": outcome.result.sha256,
            "result_bytes": outcome.result.size_bytes,
            "step": "",
            "steps": json.dumps(outcome.steps),
            "run_ms": outcome.run_ms,
            "error_code": "" if error is None else error.code.value,
            "error_message": "" if error is None else clean(error.message, LOG_TAIL),
            "error_step": "" if error is None else clean(error.step, _length(jobs.c.error_step)),
            "log": clean(outcome.log[-LOG_TAIL:], LOG_TAIL),
            "cache_key": clean(outcome.cache_key, _length(jobs.c.cache_key)),
        }
        if outcome.state not in _INPUT_KEPT_FOR:
            values["input_key"] = ""
        if hook is not None:
            values |= self._hooked(hook)
        return values

    def _hooked(self, hook: Hook) -> dict[str, Any]:
        url = self._keyring.encrypt(clean(hook.url, LOG_TAIL).encode()).decode()
        return {"hook": url, "hook_form": clean(hook.form, _length(jobs.c.hook_form))}


def _length(column: sa.Column[str]) -> int:
    assert isinstance(column.type, sa.String)
    assert column.type.length is not None
    return column.type.length


_WAITING: dict[str, Any] = {
    "state": JobState.QUEUED.value,
    "queued": now(),
    "token": "",
    "lease_until": None,
    "step": "",
}
_HELD = sa.update(jobs).where(
    jobs.c.id == sa.bindparam("held_id"),
    jobs.c.token == sa.bindparam("held_token"),
    jobs.c.state == JobState.RUNNING.value,
)
"""Changes a job that the parameters of ``_holder`` still hold."""
_END = _HELD.values(ended=now(), expires=now() + sa.bindparam("kept_for_s", type_=sa.Double)).returning(jobs.c.hook)
"""Ends a job; its other columns are named by the parameters."""
_BEAT = _HELD.values(
    lease_until=now() + sa.bindparam("lease_s", type_=sa.Double),
    step=sa.bindparam("at_step"),
    log=sa.bindparam("log_end"),
)
_CLAIMED = (
    jobs.c.id,
    jobs.c.client_id,
    jobs.c.token,
    jobs.c.attempt,
    jobs.c.cancelling,
    jobs.c.input_key,
    jobs.c.input_sha256,
    jobs.c.input_bytes,
    jobs.c.queued_ms,
    jobs.c.created,
    jobs.c.error_code,
    jobs.c.error_message,
    jobs.c.error_step,
    jobs.c.log,
)


def _take(db: Database, worker: str, lease_s: float) -> sa.UpdateBase:
    """The statement that claims ``most`` jobs with ``new_token``; made once, as making it takes longer than running."""
    picked = in_turns(db).cte("picked")
    waited_ms = sa.cast((now() - jobs.c.queued) * 1000.0, sa.BigInteger)
    return (
        sa.update(jobs)
        .where(jobs.c.id.in_(sa.select(picked.c.id)))
        .values(
            state=JobState.RUNNING.value,
            attempt=jobs.c.attempt + sa.case((jobs.c.cancelling, 0), else_=1),
            token=sa.bindparam("new_token"),
            worker=worker,
            started=now(),
            lease_until=now() + lease_s,
            queued_ms=jobs.c.queued_ms + sa.case((waited_ms > 0, waited_ms), else_=0),
        )
        .returning(*_CLAIMED)
    )


def _claim(row: Any) -> Claim:
    verdict = error_from(row) or JobError(ErrorCode.CANCELLED, "cancelled before it was run")
    return Claim(
        job_id=row.id,
        client_id=row.client_id,
        token=row.token,
        attempt=row.attempt,
        upload=upload_from(row),
        queued_ms=row.queued_ms,
        created=row.created,
        verdict=verdict if row.cancelling else None,
        log=row.log,
    )


def _holder(job_id: str, token: str) -> dict[str, Any]:
    return {"held_id": job_id, "held_token": token}


async def _is_published(tx: Transaction, claim: Claim, outcome: Outcome) -> bool:
    """Whether an earlier call did it, whose answer was lost: a commit may succeed without the caller hearing of it."""
    row = await tx.first(sa.select(jobs.c.token, jobs.c.result_key).where(jobs.c.id == claim.job_id))
    return row is not None and row.token == claim.token and row.result_key == outcome.result.key
