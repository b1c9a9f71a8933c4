"""What a job is: its states, its errors, and the values that rooms hand to each other."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    """Where a job stands. The last four are final; ``expired`` is what retention makes of the other three."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing more will be done for it."""
        return self not in {JobState.QUEUED, JobState.RUNNING}


class ErrorCode(StrEnum):
    """Why a job has no good result: stable words for programs."""

    BAD_INPUT = "bad_input"
    UNKNOWN_TRANSFORMATION = "unknown_transformation"
    BAD_OPTIONS = "bad_options"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True)
class JobError:
    """``step`` is the name of the step it happened in, empty for none."""

    code: ErrorCode
    message: str = ""
    step: str = ""

    def described(self) -> dict[str, Any]:
        """As in status.json."""
        return {"code": str(self.code), "message": self.message, "step": self.step or None}


@dataclass(frozen=True, slots=True)
class Hook:
    """Who is told of the end: ``form`` is ``circe`` (``uuid=<hex>``) or ``standard`` (JSON)."""

    url: str
    form: str = "circe"


@dataclass(frozen=True, slots=True)
class Upload:
    """What was received: its place in the storage, hex SHA-256 and size."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one attempt of a job, until the lease ends. ``token`` fences: only its holder may publish.

    With a ``verdict`` nothing is run: the job is to be published as that, because it was cancelled while it waited, or
    because its last attempt lost its worker.
    """

    job_id: str
    client_id: str
    token: str
    attempt: int
    upload: Upload
    queued_ms: int
    created: float
    verdict: JobError | None = None
    log: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: ``result`` is the stored archive, ``steps`` as in status.json."""

    state: JobState
    result: Upload
    run_ms: int
    steps: tuple[dict[str, Any], ...] = ()
    error: JobError | None = None
    hook: Hook | None = None
    cache_key: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A row as others read it. ``position`` counts the jobs before it while it is queued, from 0."""

    id: str
    client_id: str
    state: JobState
    created: float
    queued: float
    started: float | None
    ended: float | None
    expires: float | None
    attempt: int
    worker: str
    cancelling: bool
    upload: Upload
    result: Upload
    step: str
    steps: tuple[dict[str, Any], ...]
    queued_ms: int
    run_ms: int
    error: JobError | None
    log: str = field(repr=False, default="")
    position: int | None = None

    def described(self) -> dict[str, Any]:
        """As ``GET /job/<id>/status`` and status.json tell it; times in Unix seconds."""
        return {
            "id": self.id,
            "state": str(self.state),
            "error": None if self.error is None else self.error.described(),
            "attempt": self.attempt,
            "queued_ms": self.queued_ms,
            "run_ms": self.run_ms,
            "step": self.step or None,
            "steps": list(self.steps),
            "position": self.position,
            "cancelling": self.cancelling,
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "expires": self.expires,
            "result_bytes": self.result.size_bytes or None,
            "result_sha256": self.result.sha256 or None,
        }


def steps_from(text: str) -> tuple[dict[str, Any], ...]:
    """The column ``steps``."""
    return tuple(json.loads(text)) if text else ()
