"""One writer at a time on an SQLite file: in turn inside a process, in turn between processes.

SQLite's own waiting is a sleep loop without a queue, in which a busy process starves the others. Here a writer holds
two locks (flock(2), dropped by the kernel when a process dies) of which it gives back the first as soon as it has the
second: whoever waits next in line holds the first one, so nobody can write twice in a row past a waiting process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SHORTEST_S, _LONGEST_S = 0.001, 0.02
_RANDOM = random.SystemRandom()


class WriterLock:
    """The right to write to one SQLite file; ``path`` is the lock file, a second one gets ``.next`` appended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._here = asyncio.Lock()
        self._files: tuple[int, int] | None = None

    async def acquire(self, timeout_s: float) -> None:
        """Wait for the turn; raises TimeoutError after ``timeout_s``, OSError when the lock file cannot be opened."""
        async with asyncio.timeout(timeout_s):
            await self._here.acquire()
            try:
                line, turn = self._open()
                await _flock(line)
                try:
                    await _flock(turn)
                finally:
                    fcntl.flock(line, fcntl.LOCK_UN)
            except BaseException:
                self._here.release()
                raise

    def release(self) -> None:
        """Give the turn back; may be called by another task than the one that waited for it."""
        if self._files is not None:
            fcntl.flock(self._files[1], fcntl.LOCK_UN)
        self._here.release()

    def close(self) -> None:
        """Close the lock files, which stay where they are: removing one would let two writers in."""
        files, self._files = self._files, None
        for file in files or ():
            os.close(file)

    def _open(self) -> tuple[int, int]:
        if self._files is None:
            self._files = _open_pair(self._path)
        return self._files


@contextmanager
def writer_lock(path: Path, timeout_s: float) -> Iterator[None]:
    """The same right for code without an event loop; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    line, turn = _open_pair(path)
    try:
        for file in (line, turn):
            for pause in _pauses():
                if _try_flock(file):
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(pause)
        fcntl.flock(line, fcntl.LOCK_UN)
        yield
    finally:
        os.close(turn)
        os.close(line)


def _open_pair(path: Path) -> tuple[int, int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    line = os.open(path.with_name(f"{path.name}.next"), flags, 0o600)
    try:
        return line, os.open(path, flags, 0o600)
    except OSError:
        os.close(line)
        raise


async def _flock(file: int) -> None:
    for pause in _pauses():
        if _try_flock(file):
            return
        await asyncio.sleep(pause)


def _try_flock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pauses() -> Iterator[float]:
    pause = _SHORTEST_S
    while True:
        yield _RANDOM.uniform(pause / 2, pause)
        pause = min(pause * 1.5, _LONGEST_S)
