"""Files to serve, and what is known of them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path


def aged(path: Path, *, seconds: float = 60) -> Path:
    """``path`` with a time stamp of so long ago."""
    moment = time.time_ns() - int(seconds * 1e9)
    os.utime(path, ns=(moment, moment))
    return path


def sha1_blocks(data: bytes, block_bytes: int) -> list[str]:
    """SHA-1 of each block, in hexadecimal."""
    return [hashlib.sha1(data[at : at + block_bytes]).hexdigest() for at in range(0, len(data), block_bytes)]
