"""BitTorrent metadata of one file: version 1 (BEP 3), no tracker, its bytes from a web seed (BEP 19)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.formats.text import portable_name
from gateway_blocks.sums.layout import BlockLayout
from gateway_core import Conflict

MEDIA_TYPE: Final = "application/x-bittorrent"
"""Of the whole metadata."""

_SHA1_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class Torrent:
    """What is told of a file besides its checksums; the same file always gets the same info hash.

    ``webseeds`` are absolute URLs of the file. Raises Conflict for an empty file: BEP 3 has no torrent of nothing.
    """

    name: str
    size_bytes: int
    block_bytes: int
    webseeds: Sequence[str]
    comment: str = ""

    def __post_init__(self) -> None:
        if not self.size_bytes:
            raise Conflict("an empty file has no blocks to make a torrent of")

    @property
    def length(self) -> int:
        """Size of the metadata in bytes, known before any checksum is."""
        return len(self._head()) + self._pieces_bytes + len(self._tail())

    async def encoded(self, digests: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The metadata in pieces. ``digests`` are the raw SHA-1 of the blocks in their order, one or several joined.

        Raises FileChanged when they are not those of all blocks; ``length`` tells the client that its end is missing.
        """
        yield self._head()
        told_bytes = 0
        async for digest in digests:
            told_bytes += len(digest)
            yield digest
        if told_bytes != self._pieces_bytes:
            raise FileChanged(f"{told_bytes} bytes of checksums instead of {self._pieces_bytes}")
        yield self._tail()

    @property
    def _pieces_bytes(self) -> int:
        return BlockLayout(self.size_bytes, self.block_bytes).count * _SHA1_BYTES

    def _head(self) -> bytes:
        """All before the checksums. The keys of each dictionary are sorted (BEP 3)."""
        comment = _string("comment") + _string(self.comment) if self.comment else b""
        info = (
            _string("length") + _integer(self.size_bytes),
            _string("name") + _string(portable_name(self.name)),
            _string("piece length") + _integer(self.block_bytes),
            _string("pieces") + b"%d:" % self._pieces_bytes,
        )
        return b"d" + comment + _string("info") + b"d" + b"".join(info)

    def _tail(self) -> bytes:
        """All after the checksums."""
        return b"e" + _string("url-list") + b"l" + b"".join(map(_string, self.webseeds)) + b"ee"


def _string(text: str) -> bytes:
    octets = text.encode()
    return b"%d:%s" % (len(octets), octets)


def _integer(number: int) -> bytes:
    return b"i%de" % number
