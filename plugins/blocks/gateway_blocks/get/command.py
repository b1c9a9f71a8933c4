"""What ``gateway get`` does once its options are read: every file in turn, told as it goes, ended by signals."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from gateway_blocks.get import api
from gateway_blocks.get.folder import FileWork, folder
from gateway_blocks.get.model import Control, Options, Summary
from gateway_blocks.get.outcome import (
    STOPPED,
    Work,
    exit_code,
    failure_line,
    is_unchanged,
    success_line,
    total_line,
    worst,
)
from gateway_blocks.get.progress import Display, Named, display
from gateway_core.errors import GatewayError

_WORKS: dict[Work, FileWork] = {Work.DOWNLOAD: api.download, Work.VERIFY: api.verify, Work.REPAIR: api.repair}


@dataclass(frozen=True, slots=True)
class Target:
    """One URL, how to get it, and where to: ``path`` None is standard output. ``name`` is what the user sees."""

    url: str
    path: Path | None
    name: str
    options: Options


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that one call of the command has to do."""

    targets: tuple[Target, ...]
    work: Work = Work.DOWNLOAD
    recursive: bool = False
    quiet: bool = False


def carry_out(order: Order) -> int:
    """Do it; returns the exit code. SIGINT and SIGTERM stop in good order, a second one at once."""
    to_terminal = any(target.path is None for target in order.targets) and sys.stdout.isatty()
    told = sys.stderr or io.StringIO()  # None where whoever started us has closed it
    stop = threading.Event()
    with stopped_by_signals(stop) as caught, display(told, quiet=order.quiet, alone=not to_terminal) as shown:
        code = _Run(order, shown, stop).all()
    return 128 + caught[0] if caught and code == STOPPED else code


class _Run:
    """The targets one after another; also the watcher of a folder."""

    def __init__(self, order: Order, shown: Display, stop: threading.Event) -> None:
        self._order = order
        self._shown = shown
        self._stop = stop
        self._summaries: list[Summary] = []
        self._failures: list[int] = []
        self._untried = 0
        self._lock = threading.Lock()

    def all(self) -> int:
        """Every target until the stop; returns the exit code."""
        began = time.monotonic()
        for target in self._order.targets:
            if self._stop.is_set():
                return STOPPED
            self._one(target)
        if not self._stop.is_set() and (self._order.recursive or len(self._order.targets) > 1):
            failed = len(self._failures) + self._untried
            self._shown.tell(total_line(self._summaries, failed, time.monotonic() - began))
        return worst(self._failures)

    def planned(self, files: int, size_bytes: int) -> None:
        """A folder's list came."""
        self._shown.planned(files, size_bytes)

    def settled(self, name: str, size_bytes: int, outcome: Summary | GatewayError) -> None:
        """A file is over; files of a folder that were whole already are only counted."""
        self._shown.settled(name, size_bytes)
        with self._lock:
            if isinstance(outcome, GatewayError):
                self._failures.append(exit_code(outcome))
            else:
                self._summaries.append(outcome)
        if isinstance(outcome, GatewayError):
            self._shown.complain(failure_line(name, outcome))
        elif not (self._order.recursive and is_unchanged(outcome)):
            self._shown.tell(success_line(name, outcome, self._order.work))

    def _one(self, target: Target) -> None:
        try:
            if self._order.recursive:
                self._folder(target)
            else:
                self.settled(target.name, 0, self._file(target))
        except GatewayError as exc:
            self.settled(target.name, 0, exc)

    def _folder(self, target: Target) -> None:
        assert target.path is not None
        control = Control(self._shown, self._stop)
        work = _WORKS[self._order.work]
        done = folder(target.url, target.path, options=target.options, control=control, work=work, watcher=self)
        self._untried += done.untried
        if done.untried:
            self._shown.complain(f"{target.name}: {done.untried} more files were not tried")

    def _file(self, target: Target) -> Summary:
        control = Control(Named(target.name, self._shown), self._stop)
        if target.path is not None:
            return _WORKS[self._order.work](target.url, target.path, options=target.options, control=control)
        return api.stream(target.url, sys.stdout.buffer, options=target.options, control=control)


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[list[int]]:
    """Set ``stop`` at the first SIGINT or SIGTERM, exit at once at the second; yields the numbers of those caught.

    A thread waits for them: a handler in the main thread could neither take the event's lock safely nor run while that
    thread waits for a disk. Signals that whoever started us ignores stay ignored.
    """
    caught: list[int] = []
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as set_wakeup_fd wants it

    def watch() -> None:
        while number := os.read(reading, 1):
            if caught:
                os._exit(128 + number[0])
            caught.append(number[0])
            stop.set()

    def nothing(_number: int, _frame: FrameType | None) -> None:
        """Be there, so that the signal is written to the pipe."""

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, nothing) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
        thread.join()
        os.close(reading)
