"""Large files that cost little: holes, with a mark at the end of each block that says which block of which version."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tests.blocks.files import aged

_MARK_BYTES = 16


@dataclass(frozen=True, slots=True)
class Marked:
    """What such a file holds; its size is a multiple of ``block_bytes``."""

    size_bytes: int
    block_bytes: int
    version: int = 1

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.size_bytes // self.block_bytes

    def write(self, path: Path) -> Path:
        """Make the file, old enough for a strong ETag."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(self.size_bytes)
            for index in range(self.count):
                os.pwrite(file.fileno(), self._mark(index), (index + 1) * self.block_bytes - _MARK_BYTES)
        return aged(path)

    def sha1s(self) -> list[str]:
        """SHA-1 of each block, in hexadecimal; the holes before the marks are hashed once for all."""
        holes = hashlib.sha1(bytes(self.block_bytes - _MARK_BYTES))
        found = []
        for index in range(self.count):
            block = holes.copy()
            block.update(self._mark(index))
            found.append(block.hexdigest())
        return found

    def _mark(self, index: int) -> bytes:
        return self.version.to_bytes(_MARK_BYTES // 2) + index.to_bytes(_MARK_BYTES // 2)
