"""``OUT.part``: where a download is put together, and how it becomes ``OUT``."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gateway_blocks.get.disk import allocate, copy_span, disk_errors, write_at
from gateway_blocks.get.journal import Heading, Journal, Record, fresh_path, read_journal, sync_folder
from gateway_blocks.get.model import Stopped, Unreachable
from gateway_core.errors import ConfigError

_SYNC_BYTES = 64 << 20
_SYNC_S = 5.0
_TICK_S = 0.25
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class PartFile:
    """The part file of ``target``, locked while it is open, and its journal.

    Raises ConfigError where no such file can be, Unreachable where another download has it or the disk says no.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.journal_path = target.with_name(f"{target.name}.part.journal")
        self.fd = -1
        with disk_errors(self.path):
            self.journal_path.exists()  # its name may be too long: then there is to be no part file either
            self.fd = self._open_locked()
            try:
                if not self.size_bytes:  # it gets its size after its journal was begun: this one is of an earlier file
                    self.forget()
            except BaseException:
                self.close()
                raise

    def _open_locked(self) -> int:
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            try:
                if self._lock(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _lock(self, fd: int) -> bool:
        """Whether the locked file is still the one of that name: whoever had it may just have finished."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unreachable(f"{self.path} is in the way: it is no file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unreachable(f"another download is writing {self.path}") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False

    @property
    def size_bytes(self) -> int:
        """Size of the part file now; 0 for one that was just made."""
        return os.fstat(self.fd).st_size

    def record(self) -> Record | None:
        """What its journal says, None for no journal that can be understood."""
        with disk_errors(self.journal_path):
            return read_journal(self.journal_path)

    def forget(self) -> None:
        """What it holds is not gone on with: no journal may speak for it any more."""
        with disk_errors(self.journal_path):
            if self.journal_path.exists():
                self.journal_path.unlink()
                sync_folder(self.path.parent)

    def reserve(self, size_bytes: int, *, space: bool = True) -> None:
        """Give it its final size and, with ``space``, its space. Where there is none, what there was before stays."""
        before = self.size_bytes
        with disk_errors(self.target):
            try:
                if space:
                    allocate(self.fd, size_bytes)
                else:
                    os.ftruncate(self.fd, size_bytes)
            except OSError:
                if before:
                    os.ftruncate(self.fd, min(before, size_bytes))
                else:
                    self.discard()
                raise

    def sync(self) -> None:
        """Have its bytes on the disk."""
        with disk_errors(self.path):
            os.fdatasync(self.fd)

    def publish(self) -> None:
        """Make it, synced, the target: at once and for good. The mode of a file that it replaces is kept."""
        with disk_errors(self.target):
            if self.target.exists():
                with suppress(OSError):  # some file systems have no modes
                    os.fchmod(self.fd, stat.S_IMODE(self.target.stat().st_mode))
            self.path.replace(self.target)
            sync_folder(self.target.parent)
            self.journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove it and its journal, and let go of it."""
        with disk_errors(self.path):
            self.journal_path.unlink(missing_ok=True)
            fresh_path(self.journal_path).unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was let go of."""
        return self.fd < 0

    def close(self) -> None:
        """Let go of it and of its lock; any number of times."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def sweep(target: Path) -> None:
    """Remove what an earlier download of a file that is whole has left, unless somebody is at it now."""
    part = target.with_name(f"{target.name}.part")
    journal = target.with_name(f"{target.name}.part.journal")
    if part.exists() or journal.exists():
        with suppress(ConfigError, Unreachable):
            PartFile(target).discard()


class PartSink:
    """Where verified blocks are kept: written to the part file, noted in its journal, and now and then synced.

    Syncing early also spares the end from waiting for the whole file to reach the disk. What goes wrong with that in
    the thread that does it is raised by ``check`` and ``finish``.
    """

    def __init__(
        self, part: PartFile, heading: Heading, blocks: Mapping[int, bytes], *, held: Mapping[int, bytes] | None = None
    ) -> None:
        """``blocks``, SHA-1 by number, are in place and right, ``held`` perhaps; raises Unreachable for a full disk."""
        self._part = part
        self._held = held or {}
        self._lock = threading.Lock()
        self._unsynced_bytes = 0
        self._synced_at = time.monotonic()
        self._error: BaseException | None = None
        self._ending = threading.Event()
        self._complete = False
        if blocks:
            part.sync()
        with disk_errors(part.journal_path):
            self._journal = Journal.begin(part.journal_path, heading, blocks, held=self._held)
        self._thread = threading.Thread(target=self._sync_now_and_then, name="sync", daemon=True)
        self._thread.start()

    def write(self, offset: int, piece: memoryview) -> None:
        """Put bytes in their place; they count for nothing until ``keep``."""
        with disk_errors(self._part.target):
            write_at(self._part.fd, offset, piece)
        self._unsynced_bytes += len(piece)

    def copy(self, source: int, count: int, *, source_at: int, target_at: int) -> bool:
        """Copy from the file descriptor ``source``; False where that has too few bytes."""
        with disk_errors(self._part.target):
            whole = copy_span(source, self._part.fd, count, source_at=source_at, target_at=target_at)
        self._unsynced_bytes += count
        return whole

    def keep(self, index: int, digest: bytes) -> None:
        """The block of that SHA-1 is in place."""
        with self._lock, disk_errors(self._part.journal_path):
            self._journal.keep(index, digest)

    def confirm(self, index: int) -> None:
        """A block that was held is right; blocks that are in place elsewhere are nothing to this file."""
        digest = self._held.get(index)
        if digest is not None:
            self.keep(index, digest)

    def check(self) -> None:
        """Raise what went wrong with syncing."""
        if self._error is not None:
            raise self._error

    def finish(self, stop: threading.Event) -> None:
        """Nothing more comes: wait until all is on the disk; raises Stopped once ``stop`` is set."""
        self._complete = True
        self._ending.set()
        while self._thread.is_alive():
            self._thread.join(_TICK_S)
            if stop.is_set():
                raise Stopped("stopped")
        self.check()

    def close(self) -> None:
        """Stop syncing; what is not synced is hashed again when the download is gone on with."""
        self._ending.set()
        self._thread.join(_TICK_S)
        if not self._thread.is_alive():
            self._journal.close()

    def _sync_now_and_then(self) -> None:
        try:
            while not self._ending.wait(_TICK_S):
                overdue = time.monotonic() - self._synced_at >= _SYNC_S and self._unsynced_bytes
                if overdue or self._unsynced_bytes >= _SYNC_BYTES:
                    self._sync()
            if self._complete:
                self._sync()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            self._error = error

    def _sync(self) -> None:
        self._unsynced_bytes = 0
        with self._lock:
            count = self._journal.count
        self._part.sync()
        self._synced_at = time.monotonic()
        with self._lock, disk_errors(self._part.journal_path):
            self._journal.mark(count)
