"""The first process of a box: takes one job from the worker, sees it through, and ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from gateway_transform.box import codes, jobfile, wire
from gateway_transform.box.account import Account
from gateway_transform.box.codes import Refused
from gateway_transform.box.context import Context
from gateway_transform.box.jobfile import JOB_FILE, JobFile, Step
from gateway_transform.box.joblog import JobLog
from gateway_transform.box.limits import limit_files
from gateway_transform.box.options import check_options
from gateway_transform.box.pack import OWN_NAMES, PackCaps, Packed, Tree, pack
from gateway_transform.box.rehearsal import rehearse
from gateway_transform.box.scan import scanned
from gateway_transform.box.steps import (
    Cancelled,
    JobLimits,
    Runner,
    StepEnd,
    WorkerGone,
    ask_cancelled,
)
from gateway_transform.box.untar import Caps, Facts, Folder, members, unpack
from gateway_transform.box.upload import Upload, upload_caps

_TAIL_BYTES = 8 << 10
_MARGIN_MB = 256
_STATUS_BYTES = 64 << 20


class _Stopped(Exception):
    """The worker wants nothing from this box."""


def main(sock: socket.socket, context: Context) -> NoReturn:
    """Serve the worker at the other end of ``sock`` once and end the process.

    Exit status 0: done or not needed; 1: the worker is gone; 70: a defect, told on standard error.
    """
    status = 70
    try:
        rehearse()
        wire.send(sock, {"type": "ready"})
        _serve(sock, context)
        status = 0
    except (WorkerGone, ConnectionError, wire.WireError):
        status = 1
    except Exception:  # noqa: BLE001 - the border of the process
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _serve(sock: socket.socket, context: Context) -> None:
    received = wire.receive(sock)
    if received is None:
        return
    order, fds = received
    if order["type"] == "scan":
        wire.send(sock, scanned(fds[0], JobLimits.from_message(order["limits"]), context.entries))
    elif order["type"] == "job":
        with contextlib.suppress(_Stopped):
            _Job(sock, context, order, fds=fds).run()


class _Job:
    """One job. ``fds`` are the upload, the empty result and out.log."""

    def __init__(self, sock: socket.socket, context: Context, order: dict[str, Any], *, fds: Sequence[int]) -> None:
        self._began = time.monotonic()
        self._sock = sock
        self._context = context
        self._upload_fd, self._result_fd, log_fd = fds
        self._limits = JobLimits.from_message(order["limits"])
        limit_files(max(self._limits.disk_mb, self._limits.max_unpacked_mb) + _MARGIN_MB)
        self._log = JobLog(log_fd, str(order["id"]))
        self._ask = bool(order.get("ask", True))
        self._account = Account(str(order["id"]), int(order["attempt"]), int(order["queued_ms"]), context.level)
        self._folder = os.open(context.working_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._job_json: bytes | None = None
        self._began_steps = False

    def run(self) -> None:
        """From the upload to the message ``done``. Raises WorkerGone, _Stopped, OSError."""
        try:
            self._whole()
        except Refused as refused:
            self._fail(codes.BAD_INPUT, str(refused))
        except Cancelled:
            self._fail(codes.CANCELLED, "cancelled")
        except ConnectionError:
            raise
        except OSError as error:
            self._fail(codes.FAILED, f"the box cannot go on: {error.strerror}")
        self._account.run_ms = round(1000 * (time.monotonic() - self._began))
        packed = self._pack()
        account = self._account
        done = {
            "type": "done",
            "state": account.state,
            "error": account.error,
            "steps": account.steps,
            "run_ms": account.run_ms,
            "result_bytes": packed.size,
            "result_sha256": packed.sha256,
            "log_tail": codes.storable(self._log.tail(_TAIL_BYTES)),
        }
        wire.send(self._sock, done)

    def _whole(self) -> None:
        files = self._unpack()
        job = jobfile.parse(self._read_job_json())
        self._began_steps = True
        self._account.inputs = {path: facts for path, facts in files.items() if path != JOB_FILE}
        self._account.steps = [self._row(step) for step in job.steps]
        self._tell_unpacked(job, files)
        cached = self._await_go() if self._ask else None
        if cached is not None and self._restored(cached):
            return
        deadline = time.monotonic() + self._limits.seconds
        runner = Runner(self._sock, self._context, self._limits, log=self._log)
        for index, step in enumerate(job.steps):
            self._account.steps[index] |= self._one_step(runner, index, step, deadline=deadline)
            if self._account.error is not None:
                return

    def _row(self, step: Step) -> dict[str, Any]:
        """A step that was not begun, as status.json lists it."""
        entry = self._context.entries.get(step.name)
        return {"name": step.name, "state": codes.SKIPPED, "ms": 0, "version": entry.version if entry else ""}

    def _unpack(self) -> dict[str, Facts]:
        upload = Upload(self._upload_fd, lambda: ask_cancelled(self._sock))
        try:
            return unpack(upload, self._folder, upload_caps(self._limits)).files
        except (Refused, Cancelled):
            self._job_json = self._existing_job_json()
            raise

    def _read_job_json(self) -> bytes:
        self._job_json = self._existing_job_json()
        if self._job_json is None:
            raise Refused("no_job_json", "the archive has no job.json")
        return self._job_json

    def _existing_job_json(self) -> bytes | None:
        """The file as it was sent; what is too long for one is cut where ``jobfile`` sees it."""
        try:
            fd = os.open(JOB_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return None
        try:
            return os.read(fd, jobfile.MAX_BYTES + 1)
        except IsADirectoryError:
            return None
        finally:
            os.close(fd)

    def _tell_unpacked(self, job: JobFile, files: dict[str, Facts]) -> None:
        entries = [self._context.entries[step.name] for step in job.steps if step.name in self._context.entries]
        message = {
            "type": "unpacked",
            "names": [step.name for step in job.steps],
            "hook": job.hook,
            "hook_form": job.hook_form,
            "network": any(entry.network for entry in entries),
            "deterministic": bool(entries) and all(entry.deterministic for entry in entries),
            "cache_key": jobfile.cache_key(files, job.steps, self._context.entries),
            "files": len(files),
            "bytes": sum(facts.size for facts in files.values()),
            "preload": sorted({module for entry in entries for module in entry.preload}),
        }
        wire.send(self._sock, message)

    def _await_go(self) -> int | None:
        """Wait for the worker's word; the answer is a stored result's descriptor. Raises Cancelled, _Stopped."""
        while True:
            received = wire.receive(self._sock)
            if received is None:
                raise WorkerGone
            message, fds = received
            if message["type"] == "cancel":
                raise Cancelled
            if message["type"] == "stop":
                raise _Stopped
            if message["type"] == "go":
                for warning in message.get("warnings", ()):
                    self._log.logger.warning("%s", warning)
                return fds[0] if message.get("restore") and fds else None

    def _one_step(self, runner: Runner, index: int, step: Step, *, deadline: float) -> dict[str, Any]:
        """Run a step; what it changes in its row."""
        entry = self._context.entries.get(step.name)
        wire.send(self._sock, {"type": "step", "index": index, "name": step.name})
        if entry is None:
            self._log.logger.warning({"message": f"No such transformation: {step.name}", "time": _now()})
            return {"state": codes.UNKNOWN}
        self._log.logger.info({"message": f"Executing transformation {step.name}", "time": _now()})
        if errors := check_options(entry.description, step.options):
            self._log.logger.warning({"message": f"Options that {step.name} does not take", "fields": errors})
        try:
            ask_cancelled(self._sock)
            end = runner.run(entry, step.options, deadline)
        except Cancelled:
            self._fail(codes.CANCELLED, "cancelled", step.name)
            return {"state": codes.CANCELLED}
        if end.code:
            self._fail(end.code, end.message, step.name, end=end)
        return {"state": codes.FAILED if end.code else codes.SUCCEEDED, "ms": end.ms}

    def _fail(self, code: str, message: str, step: str = "", *, end: StepEnd | None = None) -> None:
        """Note the first error for the worker and for status.json, and any in out.log."""
        if self._account.error is None:
            self._account.fail(code, message, step)
        line = {"message": f"{step}: {message}" if step else message, "code": code}
        if end is not None:
            line |= {"traceback": end.frames} if end.frames else {}
            line |= {"output": end.output} if end.output else {}
        self._log.logger.error(line)

    def _restored(self, cached_fd: int) -> bool:
        """Put a stored result's files in the place of the upload's, and its steps in the place of steps.

        False when it cannot be used: the upload's files are there again.
        """
        status = b""
        _clear(self._folder)
        try:
            caps = Caps.of_result(self._limits.disk_mb << 20, self._limits.result_files)
            with Folder(self._folder) as folder:
                for member in members(Upload(cached_fd, lambda: ask_cancelled(self._sock)), caps):
                    if member.path == "status.json" and member.size <= _STATUS_BYTES:
                        status = b"".join(member.chunks)
                    elif member.is_dir:
                        folder.make(member.path)
                    elif member.path not in OWN_NAMES:
                        folder.write(member)
            self._account.steps = [{**step, "cached": True} for step in json.loads(status)["steps"]]
        except (Refused, ValueError, LookupError, TypeError):
            self._log.logger.warning("The stored result cannot be used: the steps are run")
            _clear(self._folder)
            self._unpack()
            return False
        finally:
            os.close(cached_fd)
        self._log.logger.info("Taken from an equal job's result")
        return True

    def _pack(self) -> Packed:
        """Write the result: without the folder's files when those are what cannot be written. Raises OSError."""
        caps = PackCaps(self._limits.disk_mb << 20, self._limits.result_files)
        try:
            return self._packed(self._folder if self._began_steps else None, caps)
        except OSError as error:
            self._fail(codes.FAILED, f"the result cannot be written: {error.strerror}")
            os.lseek(self._result_fd, 0, os.SEEK_SET)
            os.ftruncate(self._result_fd, 0)
            return self._packed(None, caps)

    def _packed(self, folder_fd: int | None, caps: PackCaps) -> Packed:
        return pack(folder_fd, self._result_fd, caps, job_json=self._job_json, last=self._last)

    def _last(self, tree: Tree) -> Iterator[tuple[str, bytes]]:
        if tree.skipped_count:
            text = f"Left out of the result: {tree.skipped_count}"
            self._log.logger.warning({"message": text, "files": tree.skipped})
        yield "out.log", self._log.content()
        yield "status.json", self._account.status_json(tree.files)


def _clear(folder_fd: int) -> None:
    """Remove all that is in the folder."""
    for name in os.listdir(folder_fd):
        try:
            os.unlink(name, dir_fd=folder_fd)
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=folder_fd)


def _now() -> str:
    """Local time without zone, as Circe's lines have it."""
    return datetime.now(UTC).astimezone().replace(tzinfo=None).isoformat()
