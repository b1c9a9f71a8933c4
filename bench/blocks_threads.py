"""The limit of hashing: threads that do nothing but preadv and SHA-1."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

BLOCK_BYTES = 2 << 20
READ_BYTES = 256 << 10  # of 64 KiB to 1 MiB the fastest


def block_sums(path: Path, threads: int) -> list[str]:
    """SHA-1 of each block of 2 MiB."""
    descriptor = os.open(path, os.O_RDONLY)
    blocks = -(-os.fstat(descriptor).st_size // BLOCK_BYTES)
    sums, numbers = [""] * blocks, count()

    def work() -> None:
        buffer = memoryview(bytearray(READ_BYTES))
        while (number := next(numbers)) < blocks:
            sha1 = hashlib.sha1(usedforsecurity=False)
            for offset in range(number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES, READ_BYTES):
                sha1.update(buffer[: os.preadv(descriptor, [buffer], offset)])
            sums[number] = sha1.hexdigest()

    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
    finally:
        os.close(descriptor)
    return sums
