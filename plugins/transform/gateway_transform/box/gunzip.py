"""One gzip member as a stream of bytes that is counted, limited and checked to its end (RFC 1952)."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from math import inf
from typing import Protocol

from gateway_transform.box.codes import Refused

_READ_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10
_RATIO_FREE_BYTES = 16 << 20
_PADDING_BYTES = 1 << 20
_ENTRY_BYTES = 4096
_OWN_BYTES = 64 << 20
_OWN_FILES = 3


@dataclass(frozen=True, slots=True)
class Caps:
    """What an archive may cost: bytes inflated, files and folders in it, and ``deadline`` by ``time.monotonic()``.

    ``ratio`` is how many bytes one byte may become, the first 16 MiB apart. ``fold`` refuses names that differ only
    in case or in the composition of their letters.
    """

    unpacked_bytes: int
    files: int
    deadline: float = inf
    ratio: int = 100
    fold: bool = True

    @classmethod
    def of_result(cls, unpacked_bytes: int, files: int, deadline: float = inf) -> Caps:
        """For archives that a box has packed: transformations may make what uploads may not hold.

        Headers, out.log and status.json come on top of ``unpacked_bytes`` of files.
        """
        own_bytes = files * _ENTRY_BYTES + _OWN_BYTES
        return cls(unpacked_bytes + own_bytes, files + _OWN_FILES, deadline, ratio=2000, fold=False)


class Readable(Protocol):
    """Where compressed bytes come from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end."""
        ...


class Gunzip:
    """Bytes of the only gzip member in ``stream``, held by ``caps``.

    Memory is bounded whatever the stream holds. All methods raise Refused: ``not_gzip``, ``corrupt``, ``truncated``,
    ``too_big``, ``ratio``, ``too_slow``.
    """

    def __init__(self, stream: Readable, caps: Caps) -> None:
        self._stream = stream
        self._caps = caps
        self._inflate = zlib.decompressobj(31)
        self._taken = 0
        self._chunk = b""
        self._at = 0
        self._count = 0

    @property
    def left(self) -> int:
        """How many bytes may still be had under the caps."""
        return self._caps.unpacked_bytes - self._count + len(self._chunk) - self._at

    def some(self, limit: int) -> bytes:
        """From 1 to ``limit`` bytes; the end is ``truncated``."""
        if self._at == len(self._chunk) and not self._more():
            raise Refused("truncated", "the archive ends too early")
        data = self._chunk[self._at : self._at + limit]
        self._at += len(data)
        return data

    def exactly(self, count: int) -> bytes:
        """``count`` bytes."""
        data = self.some(count)
        while len(data) < count:
            data += self.some(count - len(data))
        return data

    def finish(self) -> None:
        """Read what is left: zeros, then the member's sound end, then nothing. Raises Refused: ``trailing_data``.

        Zeros that fill up the last record after the member are let pass, as gzip does: bsdtar writes them to pipes.
        """
        rest = self._chunk[self._at :]
        while not rest.strip(b"\0") and self._more():
            rest = self._chunk
        after = self._inflate.unused_data
        padding = 0
        while not rest.strip(b"\0") and not after.strip(b"\0") and padding <= _PADDING_BYTES:
            padding += len(after)
            after = self._stream.read(_READ_BYTES)
            if not after:
                return
        raise Refused("trailing_data", "something follows the end of the archive")

    def _more(self) -> bool:
        """The next chunk; False after the member's end, where zlib has checked CRC-32 and length."""
        while not self._inflate.eof:
            if time.monotonic() > self._caps.deadline:
                raise Refused("too_slow", "unpacking takes too long")
            data = self._inflate.unconsumed_tail
            if not data:
                data = self._stream.read(_READ_BYTES)
                self._taken += len(data)
            chunk = self._inflated(data)
            if chunk:
                self._chunk, self._at = chunk, 0
                return True
            if not data and not self._inflate.eof:
                raise Refused("truncated" if self._taken else "not_gzip", "the archive ends too early, or is empty")
        self._chunk, self._at = b"", 0
        return False

    def _inflated(self, data: bytes) -> bytes:
        try:
            chunk = self._inflate.decompress(data, _CHUNK_BYTES)
        except zlib.error as error:
            if not self._count and "header check" in str(error):
                raise Refused("not_gzip", "not a gzip file") from error
            raise Refused("corrupt", "the gzip data is damaged") from error
        self._count += len(chunk)
        if self._count > self._caps.unpacked_bytes:
            raise Refused("too_big", f"more than {self._caps.unpacked_bytes} bytes unpacked")
        if self._count > _RATIO_FREE_BYTES and self._count > self._taken * self._caps.ratio:
            raise Refused("ratio", f"one byte becomes more than {self._caps.ratio}")
        return chunk
