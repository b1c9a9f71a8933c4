"""What a layout offers, whatever its format: regions of entries one after another, then a tail."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol

from gateway_archive.layout.frozen import Frozen
from gateway_archive.zip_writer import Piece


class Segment(NamedTuple):
    """CRC-32 of bytes ``start`` to ``start + length`` of an entry's source, entries counted as in ``Frozen``."""

    entry: int
    start: int
    length: int
    crc32: int

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.length


class Part(Protocol):
    """Some bytes in a row of one entry's region: ``lead``, framed source bytes, ``trail``; used once, in this order.

    ``source_bytes`` from ``source_start`` on are what the source must give. ``needs_crc32`` says that ``trail`` shows
    the CRC-32 of the whole entry.
    """

    entry: int
    source_start: int
    source_bytes: int
    lead: bytes
    needs_crc32: bool

    def frame(self, chunk: Piece) -> list[Piece]:
        """The next bytes of the source as they stand in the archive; ``source_bytes`` of them come in all."""

    def trail(self, crc32: int) -> bytes:
        """What stands after the last source byte; ``crc32`` counts only where ``needs_crc32``."""


class Layout(Protocol):
    """Where every byte of an archive comes from. Pure, and the same for the same ``Frozen`` in every process."""

    frozen: Frozen
    media_type: str
    total_bytes: int
    tail_offset: int
    """Where the last entry's region ends and the tail begins."""
    etag: str
    """Hash over all that determines the bytes, but for the sources' data; without quotes."""
    tail_needs_crc32: bool
    """Whether the tail shows every entry's CRC-32."""
    can_lose: bool
    """Whether an entry that failed on the way can be left out of the tail."""

    def locate(self, offset: int) -> int:
        """The entry in whose region byte ``offset`` < ``tail_offset`` lies."""

    def start(self, entry: int) -> int:
        """Where an entry's region begins; for the number of entries ``tail_offset``."""

    def part(self, entry: int, first: int, end: int) -> Part:
        """Bytes ``first`` to before ``end`` of an entry's region, counted from the region's begin."""

    def report_room(self, lost: Collection[int]) -> int:
        """Bytes a report may have that goes into the tail when the entries ``lost`` are left out."""

    def tail(
        self, crc32: Callable[[int], int], *, lost: Collection[int] = (), report: bytes | None = None
    ) -> Iterator[bytes]:
        """The tail in pieces of about 64 KiB, ``total_bytes - tail_offset`` in all, without the entries ``lost``.

        ``report`` is the text of the report, of at most ``report_room`` bytes.
        """
