"""The columns of a job's row as values, and texts from a box as texts that both databases take."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gateway_transform.jobs.model import ErrorCode, Job, JobError, JobState, Upload, steps_from
from gateway_transform.tables import jobs

TOMBSTONE_S = 7 * 86400.0
"""How long the row of an expired job stays, so that its id is answered with more than "not found"."""

WAITING_OR_RUNNING = (JobState.QUEUED, JobState.RUNNING)
LOG_TAIL = 8192
"""Characters of out.log that a row keeps."""


def is_mine(job_id: str, client_id: str | None) -> sa.ColumnElement[bool]:
    """The row of that job, if it is the client's; None asks for no client."""
    found = jobs.c.id == job_id
    return found if client_id is None else sa.and_(found, jobs.c.client_id == client_id)


def clean(text: str, most: int) -> str:
    """At most ``most`` characters without NUL and lone surrogates, which PostgreSQL and UTF-8 cannot store."""
    return text[:most].encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def job_from(row: Any, position: int | None = None) -> Job:
    """The job in ``row``: all columns of the table, and the database's time as ``at``.

    One whose time is up is expired, swept or not.
    """
    state, expires = JobState(row.state), row.expires
    if state is JobState.EXPIRED:
        expires -= TOMBSTONE_S
    elif expires is not None and expires <= row.at:
        state = JobState.EXPIRED
    ended = state.final
    return Job(
        id=row.id,
        client_id=row.client_id,
        state=state,
        created=row.created,
        queued=row.queued,
        started=row.started,
        ended=row.ended,
        expires=expires,
        attempt=row.attempt,
        worker=row.worker,
        cancelling=row.cancelling and not ended and not row.error_code,
        upload=upload_from(row),
        result=Upload(row.result_key, row.result_sha256, row.result_bytes),
        step=row.step,
        steps=steps_from(row.steps),
        queued_ms=row.queued_ms,
        run_ms=row.run_ms,
        error=error_from(row) if ended else None,
        log=row.log,
        position=position,
    )


def upload_from(row: Any) -> Upload:
    """What was received; its key is empty when it has been deleted."""
    return Upload(row.input_key, row.input_sha256, row.input_bytes)


def error_from(row: Any) -> JobError | None:
    """Why there is no good result; of a job that waits, what it will be published as."""
    if not row.error_code:
        return None
    return JobError(ErrorCode(row.error_code), row.error_message, row.error_step)
