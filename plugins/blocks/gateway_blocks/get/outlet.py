"""Where a stream comes out: blocks arrive in any order and leave in order."""

from __future__ import annotations

import io
import os
import select
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gateway_blocks.get.board import BlockMap, length_of
from gateway_blocks.get.disk import disk_errors, write_at
from gateway_blocks.get.model import GetError

MEMORY_BYTES = 32 << 20
"""Blocks on their way are kept in memory up to this size; larger ones, two at least, in a temporary file."""
_SPOOL_BYTES = 512 << 20
_PIECE_BYTES = 1 << 20
_GLANCE_S = 0.1


class OutputFailed(GetError):
    """The stream cannot go on: nobody takes it any more, or what has left is no longer what the server has."""

    type, title = "output", "Output failed"


class Outlet:
    """The target of a stream. ``write`` blocks as long as the reader does."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._fd = _file_descriptor(target)
        with _output_errors():
            target.flush()

    def write(self, data: memoryview) -> None:
        """Write all; raises OutputFailed.

        Straight to the file descriptor where there is one: a buffered writer that a thread is stuck in could not even
        be closed.
        """
        with _output_errors():
            while data:
                done = self._target.write(data) if self._fd is None else _write_some(self._fd, data)
                data = data[done:]


class Sent:
    """The blocks that have left, and their SHA-1."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.block_bytes = 0
        self.size_bytes = 0

    @property
    def count(self) -> int:
        """Number of blocks that have left."""
        return len(self.digests)


class OrderedSink:
    """Keeps blocks until all before them have left; a thread of its own lets them out.

    There is room for ``slots`` blocks from the first that has not left. ``reach`` is told up to which block there is
    room: a thread that writes beyond that waits.
    """

    def __init__(self, outlet: Outlet, block_map: BlockMap, sent: Sent, *, reach: Callable[[int], object]) -> None:
        self._outlet, self._map, self._sent, self._reach = outlet, block_map, sent, reach
        self._slots = _slots(block_map)
        self._room = _room(self._slots * block_map.block_bytes)
        self._ready: dict[int, bytes] = {}
        self._changed = threading.Condition()
        self._ending = False
        self._error: BaseException | None = None
        sent.block_bytes = block_map.block_bytes
        reach(sent.count + self._slots)
        self._thread = threading.Thread(target=self._let_out, name="output", daemon=True)
        self._thread.start()

    def write(self, offset: int, piece: memoryview) -> None:
        """Put bytes in their place, once there is room for them."""
        index, within = divmod(offset, self._map.block_bytes)
        if index >= self._sent.count + self._slots:
            with self._changed:
                while index >= self._sent.count + self._slots and not self._ending:
                    self.check()
                    self._changed.wait(_GLANCE_S)
        self._room.write(index % self._slots * self._map.block_bytes + within, piece)

    def keep(self, index: int, digest: bytes) -> None:
        """The block may leave."""
        with self._changed:
            self._ready[index] = digest
            self._changed.notify_all()

    def confirm(self, index: int) -> None:
        """What has left was compared before."""

    def check(self) -> None:
        """Raise what went wrong with letting out."""
        if self._error is not None:
            raise self._error

    def finish(self, stop: threading.Event) -> bool:
        """Wait until all blocks have left; False when ``stop`` was set before."""
        while self._thread.is_alive() and not stop.is_set():
            self._thread.join(_GLANCE_S)
        self.check()
        return not self._thread.is_alive()

    def close(self, stop: threading.Event) -> None:
        """Let out nothing more; waits for the block that is leaving, but not once ``stop`` is set."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        while self._thread.is_alive() and not stop.is_set():
            self._thread.join(_GLANCE_S)
        if not self._thread.is_alive():
            self._room.close()

    def _let_out(self) -> None:
        try:
            while self._sent.count < self._map.count:
                index = self._sent.count
                with self._changed:
                    while index not in self._ready and not self._ending:
                        self._changed.wait()
                    if self._ending:
                        return
                    digest = self._ready.pop(index)
                count = length_of(self._map, index)
                for piece in self._room.pieces(index % self._slots * self._map.block_bytes, count):
                    self._outlet.write(piece)
                with self._changed:
                    self._sent.digests.append(digest)
                    self._sent.size_bytes += count
                    self._changed.notify_all()
                self._reach(self._sent.count + self._slots)
        except BaseException as error:  # noqa: BLE001 - handed to the threads that wait for it
            self._error = error


class _Memory:
    """Room in memory."""

    def __init__(self, size_bytes: int) -> None:
        self._bytes = memoryview(bytearray(size_bytes))

    def write(self, offset: int, piece: memoryview) -> None:
        """Put bytes there."""
        self._bytes[offset : offset + len(piece)] = piece

    def pieces(self, offset: int, count: int) -> Iterator[memoryview]:
        """Bytes from there."""
        yield self._bytes[offset : offset + count]

    def close(self) -> None:
        """Nothing is held."""


class _Spool:
    """Room in a temporary file without a name."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir())
        with disk_errors(self._folder):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by ``close``

    def write(self, offset: int, piece: memoryview) -> None:
        """Put bytes there."""
        with disk_errors(self._folder):
            write_at(self._file.fileno(), offset, piece)

    def pieces(self, offset: int, count: int) -> Iterator[memoryview]:
        """Bytes from there."""
        end = offset + count
        while offset < end:
            with disk_errors(self._folder):
                data = os.pread(self._file.fileno(), min(_PIECE_BYTES, end - offset), offset)
            yield memoryview(data)
            offset += len(data)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


def _slots(block_map: BlockMap) -> int:
    fitting = MEMORY_BYTES // block_map.block_bytes
    if fitting < 2:
        fitting = max(2, _SPOOL_BYTES // block_map.block_bytes)
    return max(1, min(block_map.count, fitting))


def _room(size_bytes: int) -> _Memory | _Spool:
    return _Memory(size_bytes) if size_bytes <= MEMORY_BYTES else _Spool()


def _write_some(fd: int, data: memoryview) -> int:
    try:
        return os.write(fd, data[:_PIECE_BYTES])
    except BlockingIOError:  # whoever opened it made it non-blocking
        select.select([], [fd], [], _GLANCE_S)
        return 0


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise OutputFailed("nobody reads the output any more") from error
    except (OSError, ValueError) as error:  # ValueError: it was closed
        raise OutputFailed(f"the output cannot be written: {error}") from error


def _file_descriptor(target: BinaryIO) -> int | None:
    """Of plain files and pipes alone: others (compressing ones) do more than write to theirs."""
    raw = target.raw if isinstance(target, io.BufferedWriter) else target
    return raw.fileno() if isinstance(raw, io.FileIO) else None
