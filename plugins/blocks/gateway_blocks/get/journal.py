"""Which blocks of a part file are there, written down so that a download goes on after any end.

``OUT.part.journal`` is one line of JSON that says what is being fetched, then records of 33 bytes: kind, number, SHA-1
and a CRC-32 over those, so that a tail torn by a crash is known for one. A block's record is appended after its bytes
were written: both are then in the kernel's hands, and no end of the process alone can part them. The machine's end can,
so now and then a mark follows a completed ``fdatasync`` of the part file and says how many records that covered: what
stands after the last mark is hashed again before it is believed. So are blocks that were there when a download was gone
on with, but of which the server had not told yet whether they are right: they may be overwritten without a word.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FORMAT = "gateway-part/1"
_BODY = struct.Struct("<BQ20s")
_CRC = struct.Struct("<I")
_RECORD_BYTES = _BODY.size + _CRC.size
_BLOCK, _MARK, _HELD = 1, 2, 3
_NO_DIGEST = bytes(20)
_HEADING_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Heading:
    """What a part file is a part of. ``validator`` is empty where nothing strong was told.

    ``proven`` tells checksums of the server from those of whatever came: without checksums, blocks are only good for
    the version that ``validator`` names.
    """

    url: str
    size_bytes: int
    block_bytes: int
    validator: str
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """What a journal says: SHA-1 by block. Those in ``unsure`` were perhaps never written to the disk."""

    heading: Heading
    blocks: dict[int, bytes] = field(default_factory=dict)
    unsure: frozenset[int] = frozenset()


class Journal:
    """A journal open for appending; any thread may, one at a time.

    Methods raise OSError as the file system does.
    """

    def __init__(self, fd: int, count: int) -> None:
        self._fd = fd
        self._count = count

    @classmethod
    def begin(cls, path: Path, heading: Heading, blocks: Mapping[int, bytes], *, held: Mapping[int, bytes]) -> Journal:
        """A new journal in the place of an old one, at once; ``blocks`` must be on the disk, ``held`` may be right."""
        fresh = fresh_path(path)
        replaces = path.exists()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            heading_line = json.dumps({"format": FORMAT, **asdict(heading)}, ensure_ascii=True).encode() + b"\n"
            _append(fd, heading_line + b"".join(_record(_BLOCK, *block) for block in blocks.items()))
            journal = cls(fd, len(blocks))
            if blocks:
                journal.mark(len(blocks))
            _append(fd, b"".join(_record(_HELD, *block) for block in held.items()))
            if replaces:  # an old journal that came back after a crash would vouch for what is overwritten by now
                os.fsync(fd)
            fresh.replace(path)
            if replaces:
                sync_folder(path.parent)
        except BaseException:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        return journal

    def keep(self, index: int, digest: bytes) -> None:
        """Write down that the block's bytes, of that SHA-1, were written."""
        _append(self._fd, _record(_BLOCK, index, digest))
        self._count += 1

    @property
    def count(self) -> int:
        """Number of blocks written down: to be read before an ``fdatasync`` that is to be marked."""
        return self._count

    def mark(self, count: int) -> None:
        """Write down that the bytes of the first ``count`` blocks have reached the disk."""
        _append(self._fd, _record(_MARK, count, _NO_DIGEST))

    def close(self) -> None:
        """Let go of the file; any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def read_journal(path: Path) -> Record | None:
    """What the journal at ``path`` says, up to where it is torn; None where there is none that can be understood.

    Of two records of one block the later counts. Raises OSError other than that it is not there.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    end = data.find(b"\n", 0, _HEADING_LIMIT)
    heading = _heading(data[: max(end, 0)])
    if heading is None:
        return None
    blocks: dict[int, bytes] = {}
    held: set[int] = set()
    order: list[int] = []
    sure = 0
    for offset in range(end + 1, len(data) - _RECORD_BYTES + 1, _RECORD_BYTES):
        crc_at = offset + _BODY.size
        if _CRC.unpack_from(data, crc_at)[0] != zlib.crc32(data[offset:crc_at]):
            break
        kind, number, digest = _BODY.unpack_from(data, offset)
        if kind == _BLOCK:
            blocks[number] = digest
            order.append(number)
            held.discard(number)
        elif kind == _HELD:
            blocks[number] = digest
            held.add(number)
        elif kind == _MARK:
            sure = max(sure, number)
    return Record(heading, blocks, frozenset(held.union(order[sure:])))


def fresh_path(path: Path) -> Path:
    """Where the journal that is to be at ``path`` is begun: ``OUT.part.new``."""
    return path.with_suffix(".new")


def sync_folder(path: Path) -> None:
    """Make renames in the folder last; folders that cannot be synced (some network file systems) are left so."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError:
        return
    finally:
        os.close(fd)


def _heading(line: bytes) -> Heading | None:
    try:
        told = json.loads(line)
        if told.pop("format") != FORMAT:
            return None
        heading = Heading(**told)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    sizes = (heading.size_bytes, heading.block_bytes)
    texts = (heading.url, heading.validator)
    understood = all(type(size) is int and size >= 0 for size in sizes) and all(isinstance(text, str) for text in texts)
    return heading if understood and heading.block_bytes and isinstance(heading.proven, bool) else None


def _record(kind: int, number: int, digest: bytes) -> bytes:
    body = _BODY.pack(kind, number, digest)
    return body + _CRC.pack(zlib.crc32(body))


def _append(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
