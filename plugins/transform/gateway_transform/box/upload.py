"""The upload as a stream that can be interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from gateway_transform.box.steps import JobLimits
from gateway_transform.box.untar import Caps

_UNPACK_S = 60.0
_UNPACK_BYTES_PER_S = 16 << 20


class Upload:
    """Reads ``fd`` from its start, whatever its offset; ``look`` is called before every read and may raise."""

    def __init__(self, fd: int, look: Callable[[], None] = lambda: None) -> None:
        self._fd = fd
        self._look = look
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end; raises OSError."""
        self._look()
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data


def upload_caps(limits: JobLimits) -> Caps:
    """What unpacking an upload may cost; a minute, and more for big ones."""
    seconds = _UNPACK_S + limits.upload_bytes / _UNPACK_BYTES_PER_S
    return Caps(limits.max_unpacked_mb << 20, limits.max_files, time.monotonic() + seconds)
