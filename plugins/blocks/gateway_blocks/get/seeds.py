"""Blocks out of old local files: known again by their SHA-1, at any place that is a multiple of the block size."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from gateway_blocks.get.board import BlockMap, Board
from gateway_blocks.get.disk import disk_errors
from gateway_blocks.get.fetch import Copier
from gateway_blocks.get.local import hash_spans
from gateway_blocks.get.part import PartSink
from gateway_blocks.get.session import Session
from gateway_core.errors import ConfigError

_DIGEST_BYTES = 20
_WORTH = 4
"""Hashing so many bytes locally is worth not fetching one."""
_WORTH_ANYWAY_BYTES = 64 << 20
_WORTH_A_LINE_BYTES = 256 << 20


class OldFile:
    """A local file, open, and the SHA-1 of its blocks as the layout of ``block_map`` cuts it.

    Raises ConfigError for what is no file or may not be read.
    """

    def __init__(self, path: Path, block_map: BlockMap) -> None:
        self.path = path
        with disk_errors(path):
            self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = _identity(self.fd)
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            self.close()
            raise ConfigError(f"{path} is no file")
        self.size_bytes = os.fstat(self.fd).st_size
        self._map = block_map
        count = -(-self.size_bytes // block_map.block_bytes)
        self._digests = bytearray(_DIGEST_BYTES * count)
        self._known = bytearray(count)
        self._tail: bytes | None = None
        self.hashed = False

    def hash(
        self,
        stop: threading.Event,
        *,
        first: Callable[[int], bool] = lambda _: True,
        rest: bool = True,
        limit_bytes: int | None = None,
        heard: Callable[[int, bytes], object] = lambda _index, _digest: None,
    ) -> None:
        """Hash its blocks: those that ``first`` is true of, then the ``rest``, up to ``limit_bytes``.

        ``heard`` is told of those that are where the remote file has a block. Raises Stopped, DiskFailed where the file
        cannot be read at all.
        """
        spans = self._spans(first)
        if rest:
            spans = chain(spans, self._spans(lambda index: not first(index)))
        if limit_bytes is not None:
            spans = _within(spans, limit_bytes)
        self.hashed = True
        with disk_errors(self.path):
            for offset, count, digest in hash_spans(self.fd, spans, stop):
                if digest is not None:
                    self._note(offset, count, digest)
                    index = offset // self._map.block_bytes
                    if index < self._map.count and self._map.span(index)[1] + 1 == offset + count:
                        heard(index, digest)

    def in_place(self, index: int) -> bytes | None:
        """SHA-1 of the bytes that it has where the remote file has this block; None where it lacks some of them."""
        start, last = self._map.span(index)
        if last >= self.size_bytes:
            return None
        if index == self._map.count - 1 and last + 1 - start != self._length(index):
            return self._tail
        return self._digest(index)

    def digests(self) -> Iterator[tuple[bytes, int]]:
        """SHA-1 and offset of every hashed block."""
        for index in range(len(self._known)):
            digest = self._digest(index)
            if digest is not None:
                yield digest, index * self._map.block_bytes
        if self._tail is not None:
            yield self._tail, self._map.span(self._map.count - 1)[0]

    @property
    def unchanged(self) -> bool:
        """Whether nobody has written to it since it was opened, as far as the file system tells."""
        return _identity(self.fd) == self._before

    def close(self) -> None:
        """Let go of the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _spans(self, chosen: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
        """Its own blocks, and the remote file's last one where that is cut shorter."""
        for index in range(len(self._known)):
            if chosen(index):
                yield index * self._map.block_bytes, self._length(index)
                if index == self._map.count - 1:
                    start, last = self._map.span(index)
                    if last + 1 - start < self._length(index):
                        yield start, last + 1 - start

    def _length(self, index: int) -> int:
        return min(self._map.block_bytes, self.size_bytes - index * self._map.block_bytes)

    def _note(self, offset: int, count: int, digest: bytes) -> None:
        index = offset // self._map.block_bytes
        if count != self._length(index):
            self._tail = digest
            return
        self._digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES] = digest
        self._known[index] = 1

    def _digest(self, index: int) -> bytes | None:
        if not self._known[index]:
            return None
        return bytes(self._digests[index * _DIGEST_BYTES : (index + 1) * _DIGEST_BYTES])


class Seeds:
    """Old files that blocks are copied from instead of fetched."""

    def __init__(self) -> None:
        self._places: dict[bytes, tuple[OldFile, int]] = {}

    def add(self, old: OldFile) -> None:
        """Use the blocks of a hashed file."""
        for digest, offset in old.digests():
            self._places.setdefault(digest, (old, offset))

    def has(self, digest: bytes) -> bool:
        """Whether a block of that SHA-1 can be copied."""
        return digest in self._places

    def copier(self, sink: PartSink) -> Copier:
        """Copies into ``sink``.

        It returns False where the file that had the block was changed since it was hashed: then none of that file's
        blocks is there any more.
        """

        def copy(digest: bytes, *, count: int, target_at: int) -> bool:
            return self._copy(sink, digest, count=count, target_at=target_at)

        return copy

    def _copy(self, sink: PartSink, digest: bytes, *, count: int, target_at: int) -> bool:
        place = self._places.get(digest)
        if place is None:
            return False
        old, offset = place
        if sink.copy(old.fd, count, source_at=offset, target_at=target_at) and old.unchanged:
            return True
        self._places = {digest: place for digest, place in self._places.items() if place[0] is not old}
        return False


def open_olds(paths: Iterable[Path], block_map: BlockMap, stack: ExitStack) -> list[OldFile]:
    """The files, each once, open as long as the stack lasts; raises ConfigError for one that cannot be read."""
    olds: list[OldFile] = []
    for path in paths:
        old = OldFile(path, block_map)
        stack.callback(old.close)
        if not any(os.path.sameopenfile(old.fd, other.fd) for other in olds):
            olds.append(old)
    return olds


def sow(session: Session, seeds: Seeds, olds: Sequence[OldFile], *, board: Board) -> None:
    """Look in old files for what the board lacks, as far as that is worth it: hashing costs time, too."""
    missing_bytes = board.left * board.map.block_bytes
    if not missing_bytes or not olds:
        return
    for old in olds:
        if not old.hashed:
            announce(session, old)
            limit_bytes = _WORTH * missing_bytes + _WORTH_ANYWAY_BYTES
            old.hash(session.stop, first=lambda index: not board.is_done(index), limit_bytes=limit_bytes)
        seeds.add(old)
    board.look_again()


def announce(session: Session, old: OldFile) -> None:
    """Tell that a large file is being hashed."""
    if old.size_bytes >= _WORTH_A_LINE_BYTES:
        session.remark(f"looking for its blocks in {old.path}")


def _within(spans: Iterator[tuple[int, int]], limit_bytes: int) -> Iterator[tuple[int, int]]:
    for offset, count in spans:
        limit_bytes -= count
        if limit_bytes < 0:
            return
        yield offset, count


def _identity(fd: int) -> tuple[int, ...]:
    told = os.fstat(fd)
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns
