"""SHA-1 of blocks of local files, by several threads."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import NamedTuple

from gateway_blocks.get.model import Stopped

_PIECE_BYTES = 256 << 10
_MOST_THREADS = 4
_GLANCE_S = 0.25


class Hashed(NamedTuple):
    """``size_bytes`` at ``offset`` have this SHA-1; ``digest`` is None where they cannot be read."""

    offset: int
    size_bytes: int
    digest: bytes | None


class _Hashing:
    """Spans of one file, taken by threads one at a time."""

    def __init__(self, fd: int, spans: Iterable[tuple[int, int]], stop: threading.Event) -> None:
        self._fd = fd
        self._spans = iter(spans)
        self._stop = stop
        self._taking = threading.Lock()
        self.over = threading.Event()
        self.results: SimpleQueue[Hashed | BaseException | None] = SimpleQueue()

    def work(self) -> None:
        """Hash spans until there are none; None is the last result of each thread, perhaps after an error."""
        buffer = memoryview(bytearray(_PIECE_BYTES))
        try:
            while not self.over.is_set() and not self._stop.is_set():
                with self._taking:
                    span = next(self._spans, None)
                if span is None:
                    break
                self.results.put(Hashed(*span, self._digest(*span, buffer)))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            self.results.put(error)
        self.results.put(None)

    def _digest(self, offset: int, count: int, buffer: memoryview) -> bytes | None:
        hasher = hashlib.sha1(usedforsecurity=False)
        while count:
            try:
                got = os.preadv(self._fd, [buffer[: min(count, _PIECE_BYTES)]], offset)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return None  # what the disk cannot read any more is not there
            if not got or self.over.is_set() or self._stop.is_set():
                return None
            hasher.update(buffer[:got])
            offset, count = offset + got, count - got
        return hasher.digest()


def hash_spans(fd: int, spans: Iterable[tuple[int, int]], stop: threading.Event) -> Iterator[Hashed]:
    """SHA-1 of each (offset, count) of the file, in no order, as they get ready.

    ``spans`` is consumed by other threads. Raises OSError as reading does, Stopped once ``stop`` is set. Close the
    iterator to end it early.
    """
    with _threads(_Hashing(fd, spans, stop)) as (hashing, running):
        left = running
        while left:
            _check(stop)
            try:
                result = hashing.results.get(timeout=_GLANCE_S)
            except Empty:  # a dead network file system may keep the threads for ever
                continue
            if isinstance(result, BaseException):
                raise result
            if result is None:
                left -= 1
            else:
                yield result
        _check(stop)


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped("stopped")


@contextmanager
def _threads(hashing: _Hashing) -> Iterator[tuple[_Hashing, int]]:
    count = min(_MOST_THREADS, os.cpu_count() or 1)
    threads = [threading.Thread(target=hashing.work, name="hash", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield hashing, count
    finally:
        hashing.over.set()
        for thread in threads:
            thread.join(_GLANCE_S)
