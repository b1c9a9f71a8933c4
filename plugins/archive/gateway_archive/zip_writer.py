"""Entries and their data in, the bytes of a ZIP archive out; no I/O. The records themselves are ``zip_records``.

Methods return pieces to be written in order. Pieces of data are the caller's chunks or views of them, so a chunk must
stay as it is until its pieces are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from isal.isal_zlib import crc32

from gateway_archive.zip_records import (
    BLOCK_HEADER_BYTES,
    COMMENT,
    MARKER_32,
    MAX_BLOCK_BYTES,
    Content,
    Entry,
    Layout,
    block_header,
    central_header,
    descriptor,
    end_records,
    local_header,
    promises_zip64,
)
from gateway_core.errors import SourceFailed

Piece = bytes | memoryview
"""Bytes of the archive."""

_DIRECTORY_PIECE_BYTES: Final = 1 << 16
_FULL_BLOCK_HEADER: Final = block_header(MAX_BLOCK_BYTES, final=False)


class StoredBlocks:
    """Frames data as stored deflate blocks (RFC 1951 3.2.4).

    With ``size`` (the data bytes there will be) every block but the last is full, whatever the chunks, and the last one
    is marked final. Without, a block ends with its chunk and ``end`` adds an empty final one. ``resume_at`` goes on
    there, below ``size``, with the header of the block in which that byte stands already written.
    """

    def __init__(self, size: int | None = None, *, resume_at: int | None = None) -> None:
        self._unopened = size  # data bytes that no block header has announced yet
        self._final = False
        self.missing = 0
        """Data bytes the open block still needs."""
        if size is not None and resume_at is not None:
            block_end = min(size, (resume_at // MAX_BLOCK_BYTES + 1) * MAX_BLOCK_BYTES)
            self._unopened, self.missing = size - block_end, block_end - resume_at
            self._final = block_end == size
        self.packed = 0
        """Bytes returned so far."""

    def frame(self, chunk: Piece) -> list[Piece]:
        """``chunk`` with the block headers that fall into it; at most ``size`` bytes may come in all."""
        pieces: list[Piece] = []
        view, start, stop = memoryview(chunk), 0, len(chunk)
        while start < stop:
            if not self.missing:
                pieces.append(self._open(stop - start))
            end = min(start + self.missing, stop)
            pieces.append(view[start:end])
            self.missing -= end - start
            start = end
        self.packed += stop
        return pieces

    def end(self) -> bytes:
        """What closes the data when no block is open: an empty final block, or nothing where the last was final."""
        return b"" if self._final else self._header(0, final=True)

    def _open(self, available: int) -> bytes:
        if self._unopened is not None and self._unopened > MAX_BLOCK_BYTES:  # as nearly all blocks of a large file
            self._unopened -= MAX_BLOCK_BYTES
            self.missing = MAX_BLOCK_BYTES
            self.packed += BLOCK_HEADER_BYTES
            return _FULL_BLOCK_HEADER
        self.missing = min(MAX_BLOCK_BYTES, available if self._unopened is None else self._unopened)
        if self._unopened is not None:
            self._unopened -= self.missing
        return self._header(self.missing, final=self._unopened == 0)

    def _header(self, length: int, *, final: bool) -> bytes:
        self._final = final
        header = block_header(length, final=final)
        self.packed += len(header)
        return header


class OpenEntry:
    """An entry whose data comes in chunks, made by ``ZipWriter.begin``; closed by ``finish`` or ``discard``, once.

    Its local header comes with the first data, so an entry that fails before leaves no trace, and one that turns out
    empty is laid out as an empty file. After a SourceFailed it is still open and can be discarded. Calls on a closed
    entry raise RuntimeError.
    """

    def __init__(self, entry: Entry, close: Callable[[Entry, Content | None, int], None]) -> None:
        self._entry = entry
        self._on_close = close
        self._blocks = None if entry.layout is Layout.KNOWN else StoredBlocks(entry.size)
        self._crc32 = 0
        self._size = 0
        self._header_bytes = 0
        self._closed = False

    @property
    def missing(self) -> int | None:
        """Data bytes promised and not yet given; None for an OPEN entry."""
        return None if self._entry.size is None else self._entry.size - self._size

    def data(self, chunk: Piece) -> list[Piece]:
        """The next bytes of the file. Raises SourceFailed, and takes nothing, when they exceed the promised size."""
        self._require_open()
        if not chunk:
            return []
        if self.missing is not None and len(chunk) > self.missing:
            raise SourceFailed(f"it sent more than the {self._entry.size} bytes it announced")
        pieces = self._start()
        self._crc32 = crc32(chunk, self._crc32)
        self._size += len(chunk)
        pieces += [chunk] if self._blocks is None else self._blocks.frame(chunk)
        return pieces

    def finish(self) -> list[Piece]:
        """Close a complete entry and list it in the central directory.

        Raises SourceFailed when bytes are missing or the CRC-32 is not the one known beforehand.
        """
        self._require_open()
        entry = self._entry
        if self.missing:
            raise SourceFailed(f"it ended after {self._size} of {entry.size} bytes")
        if entry.crc32 is not None and self._crc32 != entry.crc32:
            raise SourceFailed(f"its CRC-32 is {self._crc32:08x} and not {entry.crc32:08x}")
        if not self._size:
            empty = Entry(entry.name, 0, 0, entry.modified)  # APPNOTE 4.3.8: no data, not even an empty block
            header = local_header(empty)
            self._close(empty, Content(0, 0, 0), len(header))
            return [header]
        sent = self._sent
        content, trailer = self._trailer(self._crc32)
        self._close(entry, content, sent + len(trailer))
        return [trailer] if trailer else []

    def discard(self) -> list[Piece]:
        """Close a failed entry so that the archive can go on, and leave it out of the central directory.

        What was announced is filled up with zeros and the descriptor's CRC-32 is wrong on purpose: readers that seek
        never see the entry, readers that stream report it as damaged, and so does 7-Zip when it is the first of the
        archive. A KNOWN entry whose header is out can only be discarded when all its promised bytes were given; else
        this raises SourceFailed and the archive must be cut.
        """
        self._require_open()
        if not self._header_bytes:
            self._close(self._entry, None, 0)
            return []
        if self._blocks is None:
            if self.missing:
                raise SourceFailed(
                    f"it ended after {self._size} of {self._entry.size} bytes, all promised to the reader"
                )
            self._close(self._entry, None, self._sent)
            return []
        padding = bytes(self._blocks.missing)
        self._crc32 = crc32(padding, self._crc32)
        self._size += len(padding)
        pieces = self._blocks.frame(padding)
        sent = self._sent
        _, trailer = self._trailer(self._crc32 ^ MARKER_32)
        self._close(self._entry, None, sent + len(trailer))
        return [*pieces, trailer]

    @property
    def _sent(self) -> int:
        return self._header_bytes + (self._size if self._blocks is None else self._blocks.packed)

    def _start(self) -> list[Piece]:
        if self._header_bytes:
            return []
        header = local_header(self._entry)
        self._header_bytes = len(header)
        return [header]

    def _trailer(self, crc: int) -> tuple[Content, bytes]:
        """The end of the data and the descriptor."""
        if self._blocks is None:
            return Content(crc, self._size, self._size), b""
        end = self._blocks.end()
        content = Content(crc, self._size, self._blocks.packed)
        # APPNOTE 4.3.9.2: an OPEN entry that grew large gets 8-byte sizes although its header could not say so
        zip64 = promises_zip64(self._entry) or content.needs_zip64
        return content, end + descriptor(content, zip64=zip64)

    def _close(self, entry: Entry, content: Content | None, length: int) -> None:
        self._closed = True
        self._on_close(entry, content, length)

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"entry is closed: {self._entry.name}")


class ZipWriter:
    """One archive from its first byte to its last, an entry at a time; holds only the central directory's bytes.

    ``offset`` is where its first byte stands in the file, should something else come before. Calls out of order (an
    entry begun while another is open, anything after ``end``) raise RuntimeError.
    """

    def __init__(self, *, offset: int = 0) -> None:
        self._offset = offset
        self._directory = bytearray()
        self._entries = 0
        self._busy = ""

    @property
    def offset(self) -> int:
        """Where the next entry begins."""
        return self._offset

    @property
    def entries(self) -> int:
        """How many entries the central directory lists so far."""
        return self._entries

    def whole(self, entry: Entry, data: Piece) -> list[Piece]:
        """A file whose bytes are all at hand, always KNOWN in layout; or a folder, with no data.

        Raises SourceFailed, with nothing written, when size or CRC-32 are not those in ``entry``.
        """
        self._require_idle()
        size, crc = len(data), crc32(data)
        if entry.size is not None and entry.size != size:
            raise SourceFailed(f"it has {size} and not {entry.size} bytes")
        if entry.crc32 is not None and entry.crc32 != crc:
            raise SourceFailed(f"its CRC-32 is {crc:08x} and not {entry.crc32:08x}")
        known = Entry(entry.name, size, crc, entry.modified)
        header = local_header(known)
        self._closed(known, Content(crc, size, size), len(header) + size)
        return [header, data] if size else [header]

    def begin(self, entry: Entry) -> OpenEntry:
        """Open an entry in the layout that ``entry`` asks for."""
        self._require_idle()
        self._busy = f"entry is open: {entry.name}"
        return OpenEntry(entry, self._closed)

    def end(self, *, comment: bytes = COMMENT) -> Iterator[bytes]:
        """Central directory, in pieces of at most 64 KiB, and end records; raises ValueError for too long a comment."""
        self._require_idle()
        tail = end_records(self._entries, self._offset, len(self._directory), comment=comment)
        self._busy = "archive has ended"
        return self._directory_pieces(tail)

    def _directory_pieces(self, tail: bytes) -> Iterator[bytes]:
        with memoryview(self._directory) as view:
            for start in range(0, len(view), _DIRECTORY_PIECE_BYTES):
                yield bytes(view[start : start + _DIRECTORY_PIECE_BYTES])
        yield tail

    def _closed(self, entry: Entry, content: Content | None, length: int) -> None:
        if content is not None:
            self._directory += central_header(entry, content, self._offset)
            self._entries += 1
        self._offset += length
        self._busy = ""

    def _require_idle(self) -> None:
        if self._busy:
            raise RuntimeError(self._busy)
