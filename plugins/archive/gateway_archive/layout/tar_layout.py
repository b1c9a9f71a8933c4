"""Where every byte of a tar archive comes from: POSIX.1-2001 (pax), one after another, without checksums of data."""

from __future__ import annotations

import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from typing import Final

from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.report import REPORT_NAME, render_report
from gateway_archive.tickets import OnError
from gateway_archive.zip_writer import Piece

_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
_RECORD_BYTES: Final = tarfile.RECORDSIZE  # archives are a multiple of it, as those of GNU tar are
_END_BYTES: Final = 2 * _BLOCK_BYTES
_PIECE_BYTES: Final = 1 << 16

_LONGEST_NAME: Final = tarfile.LENGTH_NAME
_LARGEST_NUMBER: Final = 8**11 - 1  # eleven octal digits, of size and time


class TarPart:
    """Some bytes of an entry's region, see ``layout.model.Part``."""

    needs_crc32 = False

    def __init__(self, entry: int, *, lead: bytes, source: range, padding: int) -> None:
        self.entry, self.lead = entry, lead
        self.source_start, self.source_bytes = source.start, len(source)
        self._padding = padding

    def frame(self, chunk: Piece) -> list[Piece]:
        """``chunk`` as it is."""
        return [chunk]

    def trail(self, _crc32: int) -> bytes:
        """Zeros up to the end of the block."""
        return bytes(self._padding)


class TarLayout:
    """Regions of headers, data and zeros; the tail is the report, if files were left out, and the end of the archive.

    See ``layout.model.Layout``. The total is a multiple of 10,240 bytes. Making one of 100,000 entries takes some
    tenths of a second (in a thread, then) and 1 MB; headers are made when they are asked for.
    """

    media_type = "application/x-tar"
    tail_needs_crc32 = False
    can_lose = False

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self.etag = frozen.digest("tar")
        self._starts = array("q", [0])
        offset = 0
        for entry in frozen:
            offset += _header_bytes(entry) + _padded(entry.size)
            self._starts.append(offset)
        self.tail_offset = offset
        self.total_bytes = -(-(offset + sum(map(len, self._report())) + _END_BYTES) // _RECORD_BYTES) * _RECORD_BYTES

    def locate(self, offset: int) -> int:
        """The entry in whose region a byte lies; raises ValueError for one outside of all regions."""
        if not 0 <= offset < self.tail_offset:
            raise ValueError(f"byte {offset} of {self.tail_offset}")
        return bisect_right(self._starts, offset) - 1

    def start(self, entry: int) -> int:
        """Where an entry's region begins."""
        return self._starts[entry]

    def part(self, entry: int, first: int, end: int) -> TarPart:
        """Bytes ``first`` to before ``end`` of a region; raises ValueError for those that are not within it."""
        region = self._starts[entry + 1] - self._starts[entry]
        if not 0 <= first <= end <= region:
            raise ValueError(f"bytes {first} to {end} of a region of {region}")
        size = self.frozen.size(entry)
        header_bytes = region - _padded(size)
        lead = _header(self.frozen[entry])[first:end] if first < header_bytes else b""
        source = range(_within(first - header_bytes, size), _within(end - header_bytes, size))
        return TarPart(entry, lead=lead, source=source, padding=end - first - len(lead) - len(source))

    def report_room(self, _lost: Collection[int]) -> int:
        """None: what was left out from the start has its report already, and nothing can be left out later."""
        return 0

    def tail(
        self, _crc32: Callable[[int], int], *, lost: Collection[int] = (), report: bytes | None = None
    ) -> Iterator[bytes]:
        """The tail in pieces; raises ValueError for lost entries, and for a report, for which there is no room."""
        if lost or report:
            raise ValueError("a tar archive cannot leave out what it has begun with")
        return self._tail()

    def _tail(self) -> Iterator[bytes]:
        offset = self.tail_offset
        for piece in chain.from_iterable(map(_pieces, self._report())):
            offset += len(piece)
            yield piece
        yield bytes(self.total_bytes - offset)

    def _report(self) -> list[bytes]:
        """The entry of the report: header, text, zeros; nothing when there is none."""
        frozen = self.frozen
        if not frozen.failures or frozen.on_error is not OnError.REPORT:
            return []
        packed = frozen.file_count
        text = render_report(frozen.failures, packed=packed)
        entry = FrozenEntry(-1, REPORT_NAME, len(text), modified=frozen.created)
        return [_header(entry), text, bytes(_padded(len(text)) - len(text))]


def _pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES))


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


def _within(position: int, size: int) -> int:
    return min(max(position, 0), size)


def _header(entry: FrozenEntry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.size, info.mtime = entry.size, entry.modified or 0
    info.mode = 0o755 if entry.is_folder else 0o644
    info.type = tarfile.DIRTYPE if entry.is_folder else tarfile.REGTYPE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _header_bytes(entry: FrozenEntry) -> int:
    """Length of the header without making it, which would take seconds for a hundred thousand of them."""
    name, modified = entry.name, entry.modified or 0
    plain = name.isascii() and len(name) <= _LONGEST_NAME
    in_range = 0 <= modified <= _LARGEST_NUMBER and entry.size <= _LARGEST_NUMBER
    if plain and in_range:
        return _BLOCK_BYTES
    try:
        records = 0 if plain else _record_bytes("path", len(name.encode()))
    except UnicodeEncodeError:  # it stands for other bytes; that needs one record more
        return len(_header(entry))
    for keyword, number in (("size", entry.size), ("mtime", modified)):
        if not 0 <= number <= _LARGEST_NUMBER:
            records += _record_bytes(keyword, len(str(number)))
    return _BLOCK_BYTES + _padded(records) + _BLOCK_BYTES


def _record_bytes(keyword: str, value_bytes: int) -> int:
    """Length of a record of a pax header: its length, which counts itself, keyword, value."""
    rest = len(keyword) + value_bytes + 3
    length = rest + len(str(rest))
    return rest + len(str(length))
