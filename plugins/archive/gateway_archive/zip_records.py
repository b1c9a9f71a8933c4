"""ZIP records as pure functions, byte for byte, after PKWARE's APPNOTE.TXT 6.3.10.

A section number in a comment is of that text. An archive is::

    per entry   local header | data | data descriptor (SIZED and OPEN only)
    then        one central header per entry | ZIP64 end record and locator (only when needed) | end record

Every record has a function for its bytes and one for its length; with all sizes known the length of a whole archive is
known before its first byte (``archive_bytes``). The same entries always give the same bytes: nothing reads a clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

COMMENT: Final = b"Written by content-gateway"
"""Archive comment in the end record."""

MARKER_16: Final = 0xFFFF
"""In a 2-byte field: the value is in the ZIP64 record. Not usable as a value, so ZIP64 begins at it (4.4.1.4)."""

MARKER_32: Final = 0xFFFFFFFF
"""The same for a 4-byte field."""

MAX_BLOCK_BYTES: Final = 0xFFFF
"""Most data bytes in one stored deflate block (RFC 1951 3.2.4)."""

BLOCK_HEADER_BYTES: Final = 5
"""Stored deflate block: type byte, length, complement of the length."""

MIN_GROWTH_BYTES: Final = 8
"""Least bytes of a growth hint, the extra field of zeros that readers skip."""

MAX_GROWTH_BYTES: Final = 60_000
"""Most bytes of a growth hint: a whole central record should stay within 65,535 (4.4.10), and Java insists on it."""

DOS_EPOCH: Final = 315_532_800
"""1980-01-01T00:00:00Z in Unix seconds, the first DOS date; an entry without a date gets it and no other timestamp."""

_DOS_LAST: Final = 4_354_819_198  # 2107-12-31T23:59:58Z
_UNIX_32_END: Final = 1 << 31

_LOCAL: Final = Struct("<4s5H3I2H")  # 4.3.7
_CENTRAL: Final = Struct("<4s6H3I5H2I")  # 4.3.12
_DESCRIPTOR: Final = Struct("<4s3I")  # 4.3.9
_DESCRIPTOR_64: Final = Struct("<4sI2Q")  # 4.3.9.2
_END_64: Final = Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR_64: Final = Struct("<4sIQI")  # 4.3.15
_END: Final = Struct("<4s4H2IH")  # 4.3.16
_BLOCK: Final = Struct("<BHH")
_ZIP64_EXTRA: Final = {count: Struct(f"<HH{count}Q") for count in (1, 2, 3)}  # 4.5.3
_TIMESTAMP_EXTRA: Final = Struct("<HHBi")
_GROWTH_HINT: Final = Struct("<4H")

END_64_BYTES: Final = _END_64.size + _LOCATOR_64.size
"""Bytes of the ZIP64 end record and its locator."""

_ZIP64_ID: Final = 0x0001
_TIMESTAMP_ID: Final = 0x5455
_GROWTH_HINT_ID, _GROWTH_HINT_SIGNATURE = 0xA220, 0xA028  # 4.6.10
_STORED, _DEFLATED = 0, 8
_NEEDS_DEFAULT, _NEEDS_ZIP64 = 20, 45  # 4.4.3.2; 45 on every entry makes some readers refuse small archives
_MADE_BY: Final = 3 << 8 | _NEEDS_ZIP64  # 4.4.2: 3 is Unix, so that the modes below are believed
_FLAG_DESCRIPTOR, _FLAG_UTF8 = 1 << 3, 1 << 11  # 4.4.4
_FILE_ATTRIBUTES: Final = 0o100644 << 16
_FOLDER_ATTRIBUTES: Final = 0o040755 << 16 | 0x10  # 0x10: the directory bit of DOS


class Layout(Enum):
    """How an entry is laid out, by what is known of it before its header is written."""

    KNOWN = "known"
    """Size and CRC-32: stored, both in the local header, no descriptor. Folders and empty files too."""

    SIZED = "sized"
    """Size only: deflate made of full stored blocks, so its length is known; the CRC-32 follows in a descriptor.

    Stored data with a descriptor would be five bytes shorter a block, but streaming readers cannot take it.
    """

    OPEN = "open"
    """Neither: deflate made of stored blocks as data comes; sizes and CRC-32 follow in a descriptor."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or folder of an archive, with what is known of it.

    ``name`` is relative with ``/`` between its parts (4.4.17.1); one that ends in ``/`` is a folder and holds no data.
    ``size`` in bytes and ``crc32`` are None where unknown. ``modified`` is Unix seconds, or None for no date. Raises
    ValueError for an empty or overlong name, a folder with data, a size or CRC-32 out of range.
    """

    name: str
    size: int | None = None
    crc32: int | None = None
    modified: int | None = None

    def __post_init__(self) -> None:
        if not self.name or len(self.name.encode()) > MARKER_16:
            raise ValueError("an entry's name has 1 to 65,535 UTF-8 bytes")
        if self.is_folder:
            if self.size or self.crc32:
                raise ValueError(f"a folder holds no data: {self.name}")
            object.__setattr__(self, "size", 0)
        if self.size == 0 and self.crc32 is None:
            object.__setattr__(self, "crc32", 0)  # 4.3.8: an empty file carries no data, so nothing is left to learn
        if not 0 <= (self.size or 0) < 1 << 63 or not 0 <= (self.crc32 or 0) <= MARKER_32:
            raise ValueError(f"size or CRC-32 out of range: {self.name}")

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder."""
        return self.name.endswith("/")

    @property
    def layout(self) -> Layout:
        """The layout that fits what is known."""
        if self.size is None:
            return Layout.OPEN
        return Layout.SIZED if self.crc32 is None else Layout.KNOWN


class Content(NamedTuple):
    """What an entry's data turned out to be: CRC-32, bytes before packing, bytes in the archive."""

    crc32: int
    size: int
    packed: int

    @property
    def needs_zip64(self) -> bool:
        """Whether a size does not fit a 4-byte field."""
        return max(self.size, self.packed) >= MARKER_32


def stored_blocks_bytes(size: int) -> int:
    """Bytes of ``size`` data bytes as full stored deflate blocks; no data is one empty block."""
    return size + BLOCK_HEADER_BYTES * max(1, -(-size // MAX_BLOCK_BYTES))


def block_header(length: int, *, final: bool) -> bytes:
    """Start of a stored deflate block of ``length`` data bytes (RFC 1951 3.2.4); the block begins on a byte."""
    return _BLOCK.pack(final, length, length ^ MAX_BLOCK_BYTES)


def packed_bytes(entry: Entry) -> int | None:
    """Bytes of an entry's data in the archive; None where its size is unknown."""
    if entry.size is None or entry.crc32 is not None:
        return entry.size
    return stored_blocks_bytes(entry.size)


def promises_zip64(entry: Entry) -> bool:
    """Whether the local header announces ZIP64, and with it a descriptor of 8-byte sizes (4.3.9.2).

    An OPEN entry never does, although it may grow that large: Java's ZipInputStream before 23 takes a small entry whose
    header does for damaged. The price: libarchive, reading from a pipe, reports an OPEN entry over 4 GiB as damaged.
    """
    return (packed_bytes(entry) or 0) >= MARKER_32


def local_header(entry: Entry) -> bytes:
    """What stands before an entry's data (4.3.7)."""
    name, extra = entry.name.encode(), _local_extra(entry)
    known, zip64 = entry.layout is Layout.KNOWN, promises_zip64(entry)
    crc32, size = (entry.crc32 or 0, entry.size or 0) if known else (0, 0)  # 4.4.4 bit 3: the descriptor has them
    if zip64:
        size = MARKER_32
    header = _LOCAL.pack(
        b"PK\x03\x04",
        _NEEDS_ZIP64 if zip64 else _NEEDS_DEFAULT,
        _flags(entry),
        _STORED if known else _DEFLATED,
        *dos_time(entry.modified),
        crc32,
        size,
        size,
        len(name),
        len(extra),
    )
    return header + name + extra


def local_header_bytes(entry: Entry) -> int:
    """Length of ``local_header``."""
    return _LOCAL.size + len(entry.name.encode()) + len(_local_extra(entry))


def descriptor(content: Content, *, zip64: bool) -> bytes:
    """What stands after the data of a SIZED or OPEN entry (4.3.9), with 8-byte sizes for ``zip64``."""
    record = _DESCRIPTOR_64 if zip64 else _DESCRIPTOR
    return record.pack(b"PK\x07\x08", content.crc32, content.packed, content.size)


def descriptor_bytes(entry: Entry) -> int | None:
    """Length of an entry's descriptor, 0 where it has none; None where that depends on a size yet unknown."""
    if entry.size is None:
        return None
    if entry.crc32 is not None:
        return 0
    return _DESCRIPTOR_64.size if promises_zip64(entry) else _DESCRIPTOR.size


def entry_bytes(entry: Entry) -> int | None:
    """Bytes of an entry before the central directory: local header, data, descriptor; None where unknown."""
    packed, trailer = packed_bytes(entry), descriptor_bytes(entry)
    if packed is None or trailer is None:
        return None
    return local_header_bytes(entry) + packed + trailer


def central_header(entry: Entry, content: Content, offset: int, *, growth: int = 0) -> bytes:
    """An entry's record in the central directory (4.3.12); ``offset`` is where its local header begins.

    ``growth`` makes it longer by so many bytes, ``MIN_GROWTH_BYTES`` to ``MAX_GROWTH_BYTES``, that mean nothing.
    """
    name, extra = entry.name.encode(), _central_extra(entry, content, offset) + _growth_hint(growth)
    zip64 = content.needs_zip64 or offset >= MARKER_32
    header = _CENTRAL.pack(
        b"PK\x01\x02",
        _MADE_BY,
        _NEEDS_ZIP64 if zip64 else _NEEDS_DEFAULT,
        _flags(entry),
        _STORED if entry.layout is Layout.KNOWN else _DEFLATED,
        *dos_time(entry.modified),
        content.crc32,
        min(content.packed, MARKER_32),
        min(content.size, MARKER_32),
        len(name),
        len(extra),
        0,  # comment
        0,  # disk
        0,  # internal attributes
        _FOLDER_ATTRIBUTES if entry.is_folder else _FILE_ATTRIBUTES,
        min(offset, MARKER_32),
    )
    return header + name + extra


def central_header_bytes(entry: Entry, content: Content, offset: int) -> int:
    """Length of ``central_header``, whatever the CRC-32 in ``content``."""
    return _CENTRAL.size + len(entry.name.encode()) + len(_central_extra(entry, content, offset))


def end_records(
    entries: int, directory_offset: int, directory_bytes: int, *, comment: bytes = COMMENT, zip64: bool = False
) -> bytes:
    """What stands after the central directory (4.3.14 to 4.3.16), ZIP64 only when one of the three numbers needs it.

    ``zip64`` writes the ZIP64 records although nothing needs them, which no rule forbids (4.4.1.4). Raises ValueError
    for a comment over 65,535 bytes.
    """
    if len(comment) > MARKER_16:
        raise ValueError("an archive comment has at most 65,535 bytes")
    count = min(entries, MARKER_16)
    end = _END.pack(
        b"PK\x05\x06",
        0,
        0,
        count,
        count,
        min(directory_bytes, MARKER_32),
        min(directory_offset, MARKER_32),
        len(comment),
    )
    if not zip64 and not end_needs_zip64(entries, directory_offset, directory_bytes):
        return end + comment
    end_64 = _END_64.pack(
        b"PK\x06\x06",
        _END_64.size - 12,  # 4.3.14.1: without signature and this field
        _MADE_BY,
        _NEEDS_ZIP64,
        0,
        0,
        entries,
        entries,
        directory_bytes,
        directory_offset,
    )
    locator = _LOCATOR_64.pack(b"PK\x06\x07", 0, directory_offset + directory_bytes, 1)
    return end_64 + locator + end + comment


def end_records_bytes(entries: int, directory_offset: int, directory_bytes: int, *, comment: bytes = COMMENT) -> int:
    """Length of ``end_records``."""
    zip64 = end_needs_zip64(entries, directory_offset, directory_bytes)
    return (END_64_BYTES if zip64 else 0) + _END.size + len(comment)


def end_needs_zip64(entries: int, directory_offset: int, directory_bytes: int) -> bool:
    """Whether one of the three numbers does not fit the end record."""
    return entries >= MARKER_16 or max(directory_offset, directory_bytes) >= MARKER_32


def archive_bytes(entries: Iterable[Entry], *, comment: bytes = COMMENT) -> int | None:
    """Length of a whole archive of these entries in this order; None as soon as one is OPEN."""
    offset = directory = count = 0
    for entry in entries:
        length, packed = entry_bytes(entry), packed_bytes(entry)
        if length is None or packed is None:
            return None
        directory += central_header_bytes(entry, Content(0, entry.size or 0, packed), offset)
        offset += length
        count += 1
    return offset + directory + end_records_bytes(count, offset, directory, comment=comment)


@lru_cache(maxsize=64)  # local and central header ask one after the other
def dos_time(modified: int | None) -> tuple[int, int]:
    """Time and date fields (4.4.6) in UTC, to two seconds down, held within 1980 to 2107; None is ``DOS_EPOCH``.

    DOS times have no zone; readers that know the extended timestamp take that and show the viewer's local time.
    """
    at = time.gmtime(min(max(DOS_EPOCH if modified is None else modified, DOS_EPOCH), _DOS_LAST))
    return (
        at.tm_hour << 11 | at.tm_min << 5 | at.tm_sec // 2,
        (at.tm_year - 1980) << 9 | at.tm_mon << 5 | at.tm_mday,
    )


def _flags(entry: Entry) -> int:
    descriptor_flag = 0 if entry.layout is Layout.KNOWN else _FLAG_DESCRIPTOR
    return descriptor_flag | (0 if entry.name.isascii() else _FLAG_UTF8)


def _local_extra(entry: Entry) -> bytes:
    if not promises_zip64(entry):
        return _timestamp(entry)
    # 4.5.3: both sizes, always. With a descriptor they are zero, the form that macOS and Java are known to take.
    size = (entry.size or 0) if entry.layout is Layout.KNOWN else 0
    return _zip64(size, size) + _timestamp(entry)


def _central_extra(entry: Entry, content: Content, offset: int) -> bytes:
    large = [value for value in (content.size, content.packed, offset) if value >= MARKER_32]
    return (_zip64(*large) if large else b"") + _timestamp(entry)  # ZIP64 first: Windows 7 looks no further


def _zip64(*values: int) -> bytes:
    return _ZIP64_EXTRA[len(values)].pack(_ZIP64_ID, 8 * len(values), *values)


def _timestamp(entry: Entry) -> bytes:
    """Extended timestamp of Info-ZIP (proginfo/extrafld.txt): bit 0 and the modification time, signed 32 bits."""
    if entry.modified is None or not 0 <= entry.modified < _UNIX_32_END:
        return b""
    return _TIMESTAMP_EXTRA.pack(_TIMESTAMP_ID, 5, 1, entry.modified)


def _growth_hint(length: int) -> bytes:
    if not length:
        return b""
    return _GROWTH_HINT.pack(_GROWTH_HINT_ID, length - 4, _GROWTH_HINT_SIGNATURE, 0) + bytes(length - 8)
