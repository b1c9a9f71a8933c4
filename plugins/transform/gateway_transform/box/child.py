"""The process that is one step: from the fork to ``os._exit``."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from gateway_transform.api import BadInput, BadOptions
from gateway_transform.box import codes, limits, syscalls
from gateway_transform.box.context import Context, Entry
from gateway_transform.box.joblog import JobLog

DONE = "done"
"""The note's code when the transformation has returned."""

_TRACEBACK_CHARS = 32 << 10
_OUT_OF_MEMORY = json.dumps({"code": codes.OUT_OF_MEMORY, "message": "out of memory"}).encode()


@dataclass(frozen=True, slots=True)
class Pipes:
    """The writing ends a step is given: for its output, and for the note on how it ended."""

    output: int
    note: int


def become_step(
    entry: Entry, options: Mapping[str, Any], context: Context, *, held: limits.StepLimits, log: JobLog, pipes: Pipes
) -> NoReturn:
    """Run the transformation in this process and end it, with a note (JSON) on the pipe."""
    status = 1
    own = os.getpid()
    try:
        note = _call(entry, options, context, held=held, log=log, pipes=pipes)
        while note and os.getpid() == own:
            note = note[os.write(pipes.note, note) :]
        status = 0
    finally:
        os._exit(status)


def _call(
    entry: Entry, options: Mapping[str, Any], context: Context, *, held: limits.StepLimits, log: JobLog, pipes: Pipes
) -> bytes:
    try:
        _settle(context, log, pipes)
        limits.limit_step(held)
        entry.call(context.working_dir, log.logger, dict(options))
        sys.stdout.flush()
    except MemoryError:
        return _OUT_OF_MEMORY
    except SystemExit as end:
        return _note(codes.FAILED, f"exit {end.code}") if end.code else _note(DONE)
    except BaseException as error:  # noqa: BLE001 - the border to foreign code: all of it is told to the box
        return _told(error)
    return _note(DONE)


def _settle(context: Context, log: JobLog, pipes: Pipes) -> None:
    """Own process group, standard streams and folders. All that was open but the log becomes the null device.

    It is not closed: what a loaded module believes to be its own must not become a file of the transformation.
    """
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(pipes.output, 1)
    os.dup2(pipes.output, 2)
    with os.scandir("/proc/self/fd") as found:
        fds = [int(each.name) for each in found]
    for fd in fds:
        if fd not in {1, 2, log.fd, pipes.note}:
            with contextlib.suppress(OSError):
                os.dup2(null, fd, inheritable=fd == 0)
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - for good
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - for good
    syscalls.set_dumpable(dumpable=True)
    os.chdir(context.working_dir)
    os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = context.tmp_dir
    log.hold()


def _told(error: BaseException) -> bytes:
    """The note on an error that the transformation has raised."""
    said = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, BadInput | BadOptions):
        code = codes.BAD_INPUT if isinstance(error, BadInput) else codes.BAD_OPTIONS
        return _note(code, said.partition(": ")[2] or said)
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return _OUT_OF_MEMORY
    frames = "".join(traceback.format_exception(type(error), error, _own(error.__traceback__)))
    return _note(codes.FAILED, said, frames[-_TRACEBACK_CHARS:])


def _own(frames: TracebackType | None) -> TracebackType | None:
    """The frames of the transformation, without those of this file."""
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames


def _note(code: str, message: str = "", frames: str = "") -> bytes:
    return json.dumps({"code": code, "message": message, "traceback": frames}).encode()
