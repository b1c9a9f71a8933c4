"""Unpack a tar.gz from a stranger: regular files and folders below one folder, or a refusal that says why.

An own reader, since tarfile's filters have been bypassed again and again, and since it reads headers of any length
into memory. Links do not exist here, so no path can lead outside.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from gateway_transform.box import names, tar_headers
from gateway_transform.box.codes import Refused
from gateway_transform.box.gunzip import Caps, Gunzip, Readable
from gateway_transform.box.tar_headers import BLOCK_BYTES, Header

__all__ = ["Caps", "Facts", "Folder", "Member", "Readable", "Refused", "Unpacked", "members", "unpack"]

_ZEROS = bytes(BLOCK_BYTES)


class Member(NamedTuple):
    """A file or folder of an archive. ``chunks`` are the file's bytes, to be had until the next member is asked for."""

    path: str
    is_dir: bool
    size: int
    chunks: Iterator[bytes]


class Facts(NamedTuple):
    """Size in bytes and hex SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What is in the folder now: files by path, and their bytes together."""

    files: dict[str, Facts] = field(default_factory=dict)
    bytes: int = 0


def members(stream: Readable, caps: Caps) -> Iterator[Member]:
    """Files and folders of the tar.gz in ``stream``, one at a time, without the archive's root.

    The archive was whole and sound only if the iterator ends without Refused.
    """
    source = Gunzip(stream, caps)
    taken = _Taken(caps)
    while (entry := _next_entry(source)) is not None:
        header, raw, size = entry
        is_dir = header.is_folder(raw)
        path = names.checked(raw)
        if is_dir and size:
            raise Refused("bad_size", f"{path!a} is a folder with {size} bytes")
        if size > source.left:
            raise Refused("too_big", f"{path!a} would have {size} bytes, more than {source.left}")
        if not path and not is_dir:
            raise Refused("bad_header", "a file without a name")
        if path:
            taken.add(path, is_dir=is_dir)
            chunks = _content(source, size)
            yield Member(path, is_dir, size, chunks)
            for _ in chunks:
                pass
    source.finish()


def _next_entry(source: Gunzip) -> tuple[Header, bytes, int] | None:
    """The next member's header, true name and true size, after those that only describe it; None at the end."""
    name: bytes | None = None
    size: bytes | None = None
    while True:
        block = source.exactly(BLOCK_BYTES)
        if block == _ZEROS:
            if name is not None or size is not None or source.exactly(BLOCK_BYTES) != _ZEROS:
                raise Refused("bad_header", "an end in the middle of the archive")
            return None
        header = tar_headers.parse(block)
        if header.kind == tar_headers.LONG_NAME:
            found = {"path": tar_headers.long_name(_payload(source, header))}
        elif header.kind in {tar_headers.PAX, tar_headers.PAX_GLOBAL}:
            found = tar_headers.pax_records(_payload(source, header))
        else:
            return (
                header,
                header.name if name is None else name,
                header.size if size is None else tar_headers.pax_size(header, size),
            )
        if found and (header.kind == tar_headers.PAX_GLOBAL or name is not None or size is not None):
            raise Refused("bad_header", "two headers that name or size a member, or one for all members")
        name, size = found.get("path", name), found.get("size", size)


def _payload(source: Gunzip, header: Header) -> bytes:
    """What follows a header that describes the next member."""
    if header.size > tar_headers.MAX_PAYLOAD_BYTES:
        raise Refused("header_too_big", f"a header of {header.size} bytes")
    return source.exactly(header.size + -header.size % BLOCK_BYTES)[: header.size]


def _content(source: Gunzip, size: int) -> Iterator[bytes]:
    left = size
    while left:
        data = source.some(left)
        left -= len(data)
        yield data
    if padding := -size % BLOCK_BYTES:
        source.exactly(padding)


class _Taken:
    """The paths of an archive so far, folders included that are only in files' paths; each counts."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._kinds: dict[str, tuple[str, str]] = {}

    def add(self, path: str, *, is_dir: bool) -> None:
        """Raises Refused: ``duplicate``, ``file_and_folder``, ``too_many_files``."""
        at = path.find("/")
        while at >= 0:
            self._add(path[:at], "implied")
            at = path.find("/", at + 1)
        self._add(path, "folder" if is_dir else "file")
        if len(self._kinds) > self._caps.files:
            raise Refused("too_many_files", f"more than {self._caps.files} files and folders")

    def _add(self, path: str, kind: str) -> None:
        key = names.folded(path) if self._caps.fold else path
        there, before = self._kinds.setdefault(key, (path, ""))
        if there != path:
            raise Refused("duplicate", f"{there!a} and {path!a} are the same name on some systems")
        if before and "file" in {kind, before} and kind != before:
            raise Refused("file_and_folder", f"{path!a} is a file and a folder")
        if before == kind != "implied":
            raise Refused("duplicate", f"{path!a} comes twice")
        if before in {"", "implied"}:
            self._kinds[key] = (path, kind)


def unpack(stream: Readable, folder_fd: int, caps: Caps) -> Unpacked:
    """Unpack the tar.gz in ``stream`` below an open folder; what is there already is never written to.

    Files get the mode 0600, folders 0700, whatever the archive says. Raises Refused and OSError; what was unpacked
    until then is left there.
    """
    files: dict[str, Facts] = {}
    with Folder(folder_fd) as folder:
        for member in members(stream, caps):
            if member.is_dir:
                folder.make(member.path)
            else:
                files[member.path] = folder.write(member)
    return Unpacked(files, sum(facts.size for facts in files.values()))


class Folder:
    """Makes files and folders below an open folder, which stays the caller's; follows no links."""

    def __init__(self, folder_fd: int) -> None:
        self._root = folder_fd
        self._path = ""
        self._fd = folder_fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def make(self, path: str) -> None:
        """The folder ``path`` (already checked), and those above it."""
        self._enter(path)

    def write(self, member: Member) -> Facts:
        """A new file with the member's bytes. Raises OSError, and Refused from the member."""
        parent, _, name = member.path.rpartition("/")
        self._enter(parent)
        digest = hashlib.sha256()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            for chunk in member.chunks:
                digest.update(chunk)
                written = os.write(fd, chunk)
                while written < len(chunk):
                    written += os.write(fd, memoryview(chunk)[written:])
        finally:
            os.close(fd)
        return Facts(member.size, digest.hexdigest())

    def _enter(self, path: str) -> None:
        """Open the folder ``path`` from the root, part by part, and keep it for the next file."""
        if path == self._path:
            return
        self._leave()
        for part in path.split("/") if path else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=self._fd)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            self._leave()
            self._fd = below
        self._path = path

    def _leave(self) -> None:
        if self._fd != self._root:
            os.close(self._fd)
        self._path, self._fd = "", self._root
