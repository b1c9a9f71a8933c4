"""One process of this machine hashes a file at a time; what dies lets go by itself."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

_OFFSETS = 1 << 62


class Claims:
    """Claims by name, shared by all processes that use one lock file; raises OSError when that cannot be opened.

    Each name is one byte of the file under a POSIX record lock (fcntl(2)), which the kernel drops with the process: no
    time-out to wait for after kill -9. Within a process a name must not be claimed twice at a time. Two names that
    share a byte (one in 2**62) only wait for each other.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def claim(self, name: str) -> bool:
        """Whether this process has it now."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(name))
        except OSError:
            return False
        return True

    def release(self, name: str) -> None:
        """Let another process have it."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _offset(name))

    def close(self) -> None:
        """Let go of all."""
        os.close(self._fd)


def _offset(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % _OFFSETS
