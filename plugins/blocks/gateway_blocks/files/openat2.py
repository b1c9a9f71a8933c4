"""openat2(2): the kernel itself keeps a path beneath a folder, in one step that no rename can come between.

Python 3.11 has no such function and glibc no wrapper, so it goes through ``syscall(2)``. Needs Linux 5.6, the cached
form Linux 5.12.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

Opener = Callable[[int, bytes], int]
"""Opens a path relative to the folder behind a descriptor; gives a descriptor."""

_OPENAT2: Final = ctypes.c_long(437)

# linux/openat2.h
_NO_XDEV: Final = 0x01
_NO_MAGICLINKS: Final = 0x02
_BENEATH: Final = 0x08
_CACHED: Final = 0x20

_TRIES: Final = 64
_TRANSIENT: Final = frozenset({errno.EAGAIN, errno.EINTR})
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})  # old kernels; sandboxes

# f_type of statfs(2) where an open asks no server and no daemon
_LOCAL: Final = frozenset(
    {
        0x9123683E,  # btrfs
        0xEF53,  # ext2, ext3, ext4
        0xF2F52010,  # f2fs
        0x794C7630,  # overlay
        0x858458F6,  # ramfs
        0x01021994,  # tmpfs
        0x58465342,  # xfs
        0x2FC12FC1,  # zfs
    }
)


class _How(ctypes.Structure):
    """``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def opener(flags: int) -> Opener:
    """Opens with ``flags``, as os.open would, but follows symlinks only as long as they stay beneath the folder.

    Raises OSError: EXDEV for what leads out (``..``, absolute symlinks wherever they point), ELOOP for magic links of
    procfs, EAGAIN where renames elsewhere kept disturbing a ``..`` in a symlink or another process has a lease.
    """
    call = _call(ctypes.CDLL(None, use_errno=True), flags, _BENEATH | _NO_MAGICLINKS)

    def open_beneath(folder: int, path: bytes) -> int:
        code = errno.EAGAIN
        for _ in range(_TRIES):
            fd = call(folder, path)
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            if code not in _TRANSIENT:
                break
        raise OSError(code, os.strerror(code))

    return open_beneath


def cached_opener(flags: int) -> Opener:
    """The same without ever waiting: gives -1 for whatever is not in the kernel's cache, or on another file system.

    It holds the interpreter's lock for its microseconds: in an event loop, waiting to get that back costs more.
    """
    return _call(ctypes.PyDLL(None, use_errno=True), flags, _BENEATH | _NO_MAGICLINKS | _NO_XDEV | _CACHED)


def works(folder: int) -> bool:
    """Whether this kernel, and the sandbox around the process, have openat2."""
    return _probe(ctypes.CDLL(None, use_errno=True), folder, _BENEATH | _NO_MAGICLINKS)


def caches(folder: int) -> bool:
    """Whether ``cached_opener`` may be used below this folder: on network and FUSE file systems any open may wait."""
    libc = ctypes.CDLL(None, use_errno=True)
    status = (ctypes.c_long * 64)()  # struct statfs has at most 120 bytes and begins with f_type
    if libc.fstatfs(folder, status) != 0 or status[0] & 0xFFFFFFFF not in _LOCAL:
        return False
    return _probe(libc, folder, _BENEATH | _NO_MAGICLINKS | _NO_XDEV | _CACHED)


def _probe(libc: ctypes.CDLL, folder: int, resolve: int) -> bool:
    fd = _call(libc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, resolve)(folder, b".")
    if fd >= 0:
        os.close(fd)
        return True
    return ctypes.get_errno() not in _UNSUPPORTED


def _call(libc: ctypes.CDLL, flags: int, resolve: int) -> Opener:
    syscall = libc["syscall"]  # by subscription it is an object of its own, whose types are set for us alone
    syscall.restype = ctypes.c_long
    how = ctypes.byref(_How(flags, 0, resolve))
    size = ctypes.c_size_t(ctypes.sizeof(_How))

    def openat2(folder: int, path: bytes) -> int:
        fd: int = syscall(_OPENAT2, folder, path, how, size)
        return fd

    return openat2
