"""``FILE.part`` and, beside it, ``FILE.part.json``: what has come, of which ticket and version, whatever ends it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from gateway_archive.client.model import DiskFailed, Version, printable, size_text
from gateway_core.errors import ConfigError

FORMAT = "gateway-archive-part/1"
SUFFIX, RECORD_SUFFIX = ".part", ".part.json"
_SYNC_BYTES = 256 << 20
_MOST_RECORD_BYTES = 64 << 10
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_WRONG_PLACE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
    | {errno.ENAMETOOLONG, errno.EINVAL}
)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell an OSError about ``path`` as ConfigError where another path is needed, else as DiskFailed."""
    try:
        yield
    except OSError as error:
        text = printable(f"{path}: {(error.strerror or str(error)).lower()}")
        raise (ConfigError(text) if error.errno in _WRONG_PLACE else DiskFailed(text)) from error


@dataclass(frozen=True, slots=True)
class Record:
    """What the part file is of.

    ``fingerprint`` is the order's; ``synced_bytes`` are surely on the disk, those after them only while the machine
    runs without a break since ``boot``. ``total_bytes`` is None until somebody knows them: the server, or the end.
    """

    fingerprint: str
    server: str
    ticket: str
    format: str
    kind: str
    etag: str | None = None
    total_bytes: int | None = None
    synced_bytes: int = 0
    boot: str = ""

    @property
    def version(self) -> Version:
        """Which bytes they are."""
        return Version(self.etag, self.total_bytes)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What bytes a call is about: those of its order, or of a ticket that it names."""

    fingerprint: str
    server: str
    format: str
    ticket: str | None = None

    def fits(self, record: Record) -> bool:
        """Whether the bytes of ``record`` are such."""
        named = (record.server, record.format, record.ticket) == (self.server, self.format, self.ticket)
        return named or record.fingerprint == self.fingerprint


def read_record(path: Path) -> Record | None:
    """The record in that file; None where there is none that can be understood."""
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(_MOST_RECORD_BYTES))
        if told.pop("record") != FORMAT:
            return None
        record = Record(**told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    fits = isinstance(record.ticket, str) and isinstance(record.synced_bytes, int) and isinstance(record.kind, str)
    etag_fits = record.etag is None or (
        isinstance(record.etag, str) and record.etag.isascii() and record.etag.isprintable()
    )
    return record if fits and etag_fits and isinstance(record.total_bytes, int | None) else None


class Part:
    """The part file of ``target``, made where there is none, locked while it is open.

    With ``new``, one that is there is a FileExistsError. Everything raises DiskFailed, and ConfigError where another
    path must be given.
    """

    def __init__(self, target: Path, *, new: bool = False) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}{SUFFIX}")
        self.record_path = target.with_name(f"{target.name}{RECORD_SUFFIX}")
        self._unsynced_bytes = 0
        self._fd = self._open_locked(new=new)
        self.record = read_record(self.record_path)
        self.done_bytes = os.fstat(self._fd).st_size
        if self.record is None and self.done_bytes:
            self.close()
            raise ConfigError(printable(f"{self.path} is in the way, and not of this command"))
        if self.record is not None:
            self._cut_to_what_is_sure(self.record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; an empty one is removed."""
        if self._fd >= 0:
            with suppress(OSError):
                if not os.fstat(self._fd).st_size and os.fstat(self._fd).st_nlink:
                    self.path.unlink()
                    self.record_path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    @property
    def version(self) -> Version | None:
        """Of which version its bytes are."""
        return None if self.record is None else self.record.version

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        record = self.record
        return record is not None and self.done_bytes == record.total_bytes

    def begin(self, record: Record) -> None:
        """Empty it for bytes of that record."""
        with disk_errors(self.path):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.done_bytes = self._unsynced_bytes = 0
        self._write_record(replace(record, synced_bytes=0, boot=_boot()))
        self._check_space(record.total_bytes or 0)

    def forget(self) -> None:
        """What it holds is not gone on with."""
        with disk_errors(self.path):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.done_bytes = 0

    def disown(self) -> None:
        """What it holds is of something else."""
        self.forget()
        self.record = None

    def write(self, piece: bytes) -> None:
        """Put bytes at its end."""
        with disk_errors(self.path):
            view = memoryview(piece)
            while view:
                view = view[os.write(self._fd, view) :]
        self.done_bytes += len(piece)
        self._unsynced_bytes += len(piece)
        if self._unsynced_bytes >= _SYNC_BYTES:
            self._sync()

    def finish(self) -> None:
        """All has come; it is on the disk when this returns."""
        assert self.record is not None
        self._sync(complete=True)

    def publish(self, *, overwrite: bool) -> Path:
        """Make it the target, or without ``overwrite`` the first free name like it; returns that path."""
        with disk_errors(self.target):
            os.fsync(self._fd)  # an earlier call may have been killed before it came to that
            if overwrite:
                path = self.target
                self.path.replace(path)
            else:
                path = self._publish_beside()
            _sync_folder(path.parent)
            self.record_path.unlink(missing_ok=True)
        return path

    def _publish_beside(self) -> Path:
        for path in free_names(self.target):
            try:
                os.link(self.path, path, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError:  # a file system without links
                if path.exists():
                    continue
                self.path.replace(path)
                return path
            self.path.unlink()
            return path
        raise AssertionError  # pragma: no cover - there is always another number

    def _open_locked(self, *, new: bool) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_EXCL if new else 0)
        while True:
            try:
                fd = os.open(self.path, flags, 0o666)
            except FileExistsError:
                raise
            except OSError:
                with disk_errors(self.path):
                    raise
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
            raise ConfigError(printable(f"{self.path} is in the way: it is no file"))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DiskFailed(f"another download is writing {self.path}") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise DiskFailed(f"{self.path} cannot be locked") from error
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat(follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _cut_to_what_is_sure(self, record: Record) -> None:
        """Without what may have been lost when the machine went down, and what can be of no use."""
        sure = self.done_bytes
        if not record.boot or record.boot != _boot():
            sure = min(sure, record.synced_bytes)
        if record.total_bytes is not None and sure > record.total_bytes:
            sure = 0
        with disk_errors(self.path):
            os.ftruncate(self._fd, sure)
            os.lseek(self._fd, sure, os.SEEK_SET)
        self.done_bytes = sure

    def _check_space(self, size_bytes: int) -> None:
        system = os.fstatvfs(self._fd)
        free = system.f_bavail * system.f_frsize
        if size_bytes > free:
            raise DiskFailed(f"{self.path} needs {size_text(size_bytes)}, and {size_text(free)} are free there")

    def _sync(self, *, complete: bool = False) -> None:
        assert self.record is not None
        with disk_errors(self.path):
            os.fsync(self._fd)
        self._unsynced_bytes = 0
        total = self.done_bytes if complete else self.record.total_bytes
        known = replace(self.record, synced_bytes=self.done_bytes, total_bytes=total)
        self._write_record(known)

    def _write_record(self, record: Record) -> None:
        """For its owner alone: whoever knows the ticket may download."""
        fresh = self.record_path.with_name(f"{self.record_path.name}.new")
        data = json.dumps({"record": FORMAT, **asdict(record)}).encode()
        with disk_errors(self.record_path):
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            fresh.replace(self.record_path)
        self.record = record


def free_names(path: Path) -> Iterator[Path]:
    """``path``, then ``path (2)``, ``path (3)`` and so on, the number before the last suffix, without those taken."""
    number = 1
    while True:
        found = path if number == 1 else path.with_name(f"{path.stem} ({number}){path.suffix}")
        if not os.path.lexists(found):
            yield found
        number += 1


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems cannot
            os.fsync(fd)
    finally:
        os.close(fd)


def _boot() -> str:
    """Tells this run of the machine from others; empty where it does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
