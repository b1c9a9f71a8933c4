"""Where every byte of a ZIP archive comes from, and a tail whose length stays when entries are lost.

The records are ``zip_records``, section numbers are APPNOTE.TXT's. The tail is::

    report entry (only where something is missing) | zeros (hardly ever) | central directory | end records, comment

A lost entry is left out of the central directory, so readers that seek never see it. The bytes that this saves, and
those kept for a report that is not needed, are hidden as growth hints (4.6.10) in the last central records. Too few for
a hint, they are spaces after the archive comment; too many for all records' hints, they are zeros before the directory.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from isal.isal_zlib import crc32 as crc32_of

from gateway_archive.layout.frozen import Frozen
from gateway_archive.report import REPORT_NAME, render_report
from gateway_archive.tickets import OnError
from gateway_archive.zip_records import (
    BLOCK_HEADER_BYTES,
    COMMENT,
    END_64_BYTES,
    MAX_BLOCK_BYTES,
    MAX_GROWTH_BYTES,
    MIN_GROWTH_BYTES,
    Content,
    Entry,
    block_header,
    central_header,
    central_header_bytes,
    descriptor,
    end_needs_zip64,
    end_records,
    end_records_bytes,
    entry_bytes,
    local_header,
    local_header_bytes,
    packed_bytes,
    promises_zip64,
)
from gateway_archive.zip_writer import Piece, StoredBlocks

RESERVE: Final = 1024
"""Bytes of the tail kept for a report on entries lost on the way, where a report is wanted."""

_MAX_EXPECTED_REPORT_BYTES: Final = 1 << 16
_FULL_BLOCK: Final = BLOCK_HEADER_BYTES + MAX_BLOCK_BYTES
_CRC32_FIELD: Final = slice(4, 8)  # of a descriptor (4.3.9)
_PIECE_BYTES: Final = 1 << 16


class _Plan(NamedTuple):
    """A tail's numbers for one outcome: what it holds, and where the bytes go that nothing in it needs."""

    records: int
    """In the central directory."""
    directory_bytes: int
    """Of the central directory with its growth hints."""
    report_bytes: int
    """Of the report's entry before the directory."""
    hint_bytes: int
    gap: int
    """Zeros before the directory."""
    spaces: int
    """After the comment."""
    zip64: bool


class ZipLayout:
    """A ZIP archive of known length: ``layout.model.Layout``.

    Entries of known CRC-32 are stored as they are, the others as full stored deflate blocks with a descriptor. Their
    descriptors show what ``trail`` is given: for a lost entry that should be a wrong CRC-32, so that readers which do
    not use the directory find it damaged.
    """

    media_type = "application/zip"

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self.etag = frozen.digest("zip")
        self.can_lose = frozen.on_error is not OnError.ABORT
        self.tail_needs_crc32 = False
        self._starts = array("Q")
        self._directory_bytes = offset = 0
        for index in range(len(frozen)):
            entry = self._entry(index)
            self._starts.append(offset)
            self._directory_bytes += central_header_bytes(entry, _content(entry, 0), offset)
            self.tail_needs_crc32 = self.tail_needs_crc32 or entry.crc32 is None
            offset += entry_bytes(entry) or 0
        self._starts.append(offset)
        self.tail_offset = offset
        self._tail_bytes = self._fullest_tail_bytes()
        self.total_bytes = offset + self._tail_bytes

    def locate(self, offset: int) -> int:
        """The entry in whose region byte ``offset`` < ``tail_offset`` lies."""
        return bisect_right(self._starts, offset) - 1

    def start(self, entry: int) -> int:
        """Where an entry's local header begins; for the number of entries ``tail_offset``."""
        return self._starts[entry]

    def part(self, entry: int, first: int, end: int) -> ZipPart:
        """Bytes ``first`` to before ``end`` of an entry's local header, data and descriptor."""
        return ZipPart(entry, self._entry(entry), first=first, end=end)

    def report_room(self, lost: Collection[int]) -> int:
        """Bytes a report may have that goes into the tail when the entries ``lost`` are left out; 0 if none fits."""
        gone = frozenset(lost)
        entry = self._report_entry(b"")
        directory = self._directory_without(gone) + self._report_record_bytes(entry)
        # As if it filled all: the report's length decides whether the directory begins beyond 4 GiB.
        end = end_records_bytes(len(self.frozen) - len(gone) + 1, self.total_bytes, directory)
        return max(0, self._tail_bytes - local_header_bytes(entry) - directory - end)

    def tail(
        self, crc32: Callable[[int], int], *, lost: Collection[int] = (), report: bytes | None = None
    ) -> Iterator[bytes]:
        """The tail in pieces of 64 KiB; ``crc32`` is asked only for entries that were frozen without one.

        Raises ValueError for a report that is too long.
        """
        gone = frozenset(lost)
        plan = self._plan(gone, None if report is None else self._report_entry(report))
        return _in_pieces(self._tail_records(plan, crc32, gone=gone, report=report))

    def _entry(self, index: int) -> Entry:
        frozen = self.frozen[index]
        return Entry(frozen.name, frozen.size, frozen.crc32 if frozen.size else 0, frozen.modified)

    def _report_entry(self, text: bytes) -> Entry:
        return Entry(REPORT_NAME, len(text), crc32_of(text), self.frozen.created)

    def _report_record_bytes(self, report: Entry) -> int:
        return central_header_bytes(report, _content(report, 0), self.tail_offset)

    def _directory_without(self, gone: frozenset[int]) -> int:
        entries = ((self._entry(index), self._starts[index]) for index in gone)
        return self._directory_bytes - sum(
            central_header_bytes(entry, _content(entry, 0), offset) for entry, offset in entries
        )

    def _fullest_tail_bytes(self) -> int:
        """Bytes of the tail that every outcome fits into."""
        frozen, records, directory, report_bytes = self.frozen, len(self.frozen), self._directory_bytes, 0
        wanted = frozen.on_error is OnError.REPORT
        if wanted and frozen.failures:
            report = self._report_entry(
                render_report(frozen.failures, packed=records, limit_bytes=_MAX_EXPECTED_REPORT_BYTES)
            )
            records, directory = records + 1, directory + self._report_record_bytes(report)
            report_bytes = entry_bytes(report) or 0
        end = end_records_bytes(records, self.tail_offset + report_bytes, directory)
        return report_bytes + directory + end + (RESERVE if wanted else 0)

    def _plan(self, gone: frozenset[int], report: Entry | None) -> _Plan:
        records, directory, report_bytes = len(self.frozen) - len(gone), self._directory_without(gone), 0
        if report is not None:
            records, directory = records + 1, directory + self._report_record_bytes(report)
            report_bytes = entry_bytes(report) or 0
        offset = self.tail_offset + report_bytes
        zip64 = end_needs_zip64(records, offset, directory)
        free = self._tail_bytes - report_bytes - directory - end_records_bytes(records, offset, directory)
        if free < 0:
            raise ValueError(f"the report is {-free} bytes too long")
        hints, spaces, gap = _hidden(free, records)
        if not zip64 and end_needs_zip64(records, offset + gap, directory + hints):
            # What fills the tail calls for ZIP64: its records take their bytes from the filling.
            hints, spaces, gap = _hidden(free - END_64_BYTES, records)
            zip64 = True
        return _Plan(records, directory + hints, report_bytes, hints, gap, spaces, zip64)

    def _tail_records(
        self, plan: _Plan, crc32: Callable[[int], int], *, gone: frozenset[int], report: bytes | None
    ) -> Iterator[bytes]:
        if report is not None:
            yield local_header(self._report_entry(report))
            yield report
        yield from _zeros(plan.gap)
        growths = _growths(plan)
        for index, offset in enumerate(self._starts[:-1]):
            if index in gone:
                continue
            entry = self._entry(index)
            content = _content(entry, crc32(index) if entry.crc32 is None else entry.crc32)
            yield central_header(entry, content, offset, growth=next(growths))
        if report is not None:
            entry = self._report_entry(report)
            yield central_header(entry, _content(entry, entry.crc32 or 0), self.tail_offset, growth=next(growths))
        directory_offset = self.tail_offset + plan.report_bytes + plan.gap
        comment = COMMENT + b" " * plan.spaces
        yield end_records(plan.records, directory_offset, plan.directory_bytes, comment=comment, zip64=plan.zip64)


class ZipPart:
    """Bytes in a row of one entry's region: ``layout.model.Part``."""

    def __init__(self, index: int, entry: Entry, *, first: int, end: int) -> None:
        self.entry = index
        self._content = _content(entry, 0)
        self._zip64 = promises_zip64(entry)
        header = local_header(entry)
        data_end = len(header) + self._content.packed
        self._descriptor = slice(max(0, first - data_end), max(0, end - data_end))
        self.needs_crc32 = (
            entry.crc32 is None
            and self._descriptor.start < _CRC32_FIELD.stop
            and self._descriptor.stop > _CRC32_FIELD.start
        )
        start = min(max(0, first - len(header)), self._content.packed)
        stop = min(max(0, end - len(header)), self._content.packed)
        self.lead = header[first:end]
        self._blocks: StoredBlocks | None = None
        self._block_header = b""
        if entry.crc32 is None:
            self._cut_blocks(start, stop)
        else:
            self.source_start, self.source_bytes = start, stop - start

    def frame(self, chunk: Piece) -> list[Piece]:
        """The next bytes of the source with the block headers that fall into them; views of ``chunk``, not copies."""
        return [chunk] if self._blocks is None else self._blocks.frame(chunk)

    def trail(self, crc32: int) -> bytes:
        """The block header that no data follows in this part, and what belongs to it of the descriptor."""
        if not self._descriptor.stop:
            return self._block_header
        record = descriptor(self._content._replace(crc32=crc32), zip64=self._zip64)
        return self._block_header + record[self._descriptor]

    def _cut_blocks(self, start: int, stop: int) -> None:
        """For ``start`` to ``stop`` of the packed data: a block header at the begin leads, one at the end trails."""
        size = self._content.size
        if not start and stop == self._content.packed:
            self.source_start, self.source_bytes = 0, size
            self.lead += block_header(min(MAX_BLOCK_BYTES, size), final=size <= MAX_BLOCK_BYTES)
            self._blocks = StoredBlocks(size, resume_at=0)
            return
        self.source_start = _data_before(start)
        self.source_bytes = _data_before(stop) - self.source_start
        if self.source_bytes:
            self.lead += _in_block_header(start, start - start % _FULL_BLOCK + BLOCK_HEADER_BYTES, size)
            self._blocks = StoredBlocks(size, resume_at=self.source_start)
            start = stop - stop % _FULL_BLOCK
        if stop - start <= BLOCK_HEADER_BYTES:
            self._block_header = _in_block_header(start, stop, size)


def _content(entry: Entry, crc32: int) -> Content:
    return Content(crc32, entry.size or 0, packed_bytes(entry) or 0)


def _data_before(packed: int) -> int:
    """How many of the first ``packed`` bytes of full stored blocks are data."""
    blocks, rest = divmod(packed, _FULL_BLOCK)
    return blocks * MAX_BLOCK_BYTES + max(0, rest - BLOCK_HEADER_BYTES)


def _in_block_header(start: int, stop: int, size: int) -> bytes:
    """Bytes ``start`` to before ``stop`` of the packed data, all of one block header, where there are any."""
    if start >= stop:
        return b""
    block, skipped = divmod(start, _FULL_BLOCK)
    left = size - block * MAX_BLOCK_BYTES
    header = block_header(min(MAX_BLOCK_BYTES, left), final=left <= MAX_BLOCK_BYTES)
    return header[skipped : skipped + stop - start]


def _hidden(free: int, records: int) -> tuple[int, int, int]:
    """``free`` bytes parted into growth hints of so many records, spaces after the comment, zeros before the directory.

    The comment stays short: libarchive looks for the end record in a file's last 16 KiB only. The zeros are always more
    than the ZIP64 records that they can make necessary.
    """
    hints = min(free, records * MAX_GROWTH_BYTES)
    if hints % MAX_GROWTH_BYTES < MIN_GROWTH_BYTES:
        hints -= hints % MAX_GROWTH_BYTES
    rest = free - hints
    return (hints, rest, 0) if rest <= END_64_BYTES else (hints, 0, rest)


def _growths(plan: _Plan) -> Iterator[int]:
    """The growth of each central record: the last ones take all they can, one before them the rest."""
    for following in range(plan.records - 1, -1, -1):
        yield min(max(0, plan.hint_bytes - following * MAX_GROWTH_BYTES), MAX_GROWTH_BYTES)


def _zeros(length: int) -> Iterator[bytes]:
    for start in range(0, length, _PIECE_BYTES):
        yield bytes(min(_PIECE_BYTES, length - start))


def _in_pieces(records: Iterator[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for record in records:
        buffer += record
        while len(buffer) >= _PIECE_BYTES:
            yield bytes(buffer[:_PIECE_BYTES])
            del buffer[:_PIECE_BYTES]
    if buffer:
        yield bytes(buffer)
