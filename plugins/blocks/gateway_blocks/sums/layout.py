"""How a file is cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
KIB = 1 << 10


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """Blocks of ``block_bytes`` each, the last one shorter; an empty file has none. Blocks are counted from 0."""

    size_bytes: int
    block_bytes: int

    def __post_init__(self) -> None:
        if self.size_bytes < 0 or self.block_bytes < 1:
            raise ValueError(f"no layout: {self.size_bytes} bytes in blocks of {self.block_bytes}")

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.size_bytes // self.block_bytes)

    @property
    def label(self) -> str:
        """The block size as reliable-download tells it: ``2MiB``, ``64KiB``, or bytes: ``1000B``."""
        for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
            if not self.block_bytes % unit:
                return f"{self.block_bytes // unit}{name}"
        return f"{self.block_bytes}B"

    def first(self, index: int) -> int:
        """Offset of the block's first byte."""
        return index * self.block_bytes

    def last(self, index: int) -> int:
        """Offset of the block's last byte."""
        return min((index + 1) * self.block_bytes, self.size_bytes) - 1

    def length(self, index: int) -> int:
        """Bytes in the block."""
        return self.last(index) - self.first(index) + 1

    def covering(self, first: int, last: int) -> range:
        """Blocks that hold any of the bytes ``first`` to ``last``, both included."""
        return range(first // self.block_bytes, min(last // self.block_bytes, self.count - 1) + 1)
