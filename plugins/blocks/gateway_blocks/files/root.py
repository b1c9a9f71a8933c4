"""The one door to the folder that is served: nothing outside of it is ever opened, whatever happens meanwhile.

Paths are resolved by the kernel on the root's descriptor, then everything (kind, size, bytes) is asked of the very
descriptor that came back: there is no moment between a check and its use.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFDIR, S_IFMT, S_IFREG
from types import TracebackType
from typing import Final, Literal, Self

from gateway_blocks.files import openat2
from gateway_blocks.files.identity import Identity
from gateway_blocks.files.openat2 import Opener
from gateway_blocks.files.paths import decode_name, encode_name
from gateway_core import ConfigError, Forbidden, NotFound, Unavailable
from gateway_core.errors import HttpError, UriTooLong

Level = Literal["openat2", "walk"]
"""How paths are kept inside: by the kernel, or one name at a time with every symlink refused."""

# O_NONBLOCK: a FIFO without a writer must not hold a thread; O_NOCTTY: nor a terminal become ours
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_NAMES: Final = frozenset({"", ".", ".."})
_ABSENT: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENXIO, errno.ENODEV, errno.EINVAL, errno.EILSEQ},
)
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def refusal(error: OSError) -> HttpError:
    """What a failed open or read is told as: NotFound, Forbidden, UriTooLong, else Unavailable (try again later)."""
    if error.errno in _ABSENT:
        return NotFound()
    if error.errno in _DENIED:
        return Forbidden()
    if error.errno == errno.ENAMETOOLONG:
        return UriTooLong()
    return Unavailable(os.strerror(error.errno or errno.EIO))


class _Opened:
    """A descriptor and its owner. The last reference closes it too: an open in a thread may have lost its waiter."""

    __slots__ = ("fd", "names", "stat")

    def __init__(self, fd: int, stat: os.stat_result, names: tuple[str, ...]) -> None:
        self.fd = fd
        self.stat = stat
        self.names = names

    def close(self) -> None:
        """Gives the descriptor back; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class OpenFile(_Opened):
    """A regular file open for reading: ``stat`` is of ``fd`` as it was opened, ``names`` are those asked for.

    Read at offsets only: duplicates share the position.
    """

    __slots__ = ()

    @property
    def identity(self) -> Identity:
        """Which version of the file it is."""
        return Identity.of(self.stat)

    def dup(self) -> OpenFile:
        """The same open file for somebody who closes it on his own; raises Unavailable without descriptors."""
        try:
            return OpenFile(os.dup(self.fd), self.stat, self.names)
        except OSError as error:
            raise refusal(error) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a folder's listing; of a symlink, what it leads to. Folders have no size."""

    name: str
    folder: bool
    size_bytes: int
    mtime_ns: int
    identity: Identity | None = None
    """Of a file, as it was opened for the listing."""


class OpenFolder(_Opened):
    """A folder open for listing."""

    __slots__ = ("_root",)

    def __init__(self, fd: int, stat: os.stat_result, names: tuple[str, ...], *, root: Root) -> None:
        super().__init__(fd, stat, names)
        self._root = root

    def entries(self) -> list[Entry]:
        """What ``Root.open`` would open here now, folders first, by name without case. Blocks.

        Whatever it would refuse is left out, except for want of descriptors or memory: then Unavailable, since half a
        listing would pass for a whole one.
        """
        try:
            with os.scandir(self.fd) as found:
                entries = [entry for item in found if (entry := self._entry(item)) is not None]
        except OSError as error:
            raise refusal(error) from error
        return sorted(entries, key=lambda entry: (not entry.folder, entry.name.casefold(), entry.name))

    def _entry(self, item: os.DirEntry[str]) -> Entry | None:
        name = decode_name(os.fsencode(item.name))
        try:
            if not (item.is_symlink() or item.is_file(follow_symlinks=False) or item.is_dir(follow_symlinks=False)):
                return None
            opened = self._root.try_open((*self.names, name))
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            return None
        if opened is None:
            return None
        with opened:
            folder = isinstance(opened, OpenFolder)
            if folder:
                return Entry(name, folder=True, size_bytes=0, mtime_ns=opened.stat.st_mtime_ns)
            found = Identity.of(opened.stat)
            return Entry(name, folder=False, size_bytes=found.size_bytes, mtime_ns=found.mtime_ns, identity=found)


class Root:
    """The folder that is served, held by its descriptor from start to end.

    With ``level`` openat2 symlinks work as long as they are relative and stay inside; an absolute one is refused even
    if it points back inside. With walk, where the kernel or a sandbox has no openat2, all symlinks are refused. Mounts
    below the root belong to it. A hard link is the file itself, so only its owner may write into the root. When the
    folder is replaced by another of its name, the old one is served until the next start.
    """

    def __init__(self, path: Path, *, level: Level | None = None) -> None:
        """Opens ``path``; raises ConfigError where it is no folder or cannot be read, or ``level`` cannot be had."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"BLOCKS__ROOT: {path} is no folder that can be read: {reason}") from error
        self._cached: Opener | None = None
        if level != "walk" and openat2.works(self._fd):
            self.level: Level = "openat2"
            self._opener = openat2.opener(_FLAGS)
            if openat2.caches(self._fd):
                self._cached = openat2.cached_opener(_FLAGS)
        elif level == "openat2":
            self.close()
            raise ConfigError("openat2 is not there: Linux before 5.6, or a sandbox that refuses it")
        else:
            self.level = "walk"
            self._opener = _walk

    def close(self) -> None:
        """Ends the serving; call it when nobody opens any more. What is open stays open."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def still_there(self) -> bool:
        """Whether the folder of that path is still the one that is served. Blocks.

        Raises NotFound when there is none any more, Forbidden and Unavailable when it cannot be looked at.
        """
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except OSError as error:
            raise refusal(error) from error

    def open(self, names: tuple[str, ...], *, folder: bool = False) -> OpenFile | OpenFolder:
        """Opens what is at ``names``, only if it is a folder with ``folder``. Blocks: call it in a thread.

        Raises NotFound (not there, outside, neither file nor folder), Forbidden (not for this process), UriTooLong
        and Unavailable (no descriptors left, the disk fails, another process holds a lease).
        """
        try:
            opened = self.try_open(names)
        except OSError as error:
            raise refusal(error) from error
        if opened is None:
            raise NotFound
        if folder and isinstance(opened, OpenFile):
            opened.close()
            raise NotFound
        return opened

    def open_cached(self, names: tuple[str, ...], *, folder: bool = False) -> OpenFile | OpenFolder | None:
        """The same at once, for the event loop: only what the kernel has in its cache, on a local file system.

        None in all other cases, missing files too: ``open`` in a thread then tells.
        """
        if self._cached is None or (path := _relative(names)) is None:
            return None
        fd = self._cached(self._fd, path)
        if fd < 0:
            return None
        try:
            opened = self._take(fd, names)
        except OSError:
            return None
        if folder and isinstance(opened, OpenFile):
            opened.close()
            return None
        return opened

    def try_open(self, names: tuple[str, ...]) -> OpenFile | OpenFolder | None:
        """As ``open``, but with the plain OSError, and None for impossible names and for neither file nor folder."""
        path = _relative(names)
        return None if path is None else self._take(self._opener(self._fd, path), names)

    def _take(self, fd: int, names: tuple[str, ...]) -> OpenFile | OpenFolder | None:
        try:
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        kind = S_IFMT(status.st_mode)
        if kind == S_IFREG:
            return OpenFile(fd, status, names)
        if kind == S_IFDIR:
            return OpenFolder(fd, status, names, root=self)
        os.close(fd)
        return None


def _relative(names: tuple[str, ...]) -> bytes | None:
    """The path for the kernel; None where a name is none, because a walk would climb on it and C would cut it short."""
    for name in names:
        if name in _NO_NAMES or "/" in name or "\0" in name:
            return None
    try:
        return encode_name("/".join(names)) or b"."
    except UnicodeEncodeError:
        return None


def _walk(folder: int, path: bytes) -> int:
    """Opens one name after the other and no symlink at all; raises OSError, ELOOP or ENOTDIR for those."""
    *steps, last = path.split(b"/")
    at = folder
    try:
        for step in steps:
            below = os.open(step, _STEP, dir_fd=at)
            if at != folder:
                os.close(at)
            at = below
        return os.open(last, _FLAGS | os.O_NOFOLLOW, dir_fd=at)
    finally:
        if at != folder:
            os.close(at)
