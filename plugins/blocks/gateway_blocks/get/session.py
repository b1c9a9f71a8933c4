"""What all threads of one download share: how it was asked for, who is told, and how much failure it stands."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from gateway_blocks.get.connection import Busy, HttpClient
from gateway_blocks.get.disk import DiskFailed
from gateway_blocks.get.limit import RateLimit
from gateway_blocks.get.model import Checked, Control, GetError, Options, Stopped, Summary, Unreachable

_T = TypeVar("_T")
_RANDOM = random.SystemRandom()
_LONGEST_WAIT_S = 600.0
"""A server that asks for a longer pause than this is taken for one that cannot be reached."""
_GLANCE_S = 0.1


class Halt(threading.Event):
    """Ends the waits of one thread; the end of the whole download ends them, too."""

    def __init__(self, whole: threading.Event) -> None:
        super().__init__()
        self._whole = whole

    def is_set(self) -> bool:
        """Whether this thread, or all, are to stop."""
        return super().is_set() or self._whole.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for either; the whole's end is seen a tenth of a second late."""
        ends = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _GLANCE_S if ends is None else min(_GLANCE_S, ends - time.monotonic())
            if left <= 0:
                return False
            super().wait(left)
        return True


class Tries:
    """Counts failures in a row while nothing gets on, over all threads.

    Threads that fail together, as all do when a server goes away, fail once: a failure counts only if its attempt
    began after the last one that was counted.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._failed = 0
        self._counted_at = float("-inf")

    def progress(self) -> None:
        """Something got on: the row of failures is broken."""
        if self._failed:
            with self._lock:
                self._failed = 0

    def failed(self, error: GetError, began: float) -> bool:
        """An attempt that began at ``began`` (monotonic) failed; whether it counts.

        Raises ``error`` when that was once too often, or when trying again cannot help.
        """
        if isinstance(error, DiskFailed) or (
            isinstance(error, Busy) and (error.retry_after_s or 0.0) > _LONGEST_WAIT_S
        ):
            raise error
        with self._lock:
            if began < self._counted_at:
                return False
            self._failed += 1
            self._counted_at = time.monotonic()
            exhausted = self._failed >= max(1, self._options.tries)
        if exhausted:
            raise error
        return True

    def wait_s(self, row: int, error: GetError | None = None) -> float:
        """How long to wait after ``row`` failures in a row: exponential with full jitter, or what the server asked."""
        told = error.retry_after_s if isinstance(error, Busy) else None
        if told is not None:
            return told
        return _RANDOM.uniform(
            0.0, min(self._options.retry_cap_s, self._options.retry_base_s * 2.0 ** min(row - 1, 60))
        )


class Session:
    """One download: ``url`` is where it is from, ``name`` what the observer is told of it by.

    ``fetched_bytes`` are those of blocks that came over the network and are right, ``damaged`` counts by block how
    often it came with another SHA-1 than told.
    """

    def __init__(self, url: str, name: str, options: Options, *, control: Control) -> None:
        self.url = url
        self.name = name
        self.options = options
        self.stop = control.stop
        self.tries = Tries(options)
        self.limit = RateLimit(options.limit_rate)
        self._began = time.monotonic()
        self.fetched_bytes = 0
        self.damaged: Counter[int] = Counter()
        self._observer = control.observer
        self._lock = threading.Lock()

    def client(self, stop: threading.Event | None = None) -> HttpClient:
        """A client for one thread, ended by ``stop``."""
        return HttpClient(self.options, self.stop if stop is None else stop, home=self.url)

    def remark(self, text: str) -> None:
        """Tell the observer something worth a line."""
        self._observer.remarked(self.name, text)

    def started(self, size_bytes: int, done_bytes: int) -> None:
        """Tell the observer what there is to do."""
        self._observer.started(self.name, size_bytes, done_bytes)

    def gained(self, count_bytes: int, *, fetched: bool = False) -> None:
        """A block is there for good: nobody is out of patience now."""
        if fetched:
            with self._lock:
                self.fetched_bytes += count_bytes
        self.tries.progress()
        self._observer.advanced(self.name, count_bytes)

    def passed(self, count_bytes: int) -> None:
        """Bytes came, for which nothing speaks: they break no row of failures."""
        with self._lock:
            self.fetched_bytes += count_bytes
        self._observer.advanced(self.name, count_bytes)

    def came_damaged(self, index: int) -> int:
        """A block came with another SHA-1 than told; returns how often it did."""
        with self._lock:
            self.damaged[index] += 1
            return self.damaged[index]

    def finished(
        self, path: Path | None, size_bytes: int, checked: Checked, *, bad_blocks: Iterable[int] | None = None
    ) -> Summary:
        """Tell the observer, and the caller, what came of it; ``bad_blocks`` are those that came damaged, or these."""
        summary = Summary(
            url=self.url,
            path=path,
            size_bytes=size_bytes,
            checked=checked,
            fetched_bytes=self.fetched_bytes,
            reused_bytes=max(0, size_bytes - self.fetched_bytes),
            seconds=time.monotonic() - self._began,
            bad_blocks=tuple(sorted(self.damaged if bad_blocks is None else bad_blocks)),
        )
        self._observer.finished(self.name, summary)
        return summary

    def check(self) -> None:
        """Raise Stopped once the caller wants it."""
        if self.stop.is_set():
            raise Stopped("stopped")

    def retry_wait_s(self, error: GetError, began: float, row: int) -> float:
        """How long to wait before the next try after the ``row``-th failure in a row; raises ``error`` after the last.

        Threads that fail together tell of it once.
        """
        counts = self.tries.failed(error, began)
        wait_s = self.tries.wait_s(row, error)
        if counts:
            self.remark(f"{error}; again in {wait_s:.1f} s")
        return wait_s

    def insist(self, attempt: Callable[[], _T], stop: threading.Event | None = None) -> _T:
        """What ``attempt`` returns, tried again after waits as long as it is Unreachable; raises as it does.

        Raises Stopped when ``stop``, or else the caller's, is set.
        """
        row = 0
        while True:
            began = time.monotonic()
            try:
                return attempt()
            except Unreachable as error:
                row += 1
                wait_s = self.retry_wait_s(error, began, row)
                if (stop or self.stop).wait(wait_s):
                    raise Stopped("stopped") from error
