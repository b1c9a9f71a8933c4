"""Files and folders into the tar.gz of a job.

A file goes in under its base name, a folder under its own with all that is below. Links and devices inside folders are
refused, since a job has nothing but files and folders; a link that is named itself stands for what it leads to.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gateway_core.errors import ConfigError
from gateway_transform.box import names
from gateway_transform.box.codes import Refused
from gateway_transform.client.model import printable

RESERVED = frozenset({"job.json", "out.log", "status.json"})
"""Names at the top that belong to the job itself."""
_COPY_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder to pack: ``name`` in the archive, ``size_bytes`` when it was looked at, None for a folder."""

    path: Path
    name: str
    size_bytes: int | None


def plan(paths: Sequence[Path]) -> tuple[Entry, ...]:
    """What is to be packed, in order; raises ConfigError that names the first path that cannot be."""
    entries: list[Entry] = []
    seen: dict[str, Path] = {}
    for path in paths:
        name = path.resolve().name if path.name in {"", ".."} else path.name
        for entry in _below(path, name, named=True):
            _check_name(entry)
            # Not only where files are kept without regard to case: the server refuses such pairs everywhere.
            other = seen.setdefault(names.folded(entry.name), entry.path)
            if other is not entry.path:
                raise ConfigError(f"{entry.path} and {other} would have the same name in the job: {entry.name}")
            entries.append(entry)
    return tuple(entries)


def total_bytes(entries: Sequence[Entry]) -> int:
    """Of all files."""
    return sum(entry.size_bytes or 0 for entry in entries)


def pack(entries: Sequence[Entry], job_json: bytes, out: BinaryIO, *, packed: Callable[[int], None]) -> None:
    """Write the tar.gz to ``out``; ``packed`` hears how many bytes of files are in so far.

    Raises ConfigError for a file that cannot be read, or that changed; OSError when ``out`` cannot be written.
    """
    zipped, done = _Gzip(out), 0
    zipped.write(_header("job.json", len(job_json)))
    zipped.write(job_json + _padding(len(job_json)))
    for entry in entries:
        zipped.write(_header(entry.name, entry.size_bytes))
        if entry.size_bytes is None:
            continue
        for piece in _content(entry, entry.size_bytes):
            zipped.write(piece)
            done += len(piece)
            packed(done)
        zipped.write(_padding(entry.size_bytes))
    zipped.write(bytes(2 * tarfile.BLOCKSIZE))
    zipped.close()


def _below(path: Path, name: str, *, named: bool = False) -> Iterator[Entry]:
    """The path itself, then what is in it; when it was ``named``, a link stands for what it leads to."""
    try:
        found = path.stat() if named else path.lstat()
        if stat.S_ISREG(found.st_mode):
            yield Entry(path, name, found.st_size)
            return
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{path} is {_kind(found.st_mode)}; a job takes files and folders")
        yield Entry(path, name, None)
        inner = sorted(child.name for child in path.iterdir())
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    for child in inner:
        yield from _below(path / child, f"{name}/{child}")


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _check_name(entry: Entry) -> None:
    if not entry.name:
        raise ConfigError(f"{entry.path} has no name to be packed under; name what is in it")
    if entry.name.casefold() in RESERVED:
        raise ConfigError(f"{entry.path}: the name {entry.name} belongs to the job itself; rename the file")
    try:
        names.checked(os.fsencode(entry.name))
    except Refused as exc:
        raise ConfigError(f"{printable(str(entry.path))}: {exc.message}; rename it") from exc


def _header(name: str, size_bytes: int | None) -> bytes:
    """Of no owner and no time: equal files give an equal archive."""
    header = tarfile.TarInfo(name)
    header.type = tarfile.DIRTYPE if size_bytes is None else tarfile.REGTYPE
    header.mode = 0o755 if size_bytes is None else 0o644
    header.size = size_bytes or 0
    return header.tobuf(tarfile.PAX_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


def _content(entry: Entry, size_bytes: int) -> Iterator[bytes]:
    """All of the file, as much as was promised; never waits for a FIFO's other end."""
    changed = ConfigError(f"{entry.path} changed while it was packed")
    try:
        with os.fdopen(os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
                raise changed
            while size_bytes:
                piece = file.read(min(_COPY_BYTES, size_bytes))
                if not piece:
                    raise changed
                yield piece
                size_bytes -= len(piece)
    except OSError as exc:
        raise ConfigError(f"{entry.path}: {exc.strerror}") from exc


class _Gzip:
    """A gzip file without name and time."""

    def __init__(self, out: BinaryIO) -> None:
        from isal import isal_zlib

        self._out = out
        self._packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)

    def write(self, data: bytes) -> None:
        """Raises OSError, as ``close`` does."""
        self._out.write(self._packer.compress(data))

    def close(self) -> None:
        """Write the end."""
        self._out.write(self._packer.flush())
        self._out.flush()
