"""Whether an archive that came is whole, and which files its server could not get."""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway_archive.client.model import Damaged, DiskFailed, Observer
from gateway_archive.report import REPORT_NAME
from gateway_archive.zip_records import COMMENT

_PIECE_BYTES = 1 << 20
_MOST_REPORT_BYTES = 64 << 20
_HEADING = re.compile(r"(?:(\d{1,9}) of \d+ files|Files are missing)")
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that is not in the archive, and why."""

    name: str
    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class Content:
    """``files`` that are in the archive, None for what is no archive of ours; how many are missing, those told by name.

    ``checked`` says that every file's CRC-32 holds; a tar has none.
    """

    files: int | None
    missing_count: int = 0
    missing: tuple[Missing, ...] = ()
    checked: bool = False


def verify(path: Path, kind: str, observer: Observer, *, ours: bool) -> Content:
    """Read all of the archive; ``kind`` is its media type. Raises Damaged that names the first bad entry.

    What need not be ours, as a ticket may stand for one file of somebody else, is only looked at if it is.
    """
    if kind == "application/zip":
        return _verify_zip(path, observer, ours=ours)
    if kind == "application/x-tar":
        return _verify_tar(path, observer)
    return Content(None)


def _verify_zip(path: Path, observer: Observer, *, ours: bool) -> Content:
    with _told_as_damage(), zipfile.ZipFile(path) as archive:
        if not (ours or archive.comment.startswith(COMMENT)):
            return Content(None)
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        observer.begin("checking", 0, sum(entry.file_size for entry in entries))
        report = None
        for entry in entries:
            with _told_as_damage(entry.filename), archive.open(entry) as file:
                if entry.filename == REPORT_NAME and entry is entries[-1]:
                    report = file.read(_MOST_REPORT_BYTES)
                while piece := file.read(_PIECE_BYTES):
                    observer.advance(len(piece))
    return _content(len(entries), report, checked=True)


def _verify_tar(path: Path, observer: Observer) -> Content:
    """The headers have checksums, the files have not."""
    count, last, report = 0, "", None
    size_bytes = path.stat().st_size
    with _told_as_damage(), tarfile.open(path, "r:") as archive:
        observer.begin("checking", 0, size_bytes)
        at = 0
        for member in archive:
            observer.advance(member.offset_data - at)
            at = member.offset_data
            if not member.isfile():
                continue
            count, last = count + 1, member.name
            if last == REPORT_NAME:
                report = _read(archive.extractfile(member))
    return _content(count, report if last == REPORT_NAME else None, checked=False)


def _read(file: IO[bytes] | None) -> bytes:
    return b"" if file is None else file.read(_MOST_REPORT_BYTES)


def _content(files: int, report: bytes | None, *, checked: bool) -> Content:
    text = "" if report is None else report.decode("utf-8", "replace")
    heading = _HEADING.match(text)
    if heading is None:
        return Content(files, checked=checked)
    return Content(files - 1, int(heading[1] or 1), tuple(_missing(text)), checked)


def _missing(report: str) -> Iterator[Missing]:
    """The blocks after the first line, each of a name, where from, and why."""
    for block in re.split(r"\r?\n[ \t]*\r?\n", report)[1:]:
        name, *more = [line.strip() for line in block.strip().splitlines()] or [""]
        if name and len(more) == 2:
            yield Missing(name, more[0].removeprefix("from "), more[1])


@contextmanager
def _told_as_damage(name: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DiskFailed(f"the archive cannot be read: {exc.strerror or exc}") from exc
    except _BROKEN as exc:
        raise Damaged(f"{name}: {exc}" if name else str(exc)) from exc
