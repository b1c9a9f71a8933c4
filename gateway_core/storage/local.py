"""Storage in a local directory; ``files`` says how objects lie there."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gateway_core.errors import ObjectCorrupt, ObjectMissing, StorageError
from gateway_core.storage import files
from gateway_core.storage.base import StoredObject, Writer, check_key, check_round_trip, sweep_checks
from gateway_core.storage.staging import StagedWriter, in_thread_to_the_end, told_as_storage_error

T = TypeVar("T")
CHUNK_BYTES = 512 * 1024
_BATCH = 256


class LocalStorage:
    """Storage in the directory ``root``, made when first written to; any number of processes may share it.

    The file system must keep POSIX's promises about rename and fsync, as ext4, XFS and Btrfs do; on one without flock
    ``sweep`` goes by age alone. Reads go in chunks of 512 KiB, a writer holds up to 1 MiB in memory; all file access
    but ``local_path`` happens in asyncio's default thread pool.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[Writer]:
        """See Storage."""
        writer = _LocalWriter(self._root, check_key(key))
        try:
            yield writer
        finally:
            await writer.discard()

    @asynccontextmanager
    async def open(self, key: str, *, offset: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Storage."""
        reader = _Reader(self._root, check_key(key), offset)
        try:
            await asyncio.to_thread(reader.start)
            yield reader
        finally:
            await in_thread_to_the_end(reader.release)

    async def stat(self, key: str) -> StoredObject:
        """See Storage."""
        with told_as_storage_error(f"read {key}"):
            return await asyncio.to_thread(files.stat_object, self._root, check_key(key))

    async def delete(self, key: str) -> bool:
        """See Storage; durable like ``commit``."""
        with told_as_storage_error(f"delete {key}"):
            return await asyncio.to_thread(files.delete_object, self._root, check_key(key))

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See Storage."""
        async for stored in _in_batches(files.scan(self._root, prefix), "list objects"):
            yield stored

    def local_path(self, key: str) -> Path | None:
        """See Storage."""
        try:
            with told_as_storage_error(f"read {key}"):
                fd, version = files.open_newest(self._root, check_key(key))
        except ObjectMissing:
            return None
        os.close(fd)
        return self._root.joinpath(*files.folder_of(key), version)

    async def sweep(self, older_than_s: float) -> int:
        """See Storage; also removes versions that a crash left beside their successor, and empty folders."""
        removed = await sweep_checks(self, older_than_s)
        horizon_ns = time.time_ns() - int(older_than_s * 1e9)
        async for count in _in_batches(files.sweep(self._root, horizon_ns), "sweep"):
            removed += count
        return removed

    async def check(self) -> None:
        """See Storage."""
        await check_round_trip(self)

    async def close(self) -> None:
        """See Storage; there is nothing to release."""


class _LocalWriter(StagedWriter):
    def __init__(self, root: Path, key: str) -> None:
        super().__init__(key)
        self._root = root
        self._name = uuid.uuid4().hex

    async def commit(self) -> StoredObject:
        """See Writer."""
        return await self._finish(self._publish)

    def _create(self) -> int:
        return files.create_staged(self._root, self._name)

    def _publish(self) -> StoredObject:
        fd = self._append(self._buffer)
        stored = files.publish(self._root, self.key, fd, name=self._name, sha256=self._digest.hexdigest())
        super()._release()  # here rather than in another trip to a thread
        self._released = True
        return stored

    def _release(self) -> None:
        if self._fd is not None:
            files.remove_staged(self._root, self._name)
        super()._release()


class _Reader:
    """Chunks of one version; like StagedWriter's, its descriptor is used and closed under a lock."""

    def __init__(self, root: Path, key: str, offset: int) -> None:
        if offset < 0:
            raise ValueError(f"offset {offset} is below 0")
        self._root, self._key, self._offset = root, key, offset
        self._digest = hashlib.sha256()
        self._sha256 = ""
        self._fd: int | None = None
        self._released = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """In a thread: open the object; raises ObjectMissing, and ValueError for an offset past its end."""
        with self._lock, told_as_storage_error(f"read {self._key}"):
            if self._released:
                return
            self._fd, version = files.open_newest(self._root, self._key)
            stored = files.describe(self._key, self._fd, version)
            if self._offset > stored.size_bytes:
                raise ValueError(f"offset {self._offset} is past the end of {self._key}, {stored.size_bytes} bytes")
            self._sha256 = stored.sha256
            os.lseek(self._fd, self._offset, os.SEEK_SET)

    def release(self) -> None:
        """In a thread: close."""
        with self._lock:
            self._released = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> bytes:
        if chunk := await asyncio.to_thread(self._read):
            return chunk
        if self._offset == 0 and self._digest.hexdigest() != self._sha256:
            raise ObjectCorrupt(f"{self._key} does not have the SHA-256 it was written with, {self._sha256}")
        raise StopAsyncIteration

    def _read(self) -> bytes:
        with self._lock, told_as_storage_error(f"read {self._key}"):
            if self._fd is None:
                raise StorageError(f"reading {self._key} has ended")
            chunk = os.read(self._fd, CHUNK_BYTES)
            if self._offset == 0:
                self._digest.update(chunk)
            return chunk


async def _in_batches(items: Iterator[T], action: str) -> AsyncIterator[T]:
    """Advance a blocking iterator in threads, a few hundred items at a time."""

    def take() -> list[T]:
        with told_as_storage_error(action):
            return list(itertools.islice(items, _BATCH))

    while batch := await asyncio.to_thread(take):
        for item in batch:
            yield item
