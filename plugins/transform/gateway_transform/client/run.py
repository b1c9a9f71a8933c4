"""What ``gateway transform run`` does once its options are read: pack, send, wait, take home; Ctrl-C cancels."""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click

from gateway_core.cli.remote import Remote
from gateway_core.cli.signals import Stopped, stopped_by_signals
from gateway_core.errors import GatewayError
from gateway_transform.client.line import Body
from gateway_transform.client.model import ClientError, Status, printable, size_text
from gateway_transform.client.packing import Entry, pack, plan, total_bytes
from gateway_transform.client.progress import Progress
from gateway_transform.client.steps import Step, job_json
from gateway_transform.client.talk import Talk
from gateway_transform.client.unpack import LOG, Placed, unpacked

FAILED = 1
_WAIT_S, _WAIT_WATCHED_S = 20, 2
"""How long a question waits for the job's end, and where somebody watches the steps."""
_BETWEEN_S = 0.5
_LOUD = frozenset({"WARNING", "ERROR", "CRITICAL"})
_TOLD = frozenset({"timestamp", "level", "name", "message", "time", "code"})
"""What stands in every line of a log, or is told at the end."""
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that one call of the command has to do."""

    remote: Remote
    files: tuple[Path, ...]
    steps: tuple[Step, ...]
    into: Path
    hook: str | None = None
    strict: bool = True
    keep_log: bool = False
    force: bool = False


def carry_out(order: Order) -> int:
    """Do it; returns the exit code. Raises ConfigError for what cannot be sent, ClientError when it broke on the way.

    SIGINT and SIGTERM cancel the job and end with 128 and the signal's number.
    """
    progress = Progress(sys.stderr or io.StringIO())  # None where whoever started us has closed it
    try:
        with stopped_by_signals(), tempfile.TemporaryFile() as archive:
            entries = plan(order.files)
            order.into.mkdir(parents=True, exist_ok=True)
            return _Run(order, progress).all(entries, archive)
    except Stopped as stopped:
        return stopped.exit_code
    except OSError as exc:
        raise ClientError(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc.strerror)) from exc
    finally:
        progress.close()


class _Run:
    """One job from its files to its outputs."""

    def __init__(self, order: Order, progress: Progress) -> None:
        self._order = order
        self._progress = progress
        self._talk = Talk(order.remote, progress)
        self._wait_s = _WAIT_WATCHED_S if progress.watched else _WAIT_S

    def all(self, entries: Sequence[Entry], archive: BinaryIO) -> int:
        """Returns the exit code; ``archive`` is an empty temporary file."""
        order = self._order
        packed = self._share("packing", total_bytes(entries))
        pack(entries, job_json(order.steps, hook=order.hook), archive, packed=packed)
        size_bytes = archive.tell()
        body = Body(archive, size_bytes, self._share("sending", size_bytes))
        job_id = self._talk.send(body, strict=order.strict)
        status = self._ended(job_id)
        with tempfile.TemporaryFile(dir=order.into) as result:
            self._talk.fetch(job_id, result, sha256=status.result_sha256)
            result.seek(0)
            return self._take_home(status, result)

    def _ended(self, job_id: str) -> Status:
        """The job's status once it has ended; cancels it when stopped before."""
        self._progress.show("waiting")
        try:
            while True:
                asked = time.monotonic()
                status = self._talk.status(job_id, wait_s=self._wait_s)
                if status.final:
                    return status
                self._progress.show(*_words(status))
                # A server that drains answers at once.
                time.sleep(max(0.0, min(_BETWEEN_S, asked + _BETWEEN_S - time.monotonic())))
        except Stopped:
            self._cancel(job_id)
            raise

    def _cancel(self, job_id: str) -> None:
        try:
            self._talk.cancel(job_id)
        except GatewayError as exc:
            self._progress.tell(exc.detail)
        else:
            self._progress.tell("cancelled")

    def _take_home(self, status: Status, archive: BinaryIO) -> int:
        order = self._order
        with unpacked(archive, order.into) as result:
            for line in result.log():
                if line.get("level") in _LOUD:
                    self._tell_line(line)
            paths = result.outputs() if status.state == "succeeded" else []
            if order.keep_log and result.has(LOG):
                paths.append(LOG)
            placed = result.place(paths, order.into, force=order.force)
        self._tell_placed(placed)
        if status.state != "succeeded":
            self._progress.tell(_failure(status))
            return FAILED
        self._progress.tell(f"{_counted(placed)}, ran {status.run_ms / 1000:.1f} s")
        return FAILED if placed.kept else 0

    def _tell_placed(self, placed: Placed) -> None:
        """Every output on standard output, the rest on standard error."""
        self._progress.close()
        for path in sorted((*placed.written, *placed.there)):
            click.echo(printable(str(path)))
        for path, reason in placed.kept:
            hint = "; --force overwrites it" if path.is_file() else ""
            self._progress.tell(f"{path} was not written: {reason}{hint}")

    def _tell_line(self, line: Mapping[str, Any]) -> None:
        """A line of the log, and the end of what stands beside its message."""
        self._progress.tell(f"{line['level']}: {line.get('message')}")
        for key, value in line.items():
            if key not in _TOLD and value not in (None, ""):
                for text in f"{key}: {value}".splitlines()[-_MOST_LINES:]:
                    self._progress.tell(f"    {text}")

    def _share(self, stage: str, whole_bytes: int) -> Callable[[int], None]:
        return lambda done_bytes: self._progress.show(stage, f"{size_text(done_bytes)} of {size_text(whole_bytes)}")


def _words(status: Status) -> tuple[str, str]:
    """Stage and detail of a job that has not ended."""
    if status.state == "queued":
        before = status.position
        return "waiting", "" if before is None else f"{before} jobs before it"
    return "running", status.step or ""


def _counted(placed: Placed) -> str:
    """``2 files written``, ``1 file written, 3 there already``."""
    count = len(placed.written)
    there = f", {len(placed.there)} there already" if placed.there else ""
    return f"{count} file{'' if count == 1 else 's'} written{there}"


def _failure(status: Status) -> str:
    """One line on why there is no good result."""
    error = status.error or {}
    where = f" (step {error['step']})" if error.get("step") else ""
    return f"{status.state}: {error.get('code', 'unknown')}: {error.get('message', '')}{where}"
