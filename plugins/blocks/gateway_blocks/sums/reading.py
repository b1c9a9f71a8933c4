"""Reads what is hashed: through one buffer a thread, the version of the file checked around every stretch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.files.identity import Identity
from gateway_blocks.sums.jobs import HashJob
from gateway_blocks.sums.layout import KIB, MIB
from gateway_core.errors import Unavailable

READ_BYTES = 256 * KIB
STEP_BYTES = 8 * MIB


class WholeFile:
    """How far the pass over a whole file has come. ``done``: the digests are those of the file, even an empty one."""

    def __init__(self) -> None:
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self.sha256 = hashlib.sha256()
        self.offset = 0
        self.done = False


class Reader:
    """Reads for one thread. Its methods raise FileChanged and Unavailable; ``wanted`` is asked before each read."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(READ_BYTES))

    def block(self, job: HashJob, index: int, wanted: Callable[[], bool]) -> bytes | None:
        """SHA-1 of a block, None when it was not wanted to the end."""
        digest = hashlib.sha1(usedforsecurity=False)
        first = job.layout.first(index)
        fed = self._feed(job, range(first, first + job.layout.length(index)), wanted, into=[digest.update])
        return digest.digest() if fed else None

    def step(self, job: HashJob, whole: WholeFile, wanted: Callable[[], bool]) -> None:
        """Take the pass over the whole file up to 8 MiB further; what was given up half-way cannot be gone on with."""
        size_bytes = job.layout.size_bytes
        end = min(whole.offset + STEP_BYTES, size_bytes)
        updates = [whole.sha1.update, whole.sha256.update]
        if self._feed(job, range(whole.offset, end), wanted, into=updates):
            whole.offset = end
            whole.done = end == size_bytes

    def _feed(
        self,
        job: HashJob,
        stretch: range,
        wanted: Callable[[], bool],
        *,
        into: Sequence[Callable[[memoryview], None]],
    ) -> bool:
        """Hash the bytes of ``stretch``; whether they were wanted to the end."""
        try:
            _check_version(job)
            offset = stretch.start
            while offset < stretch.stop:
                if not wanted():
                    return False
                size = os.preadv(job.fd, [self._buffer[: stretch.stop - offset]], offset)
                if not size:
                    raise FileChanged("the file became shorter while it was hashed")
                for update in into:
                    update(self._buffer[:size])
                offset += size
            _check_version(job)
        except OSError as error:
            raise Unavailable(f"the file cannot be read: {error.strerror}") from error
        return True


def _check_version(job: HashJob) -> None:
    """Raise FileChanged unless the file is still the version that the job is about.

    Losing its last name (unlink, another file renamed over it) moves ctime and changes no byte; nobody can open such a
    file anew and be told old sums.
    """
    stat = os.fstat(job.fd)
    found = Identity.of(stat)
    if not stat.st_nlink:
        found = replace(found, ctime_ns=job.identity.ctime_ns)
    if found != job.identity:
        raise FileChanged("the file changed while it was hashed")
