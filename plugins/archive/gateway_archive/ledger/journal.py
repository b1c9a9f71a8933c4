"""CRC-32s of one response in a file of this machine: they outlive the process, whatever ends it.

The first record of a file is the segment under way and is written over; those behind it are finished and stay. Its
owner holds a lock on it (flock(2), dropped by the kernel when a process dies), which tells the dead from the living.
A file is read while it is written to: the check of each record tells what is whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final

from gateway_archive.layout.model import Segment
from gateway_archive.ledger.segments import RECORD_BYTES, pack, pack_one, unpack
from gateway_core.observe.logs import get_logger

KEEP_DEAD_S: Final = 86_400.0
_SUFFIX: Final = ".seg"
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_TICKET = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ETAG = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)

log = get_logger("gateway.archive")


class Journal:
    """The file of one response, made at the first write, for its owner only; it is never in the way of a download.

    When the disk fails, that is logged once and nothing more is written. Raises ValueError for an id that is none.
    """

    def __init__(self, folder: Path, ticket_id: str, etag: str) -> None:
        self._place = _place(folder, ticket_id)
        self._path = self._place / f"{_checked(etag)}-{uuid.uuid4().hex}{_SUFFIX}"
        self._file = -1
        self._end = RECORD_BYTES
        self._quiet = False

    def write(self, closed: Sequence[Segment], current: Segment | None) -> None:
        """Append the finished segments and put ``current`` where the last one under way was.

        Call it before the bytes go out that it tells of. It makes system calls on the page cache, and waits for none.
        """
        if self._quiet:
            return
        try:
            if self._file < 0:
                self._open()
            if closed:
                self._put(pack(closed), self._end)
                self._end += RECORD_BYTES * len(closed)
            if current is not None:
                self._put(pack_one(current), 0)
        except OSError as error:
            self._quiet = True
            log.warning("a download's journal cannot be written", error=str(error))

    def close(self) -> None:
        """Remove the file: what it held is in the database."""
        self._quiet = True
        if self._file >= 0:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = -1

    def leave(self) -> None:
        """Let go of the file and leave it to be adopted: what it holds could not be put into the database."""
        self._quiet = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        """Make the file under another name: nobody may see it before it is locked."""
        fresh = self._place / f".{self._path.name}"
        self._file = _create(fresh)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(self._path)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise

    def _put(self, packed: bytes, offset: int) -> None:
        if os.pwrite(self._file, packed, offset) != len(packed):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_journals(folder: Path, ticket_id: str, etag: str) -> Iterator[Segment]:
    """The segments in all files about a layout, of the living and the dead; for a thread.

    They are unpacked as they are asked for. Files that cannot be read are logged and passed over. Raises ValueError for
    an id that is none.
    """
    packed = [_read(path, dead=False) or b"" for path in _journals(_place(folder, ticket_id), _checked(etag))]
    return chain.from_iterable(map(unpack, packed))


def adopt(folder: Path, ticket_id: str, etag: str) -> tuple[list[Segment], list[Path]]:
    """The segments of the dead, and their files, which are to be removed once the segments are saved; for a thread.

    Several may adopt the same file at once: it tells each of them the same. Raises as ``read_journals``.
    """
    found: list[Segment] = []
    files: list[Path] = []
    for path in _journals(_place(folder, ticket_id), _checked(etag)):
        packed = _read(path, dead=True)
        if packed is not None:
            found += unpack(packed)
            files.append(path)
    return found, files


def journaled_tickets(folder: Path) -> list[str]:
    """The ids of the tickets that have a folder here; for a thread."""
    try:
        return [place.name for place in folder.iterdir() if _TICKET.fullmatch(place.name)]
    except FileNotFoundError:
        return []


def sweep_journals(folder: Path, living_tickets: Collection[str]) -> int:
    """Remove files of the dead that are a day old or of no living ticket, and empty folders; how many files.

    For a thread. Raises OSError when the disk fails.
    """
    oldest = time.time() - KEEP_DEAD_S
    removed = 0
    for ticket_id in journaled_tickets(folder):
        place = folder / ticket_id
        for path in _files(place):
            with suppress(FileNotFoundError):
                old = ticket_id not in living_tickets or path.stat().st_mtime < oldest
                if old and _read(path, dead=True, most_bytes=0) is not None:
                    path.unlink()
                    removed += 1
        with suppress(OSError):  # mostly because it is not empty
            place.rmdir()
    return removed


def _place(folder: Path, ticket_id: str) -> Path:
    if _TICKET.fullmatch(ticket_id) is None:
        raise ValueError("not the id of a ticket")
    return folder / ticket_id


def _checked(etag: str) -> str:
    if _ETAG.fullmatch(etag) is None:
        raise ValueError("not the ETag of a layout")
    return etag


def _create(path: Path) -> int:
    """Descriptor of a new file; its folder may be swept just before it is in there."""
    path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        return os.open(path, _NEW, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.open(path, _NEW, 0o600)


def _files(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if path.suffix == _SUFFIX]
    except FileNotFoundError:
        return []


def _journals(place: Path, etag: str) -> Iterator[Path]:
    return (path for path in _files(place) if path.name.rpartition("-")[0] == etag)


def _read(path: Path, *, dead: bool, most_bytes: int = -1) -> bytes | None:
    """What is in the file; None when it is gone or cannot be read, and, for the ``dead``, while its owner lives."""
    try:
        with path.open("rb") as file:
            if dead:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that others may ask at the same time
            return file.read(most_bytes)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as error:
        log.warning("a download's journal cannot be read", error=str(error))
        return None
