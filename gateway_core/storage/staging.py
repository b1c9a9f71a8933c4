"""Bytes on their way in: buffered, hashed and written in worker threads, so that the loop never waits for a disk."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from gateway_core.errors import StorageError, StorageFull
from gateway_core.storage.base import StoredObject

T = TypeVar("T")
BUFFER_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def told_as_storage_error(action: str) -> Iterator[None]:
    """Turn what the operating system refuses into StorageFull (ENOSPC, EDQUOT) or StorageError "cannot <action>"."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageError
        raise kind(f"cannot {action}: {error.strerror or error}") from error


async def in_thread_to_the_end(function: Callable[[], None]) -> None:
    """Run ``function`` in a thread even when the caller is cancelled before it has begun: for releasing things."""
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, function))


class StagedWriter(ABC):
    """A Writer that collects up to 1 MiB in memory, then appends to a file that ``_create`` opens.

    A cancelled caller leaves its thread running. Every use of the descriptor therefore holds ``_lock``: it is never
    closed, and its number never reused, under a write.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._size_bytes = 0
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._fd: int | None = None
        self._lock = threading.Lock()
        self._released = False
        self._committed = False
        self._whole = True

    @abstractmethod
    def _create(self) -> int:
        """In a thread: open the file that takes what memory does not."""

    @abstractmethod
    async def commit(self) -> StoredObject:
        """See Writer."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """See Writer."""
        self._check_usable()
        view = memoryview(data).cast("B")
        self._size_bytes += len(view)
        if len(self._buffer) + len(view) < BUFFER_BYTES:
            self._buffer += view
            return
        self._whole = False
        await asyncio.to_thread(self._locked, lambda: self._append(self._buffer, view))
        self._buffer = bytearray()
        self._whole = True

    async def discard(self) -> None:
        """Close, and remove what was not published; waits for a thread that is still writing."""
        if not self._released:
            await in_thread_to_the_end(self._release_locked)

    async def _finish(self, last: Callable[[], T]) -> T:
        """Take nothing more and run ``last`` in a thread, under the lock."""
        self._check_usable()
        self._committed = True
        return await asyncio.to_thread(self._locked, last)

    def _check_usable(self) -> None:
        if self._committed:
            raise RuntimeError(f"writing {self.key} has ended: commit was called")
        if not self._whole:
            raise StorageError(f"an earlier write of {self.key} failed or was cancelled")

    def _locked(self, work: Callable[[], T]) -> T:
        with self._lock, told_as_storage_error(f"write {self.key}"):
            if self._released:
                raise StorageError(f"writing {self.key} was given up")
            return work()

    def _append(self, *parts: bytearray | memoryview) -> int:
        """Hash and write; returns the descriptor, opened for the first bytes."""
        if self._fd is None:
            self._fd = self._create()
        for part in parts:
            self._digest.update(part)
            view = memoryview(part)
            while view:
                view = view[os.write(self._fd, view) :]
        return self._fd

    def _release(self) -> None:
        """In a thread, under the lock: give back the descriptor; subclasses also remove the file."""
        if self._fd is not None:
            # What could fail here was reported by fsync, or is being thrown away.
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _release_locked(self) -> None:
        with self._lock:
            self._released = True
            self._release()
