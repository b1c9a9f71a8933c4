"""Results that no box could pack: what is left of a broken one, and jobs that were never run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_transform.box.account import Account
from gateway_transform.box.joblog import line_of
from gateway_transform.box.pack import PackCaps, Tree, pack
from gateway_transform.jobs.model import Claim, ErrorCode, JobError, JobState

_JOB_JSON_BYTES = 1 << 20
_LOG_BYTES = 4 << 20


@dataclass(frozen=True)
class Wreck:
    """A dead box: its folder of files, where the result goes, and the descriptor of out.log."""

    files: Path
    archive: Path
    log_fd: int
    claim: Claim
    error: JobError
    run_ms: int


def salvage(wreck: Wreck, steps: Sequence[dict[str, Any]], *, caps: PackCaps) -> None:
    """Pack what is left; nothing runs in the box any more. Blocks; raises OSError."""
    os.write(wreck.log_fd, _error_line(wreck.claim, wreck.error))
    log = os.pread(wreck.log_fd, _LOG_BYTES, 0)
    folder = os.open(wreck.files, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    account = _account(wreck.claim, wreck.error)
    account.steps, account.run_ms = [dict(step) for step in steps], wreck.run_ms
    try:
        _pack(wreck.archive, (folder, _job_json(folder)), caps, last=_last(account, log))
    finally:
        os.close(folder)


def small_archive(claim: Claim, error: JobError, folder: Path) -> Path:
    """A result without files, made in ``folder``: status.json, and out.log as far as it was heard of. Blocks."""
    archive = folder / f"result-{claim.token}"
    log = claim.log.encode() + _error_line(claim, error)
    archive.touch(mode=0o600)
    _pack(archive, (None, None), PackCaps(0, 0), last=_last(_account(claim, error), log))
    return archive


def state_for(error: JobError) -> JobState:
    """The final state of a job that ends with ``error``."""
    return JobState.CANCELLED if error.code is ErrorCode.CANCELLED else JobState.FAILED


def _account(claim: Claim, error: JobError) -> Account:
    account = Account(claim.job_id, claim.attempt, claim.queued_ms, "")
    account.fail(error.code.value, error.message, error.step)
    return account


def _last(account: Account, log: bytes) -> Callable[[Tree], Iterator[tuple[str, bytes]]]:
    def members(tree: Tree) -> Iterator[tuple[str, bytes]]:
        yield "out.log", log
        yield "status.json", account.status_json(tree.files)

    return members


def _pack(
    archive: Path,
    content: tuple[int | None, bytes | None],
    caps: PackCaps,
    *,
    last: Callable[[Tree], Iterator[tuple[str, bytes]]],
) -> None:
    """Write the archive anew; ``content`` is the open folder and job.json."""
    out = os.open(archive, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        pack(content[0], out, caps, job_json=content[1], last=last)
    finally:
        os.close(out)


def _job_json(folder: int) -> bytes | None:
    try:
        fd = os.open("job.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        return os.pread(fd, _JOB_JSON_BYTES, 0)
    except OSError:
        return None
    finally:
        os.close(fd)


def _error_line(claim: Claim, error: JobError) -> bytes:
    record = logging.LogRecord(f"job_logger_{claim.job_id}", logging.ERROR, "", 0, error.message, None, None)
    record.code = error.code.value
    return line_of(record)
