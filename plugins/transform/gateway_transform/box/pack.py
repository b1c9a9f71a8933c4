"""Pack what a job has left in its folder into the result: a tar.gz that ``untar`` takes back.

Order of members: ``job.json`` as it came, the files of the folder, then ``out.log`` and ``status.json``, which tell of
the files before them. Nothing is followed, nothing special is packed, memory stays small for any size.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway_transform.box import names
from gateway_transform.box.codes import Refused
from gateway_transform.box.untar import Facts

OWN_NAMES = frozenset({"job.json", "out.log", "status.json"})
"""Members at the root that are never taken from the folder."""

_LEVEL = 4
_CHUNK_BYTES = 256 << 10
_NAMES_CHARS = 32 << 20
_SKIPPED_SHOWN = 100
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class PackCaps:
    """What a result may hold: bytes of its files, and files and folders."""

    bytes: int
    files: int


@dataclass(slots=True)
class Tree:
    """What was packed of the folder: files by path; and what was left out, ``path: why``, the first hundred of it."""

    files: dict[str, Facts] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    skipped_count: int = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """The result's size and hex SHA-256, and what of the folder is in it."""

    size: int
    sha256: str
    tree: Tree


def pack(
    folder_fd: int | None,
    out_fd: int,
    caps: PackCaps,
    *,
    job_json: bytes | None,
    last: Callable[[Tree], Iterator[tuple[str, bytes]]],
) -> Packed:
    """Write the result to ``out_fd``; ``last`` is given what was packed and yields the members that follow.

    ``folder_fd`` None packs no files. Raises OSError when the result cannot be written.
    """
    writer = _TarWriter(out_fd)
    if job_json is not None:
        writer.add_bytes("job.json", job_json)
    walk = _Walk(writer, caps)
    if folder_fd is not None:
        walk.folder(folder_fd, "")
    for name, data in last(walk.tree):
        writer.add_bytes(name, data)
    writer.finish()
    return Packed(writer.size, writer.digest.hexdigest(), walk.tree)


class _TarWriter:
    """A tar.gz in the making. Times are the files', owners nobody's, and gzip's header has no time (RFC 1952 2.3)."""

    def __init__(self, out_fd: int) -> None:
        self._fd = out_fd
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self._count = 0
        self.digest = hashlib.sha256()
        self.size = 0

    def add_bytes(self, name: str, data: bytes) -> None:
        """A file from memory."""
        self._header(name, len(data), 0)
        self._put(data)
        self._pad(tarfile.BLOCKSIZE)

    def add_folder(self, path: str, mtime: float) -> None:
        """A folder, without what is in it."""
        self._header(path, 0, mtime, kind=tarfile.DIRTYPE)

    def add_file(self, path: str, fd: int, status: os.stat_result) -> Facts:
        """An open regular file, as long as ``status`` says: cut, or filled with zeros, should it have changed."""
        self._header(path, status.st_size, status.st_mtime)
        digest = hashlib.sha256()
        left = status.st_size
        while left:
            want = min(left, _CHUNK_BYTES)
            data = os.read(fd, want) or bytes(want)
            digest.update(data)
            self._put(data)
            left -= len(data)
        self._pad(tarfile.BLOCKSIZE)
        return Facts(status.st_size, digest.hexdigest())

    def finish(self) -> None:
        """Two blocks of zeros and the end of the record."""
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._pad(tarfile.RECORDSIZE)
        self._out(self._deflate.flush())

    def _header(self, path: str, size: int, mtime: float, *, kind: bytes = tarfile.REGTYPE) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.size, info.mtime = kind, size, int(mtime)
        info.mode = 0o700 if kind == tarfile.DIRTYPE else 0o600
        self._put(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))

    def _put(self, data: bytes) -> None:
        self._count += len(data)
        self._out(self._deflate.compress(data))

    def _pad(self, multiple: int) -> None:
        self._put(bytes(-self._count % multiple))

    def _out(self, data: bytes) -> None:
        if not data:
            return
        self.digest.update(data)
        self.size += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


class _Walk:
    """Takes a folder's files into the archive, sorted by name, as long as the caps allow."""

    def __init__(self, writer: _TarWriter, caps: PackCaps) -> None:
        self._writer = writer
        self._bytes_left = caps.bytes
        self._files_left = caps.files
        self._names_left = _NAMES_CHARS
        self._folders: set[str] = set()
        self.tree = Tree()

    def folder(self, fd: int, before: str) -> None:
        """What is in the open folder whose path, with a slash at its end, is ``before``."""
        for name in sorted(os.listdir(fd)):
            path = before + names.written(name)
            if path in OWN_NAMES:
                continue
            if why := self._one(fd, name, path):
                self._skip(f"{path}: {why}")

    def _one(self, fd: int, name: str, path: str) -> str:
        """Take one entry of the folder ``fd``; the answer is why not, or empty."""
        try:
            names.checked(path.encode())
            there = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISREG(there.st_mode) and not stat.S_ISDIR(there.st_mode):
                return _KINDS.get(stat.S_IFMT(there.st_mode), "a special file")
            below = os.open(name, _OPEN, dir_fd=fd)
        except Refused as error:
            return error.message
        except OSError as error:
            return error.strerror or "cannot be read"
        try:
            return self._take(below, path)
        finally:
            os.close(below)

    def _take(self, fd: int, path: str) -> str:
        status = os.fstat(fd)
        is_dir = stat.S_ISDIR(status.st_mode)
        if path in self.tree.files or path in self._folders:
            return "another file is written by this name"
        if not self._files_left or len(path) > self._names_left:
            return "too many files"
        if not is_dir and (not stat.S_ISREG(status.st_mode) or status.st_size > self._bytes_left):
            return "beyond the limit on bytes"
        self._files_left -= 1
        self._names_left -= len(path)
        if is_dir:
            self._folders.add(path)
            self._writer.add_folder(path, status.st_mtime)
            self.folder(fd, path + "/")
        else:
            self._bytes_left -= status.st_size
            self.tree.files[path] = self._writer.add_file(path, fd, status)
        return ""

    def _skip(self, text: str) -> None:
        self.tree.skipped_count += 1
        if len(self.tree.skipped) < _SKIPPED_SHOWN:
            self.tree.skipped.append(text)


_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
