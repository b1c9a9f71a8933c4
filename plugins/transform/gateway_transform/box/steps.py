"""One step of a job: forked, held to its limits, watched, and ended with all that it has started."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from gateway_transform.box import codes, descendants, watch, wire
from gateway_transform.box.child import DONE, Pipes, become_step
from gateway_transform.box.context import Context, Entry
from gateway_transform.box.joblog import LOG_BYTES, JobLog
from gateway_transform.box.limits import StepLimits

_LOOK_S = 0.1
_LOOK_SHARE = 10
_HIDDEN_LOOKS = 3
_SOCKETS = 512
_OUTPUT_BYTES = 64 << 10
_NOTE_BYTES = 256 << 10
_READ_BYTES = 64 << 10
_PIPE_READS = 64
_END_S = 5.0
_DYING_S = 0.001
_RESULT_FILES = 20
_OWN_WORDS = frozenset({DONE, codes.FAILED, codes.BAD_INPUT, codes.BAD_OPTIONS, codes.OUT_OF_MEMORY})


class WorkerGone(Exception):
    """Nobody is left to tell the result to."""


class Cancelled(Exception):
    """The worker has said so."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What the worker allows a job; MB are MiB. ``upload_bytes`` is the size of this upload."""

    seconds: float
    memory_mb: int
    disk_mb: int
    processes: int
    max_unpacked_mb: int
    max_files: int
    upload_bytes: int = 0

    @classmethod
    def from_message(cls, limits: Mapping[str, Any]) -> JobLimits:
        """As the worker sends them; raises KeyError, TypeError."""
        return cls(**{each.name: limits[each.name] for each in fields(cls)})

    @property
    def result_files(self) -> int:
        """Files and folders that a job may have made."""
        return _RESULT_FILES * self.max_files


class StepEnd(NamedTuple):
    """How a step ended: ``code`` is empty when all went well; ``output`` the first of what it printed."""

    code: str
    message: str
    ms: int
    frames: str = ""
    output: str = ""


class Killed(NamedTuple):
    """Why a step was ended from outside."""

    code: str
    message: str


class Until(NamedTuple):
    """When a step must have ended (``time.monotonic()``), and what is said if it has not."""

    at: float
    message: str


def ask_cancelled(sock: socket.socket) -> None:
    """Look whether the worker has said anything; raises Cancelled, WorkerGone."""
    while select.select([sock], [], [], 0)[0]:
        take_cancel(sock)


def take_cancel(sock: socket.socket) -> None:
    """Take the message that has come; raises Cancelled, WorkerGone. Anything else means nothing now."""
    try:
        received = wire.receive(sock)
    except OSError as error:
        raise WorkerGone from error
    if received is None:
        raise WorkerGone
    message, fds = received
    for fd in fds:
        os.close(fd)
    if message["type"] == "cancel":
        raise Cancelled


class Runner:
    """Runs the steps of one job, one after the other."""

    def __init__(self, sock: socket.socket, context: Context, limits: JobLimits, *, log: JobLog) -> None:
        self._sock = sock
        self._context = context
        self._limits = limits
        self._log = log

    def run(self, entry: Entry, options: Mapping[str, Any], deadline: float) -> StepEnd:
        """Until the step has ended, by itself or not, at ``deadline`` (``time.monotonic()``) at the latest.

        Nothing that it started lives on. Raises Cancelled and WorkerGone, and OSError when no process can be had.
        """
        began = time.monotonic()
        until = self._until(entry, began, deadline)
        if until.at <= began:
            return StepEnd(codes.TIMEOUT, until.message, 0)
        process = self._fork(entry, options, until.at - began)
        try:
            try:
                killed = self._watch(process, entry, until)
            finally:
                process.reap(self._end_all())
            if killed is None:
                killed = self._look(entry).over()
            process.drain()
            return process.end(killed, round(1000 * (time.monotonic() - began)))
        finally:
            process.close()

    def _fork(self, entry: Entry, options: Mapping[str, Any], seconds: float) -> _Process:
        output, output_end = os.pipe2(os.O_CLOEXEC)
        note, note_end = os.pipe2(os.O_CLOEXEC)
        held = StepLimits(
            memory_mb=self._memory_mb(entry),
            file_mb=self._limits.disk_mb,
            cpu_s=seconds * (os.cpu_count() or 1),
            processes=self._limits.processes,
            counted_alone=self._context.counted_alone,
        )
        try:
            pid = os.fork()
            if pid == 0:
                pipes = Pipes(output_end, note_end)
                become_step(entry, options, self._context, held=held, log=self._log, pipes=pipes)
        except OSError:
            os.close(output)
            os.close(note)
            raise
        finally:
            os.close(output_end)
            os.close(note_end)
        return _Process(pid, os.pidfd_open(pid), output=output, note=note)

    def _until(self, entry: Entry, began: float, deadline: float) -> Until:
        """The step's own time, or the rest of the job's when that is shorter."""
        if entry.seconds is not None and began + entry.seconds < deadline:
            return Until(began + entry.seconds, f"it ran longer than {entry.seconds:g} s")
        return Until(deadline, f"the job ran longer than {self._limits.seconds:g} s")

    def _memory_mb(self, entry: Entry) -> int:
        return self._limits.memory_mb if entry.memory_mb is None else min(entry.memory_mb, self._limits.memory_mb)

    def _watch(self, process: _Process, entry: Entry, until: Until) -> Killed | None:
        """Until the process ends (None) or must be ended."""
        poll = select.poll()
        for fd in (self._sock.fileno(), process.pidfd, process.output, process.note):
            poll.register(fd, select.POLLIN)
        look = self._look(entry)
        look_at = time.monotonic() + _LOOK_S
        while True:
            now = time.monotonic()
            if now >= until.at:
                return Killed(codes.TIMEOUT, until.message)
            if now >= look_at:
                process.reap(_reaped())
                if over := look.over():
                    return over
                look_at = time.monotonic() + max(_LOOK_S, _LOOK_SHARE * (time.monotonic() - now))
            for fd, _ in poll.poll(max(0, math.ceil(1000 * (min(until.at, look_at) - time.monotonic())))):
                if fd == process.pidfd:
                    return None
                if fd == self._sock.fileno():
                    take_cancel(self._sock)
                elif not process.take(fd):
                    poll.unregister(fd)

    def _look(self, entry: Entry) -> _Look:
        folders = (self._context.working_dir, self._context.tmp_dir)
        return _Look(folders, self._log.fd, memory_mb=self._memory_mb(entry), limits=self._limits)

    def _end_all(self) -> dict[int, int]:
        """Kill whatever runs in the box but the box, and reap it: wait statuses by process."""
        if self._context.pid1:
            descendants.kill_own_namespace()
        else:
            descendants.kill_descendants(os.getpid(), deadline_s=_END_S)
        deadline = time.monotonic() + _END_S
        reaped = _reaped()
        while _has_children() and time.monotonic() < deadline:
            time.sleep(_DYING_S)
            reaped |= _reaped()
        return reaped


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _reaped() -> dict[int, int]:
    """Wait statuses of the processes that have ended."""
    found: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found[pid] = status


class _Look:
    """What a step takes against what it may take."""

    def __init__(self, folders: tuple[str, str], log_fd: int, *, memory_mb: int, limits: JobLimits) -> None:
        self._folders = folders
        self._log_fd = log_fd
        self._memory_mb = memory_mb
        self._limits = limits
        self._hidden = 0

    def over(self) -> Killed | None:
        """The limit that is exceeded now, if one is."""
        limits = self._limits
        pids = descendants.living(os.getpid())
        memory = self._memory_mb << 20
        if watch.memory_bytes(pids, limit_bytes=memory) > memory:
            return Killed(codes.OUT_OF_MEMORY, f"it took more than {self._memory_mb} MiB of memory")
        if watch.threads(pids) > limits.processes:
            return Killed(codes.FAILED, f"process limit: more than {limits.processes} processes and threads")
        if os.fstat(self._log_fd).st_size > LOG_BYTES:
            return Killed(codes.FAILED, f"disk limit: more than {LOG_BYTES} bytes in out.log")
        disk = watch.disk(self._folders, pids, max_entries=limits.result_files)
        if disk.used_bytes > limits.disk_mb << 20:
            return Killed(codes.FAILED, f"disk limit: more than {limits.disk_mb} MiB of files")
        if disk.entries > limits.result_files:
            return Killed(codes.FAILED, f"disk limit: more than {limits.result_files} files and folders")
        if disk.sockets > _SOCKETS:
            return Killed(codes.FAILED, f"process limit: more than {_SOCKETS} open sockets")
        self._hidden = self._hidden + 1 if disk.hidden else 0
        if self._hidden >= _HIDDEN_LOOKS:
            return Killed(codes.FAILED, "disk limit: there are files that cannot be counted")
        return None


class _Process:
    """The step's process as the box sees it, with what it has printed and noted."""

    def __init__(self, pid: int, pidfd: int, *, output: int, note: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.output = output
        self.note = note
        self._status: int | None = None
        self._texts = {output: bytearray(), note: bytearray()}
        self._limits = {output: _OUTPUT_BYTES, note: _NOTE_BYTES}
        os.set_blocking(output, False)
        os.set_blocking(note, False)

    def take(self, fd: int) -> bool:
        """Read what a pipe has now, keep the first of it; False when there is nothing, or will be no more."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        text = self._texts[fd]
        text += data[: self._limits[fd] - len(text)]
        return bool(data)

    def drain(self) -> None:
        """The rest that is in the pipes; they hold no more than a kernel's buffer, as all writers are dead."""
        for fd in (self.output, self.note):
            for _ in range(_PIPE_READS):
                if not self.take(fd):
                    break

    def reap(self, statuses: Mapping[int, int]) -> None:
        """Keep the process's own wait status, should it be among them."""
        self._status = statuses.get(self.pid, self._status)

    def end(self, killed: Killed | None, ms: int) -> StepEnd:
        """How it ended, by what killed it, by its wait status and by its note."""
        output = self._texts[self.output].decode(errors="replace")
        if killed is not None:
            return StepEnd(killed.code, killed.message, ms, "", output)
        status = self._status
        if status is None:
            return StepEnd(codes.CRASHED, "it cannot be ended", ms, "", output)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGXCPU:
                return StepEnd(codes.TIMEOUT, "it used up its processor time", ms, "", output)
            return StepEnd(codes.CRASHED, f"killed by {_signal_name(number)}", ms, "", output)
        code, message, frames = self._noted()
        if not code:
            return StepEnd(codes.CRASHED, f"it ended by itself with {os.WEXITSTATUS(status)}", ms, "", output)
        return StepEnd("" if code == DONE else code, message, ms, frames, output)

    def _noted(self) -> tuple[str, str, str]:
        """Code, message and traceback of the note; empty without one, or with one that the box's code did not write."""
        try:
            note = json.loads(self._texts[self.note])
            code, message, frames = note["code"], note["message"], note.get("traceback", "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "", "", ""
        if code not in _OWN_WORDS or not isinstance(message, str) or not isinstance(frames, str):
            return "", "", ""
        return str(code), message, frames

    def close(self) -> None:
        """Close the box's ends."""
        for fd in (self.pidfd, self.output, self.note):
            os.close(fd)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
