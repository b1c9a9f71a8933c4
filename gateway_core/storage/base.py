"""What a storage is: named objects that appear whole or not at all.

Keys are ``/``-separated segments of ``[A-Za-z0-9._-]``, at most 200 characters each and 512 in all, no empty, ``.`` or
``..`` segment. A key may be the beginning of another: ``a`` and ``a/b`` are two objects. ``.check/`` belongs to
``check``.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from gateway_core.errors import StorageError

_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,200}")
MAX_KEY_LENGTH = 512
CHECK_PREFIX = ".check/"


def check_key(key: str) -> str:
    """Return ``key`` when it is one; raises ValueError that shows it otherwise."""
    segments = key.split("/")
    if len(key) > MAX_KEY_LENGTH or not all(_SEGMENT.fullmatch(s) and s not in {".", ".."} for s in segments):
        raise ValueError(f"not a storage key: {key!r}")
    return key


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One published object: ``size_bytes``, hex ``sha256`` of its bytes, ``modified`` in Unix seconds."""

    key: str
    size_bytes: int
    sha256: str
    modified: float


class Writer(Protocol):
    """Stages one object; nothing is visible before ``commit``, leaving without it discards everything.

    Used by one task. A write that failed or was cancelled spoils it: ``commit`` then raises StorageError.
    """

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append a copy; raises StorageFull when there is no space, RuntimeError after ``commit``."""

    async def commit(self) -> StoredObject:
        """Publish durably (an earlier object of that key is replaced) and return what was stored.

        Raises StorageFull or StorageError when it failed: the earlier object is still there, or, where the answer of a
        remote storage was lost, the new one, whole; the same holds when it is cancelled. Raises RuntimeError when
        called twice. ``modified`` may differ from a later ``stat`` by the clocks of gateway and storage.
        """


@runtime_checkable
class Storage(Protocol):
    """Where plugins keep bytes; implementations pass ``gateway_core.testing.StorageConformance``.

    Every method that takes a key raises ValueError for one that is none, and StorageError when the storage fails.
    """

    def writer(self, key: str) -> AbstractAsyncContextManager[Writer]:
        """Stage an object under ``key``."""

    def open(self, key: str, *, offset: int = 0) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read from byte ``offset`` to the end in chunks, none empty; at the end there are none.

        Raises ObjectMissing, and ValueError for an offset below 0 or past the end. A read from offset 0 to the end is
        verified: ObjectCorrupt is raised after the last chunk when it is not what was written, so a caller must not
        finish an answer before the iterator has ended. An object replaced or deleted meanwhile is read as it was, or
        the read fails; versions never mix.
        """

    async def stat(self, key: str) -> StoredObject:
        """Size, digest and time; raises ObjectMissing."""

    async def delete(self, key: str) -> bool:
        """Remove; False when there was nothing."""

    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Objects whose key begins with the characters ``prefix``, in the order of their keys as strings.

        What is written or deleted meanwhile may or may not appear.
        """

    def local_path(self, key: str) -> Path | None:
        """A path that other programs may read, None where the storage has none or the object is missing.

        It holds until the object is replaced or deleted. A few system calls in the calling thread.
        """

    async def sweep(self, older_than_s: float) -> int:
        """Remove what interrupted writers left behind longer ago than this; returns how many.

        Writers at work lose nothing, whatever the age.
        """

    async def check(self) -> None:
        """Raise StorageError when a small object cannot be written, read and deleted."""

    async def close(self) -> None:
        """Release connections; the storage is not used afterwards."""


async def check_round_trip(storage: Storage) -> None:
    """Write, read and delete one small object below ``.check/``: ``check`` for any storage; raises StorageError."""
    key = CHECK_PREFIX + uuid.uuid4().hex
    async with storage.writer(key) as writer:
        await writer.write(key.encode())
        await writer.commit()
    async with storage.open(key) as chunks:
        found = b"".join([chunk async for chunk in chunks])
    if found != key.encode() or not await storage.delete(key):
        raise StorageError("the storage does not give back what was written")


async def sweep_checks(storage: Storage, older_than_s: float) -> int:
    """Delete what killed checks left below ``.check/`` longer ago than this; returns how many."""
    horizon = time.time() - older_than_s
    left = [found.key async for found in storage.list(CHECK_PREFIX) if found.modified <= horizon]
    return sum([await storage.delete(key) for key in left])
