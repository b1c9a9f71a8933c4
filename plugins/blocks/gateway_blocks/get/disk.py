"""What the local file system is asked for: space, copies, and words for what it says no to."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from gateway_blocks.get.model import Unreachable
from gateway_core.errors import ConfigError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_WRONG_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
    }
)
_NOT_OFFERED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EPERM, errno.EBADF})
_COPY_BYTES = 1 << 20
_COPY_AT_ONCE_BYTES = 64 << 20
_STAT_BLOCK_BYTES = 512


class DiskFailed(Unreachable):
    """The local disk says no; asking the server again does not help."""

    type, title = "disk", "Could not be written"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell an OSError of the file system about ``path`` in our words.

    ConfigError where another path must be given (no such folder, not allowed, read-only), DiskFailed where the same may
    work later (no space left, I/O error).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFailed(f"no space left for {path}") from error
        text = f"{path}: {(error.strerror or str(error)).lower()}"
        raise (ConfigError(text) if error.errno in _WRONG_PLACE else DiskFailed(text)) from error


def allocate(fd: int, size_bytes: int) -> None:
    """Give the file its size and, where the file system can, its space on the disk; raises OSError (ENOSPC).

    What is free is looked at first, as an allocation that fails would have filled the disk for a moment. This is
    fallocate(2) rather than ``posix_fallocate``, which glibc replaces by writing into every page where the file system
    cannot do it: then the size alone is set.
    """
    before = os.fstat(fd)
    if before.st_size > size_bytes:
        os.ftruncate(fd, size_bytes)
    system = os.fstatvfs(fd)
    if size_bytes - before.st_blocks * _STAT_BLOCK_BYTES > system.f_bavail * system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    function = _fallocate()
    if size_bytes and function is not None and function(fd, 0, 0, size_bytes):
        number = ctypes.get_errno()
        if number not in _NOT_OFFERED:
            raise OSError(number, os.strerror(number))
    if os.fstat(fd).st_size != size_bytes:
        os.ftruncate(fd, size_bytes)


def write_at(fd: int, offset: int, data: memoryview) -> None:
    """Write all of ``data``; raises OSError."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def copy_span(source: int, target: int, count: int, *, source_at: int, target_at: int) -> bool:
    """Copy ``count`` bytes between files, inside the kernel where it can (shared on disk where the file system can).

    False where the source ends before that. Raises OSError.
    """
    while count:
        try:
            done = os.copy_file_range(source, target, min(count, _COPY_AT_ONCE_BYTES), source_at, target_at)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            done = _copy_by_hand(source, target, min(count, _COPY_BYTES), source_at=source_at, target_at=target_at)
        if not done:
            return False
        count, source_at, target_at = count - done, source_at + done, target_at + done
    return True


def data_spans(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Start and end of what was ever written to the file, as far as the file system knows; else all of it."""
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # there is no more data
                yield end, size_bytes
            return
        yield start, min(end, size_bytes)


def _copy_by_hand(source: int, target: int, count: int, *, source_at: int, target_at: int) -> int:
    data = os.pread(source, count, source_at)
    write_at(target, target_at, memoryview(data))
    return len(data)


@cache
def _fallocate() -> Any:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function
