"""Objects as files of one directory: the system calls, in the order that makes them whole and durable.

::

    <root>/tmp/<32 hex>                                    what is being written
    <root>/objects/archive/tickets/7@/<stamp>-<sha256>     the bytes of the key "archive/tickets/7"

A key's own folder ends in ``@``, which no key contains, so that ``a`` and ``a/b`` never meet. Its one file carries the
digest in its name: bytes and digest appear by the same rename. Overwriting adds a file with a greater stamp and then
removes the smaller ones; the greatest is the object, so a crash between the two leaves the new one. Stamps are
nanoseconds, pushed past those already there: removing a name never hits what another writer has published since.
Folders are 0700, files 0600; below the root no symbolic link is followed. All functions block and are meant for
threads; they raise OSError as it comes where nothing else is said.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway_core.errors import ObjectMissing, StorageError
from gateway_core.storage.base import StoredObject

OBJECTS, TMP = "objects", "tmp"
_TRIES = 50
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STAGE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_VERSION = re.compile(r"\d{20}-[0-9a-f]{64}")
_KEY_FOLDER = re.compile(r"[A-Za-z0-9._-]+@?")


def folder_of(key: str) -> tuple[str, ...]:
    """Names of the folders from the root to the key's own."""
    return (OBJECTS, *(key + "@").split("/"))


def describe(key: str, fd: int, version: str) -> StoredObject:
    """The object whose file is open as ``fd`` and called ``version``."""
    stamp, _, sha256 = version.partition("-")
    return StoredObject(key, os.fstat(fd).st_size, sha256, int(stamp) / 1e9)


def create_staged(root: Path, name: str) -> int:
    """Descriptor of the new file ``tmp/<name>``, locked as long as it is open: sweep leaves it alone."""
    if not root.is_dir():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _entered(root.parent) as outer:
            os.fsync(outer)
    with _entered(root, (TMP,), make=True) as tmp:
        fd = os.open(name, _STAGE, 0o600, dir_fd=tmp)
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def remove_staged(root: Path, name: str) -> None:
    """Remove ``tmp/<name>`` if it is still there; what cannot be removed is left to sweep."""
    with suppress(OSError), _entered(root, (TMP,)) as tmp:
        os.unlink(name, dir_fd=tmp)


def publish(root: Path, key: str, fd: int, *, name: str, sha256: str) -> StoredObject:
    """Make ``tmp/<name>``, open as ``fd`` and complete, the object ``key``, durably; on OSError nothing has changed."""
    os.fsync(fd)
    for _ in range(_TRIES):
        # A delete may remove the empty folder between our making it and our renaming into it.
        with suppress(FileNotFoundError), _entered(root, folder_of(key), make=True) as folder:
            return describe(key, fd, _rename_into(root, folder, name=name, sha256=sha256))
    raise StorageError(f"cannot write {key}: its folder or its temporary file keeps vanishing")


def open_newest(root: Path, key: str) -> tuple[int, str]:
    """Descriptor and file name of the object; raises ObjectMissing.

    POSIX lets readdir miss both files of an overwrite that happens meanwhile, and a file may be replaced between
    readdir and open: either way we come out empty-handed and look again.
    """
    versions: list[str] = []
    for _ in range(_TRIES):
        try:
            with _entered(root, folder_of(key)) as folder:
                if versions := _versions(folder):
                    with suppress(FileNotFoundError):
                        return os.open(versions[-1], _READ, dir_fd=folder), versions[-1]
        except FileNotFoundError as error:
            raise ObjectMissing(f"no object {key}") from error
    if versions:
        raise StorageError(f"cannot read {key}: it is replaced faster than it can be opened")
    raise ObjectMissing(f"no object {key}")


def stat_object(root: Path, key: str) -> StoredObject:
    """The object's size, digest and time; raises ObjectMissing."""
    fd, version = open_newest(root, key)
    try:
        return describe(key, fd, version)
    finally:
        os.close(fd)


def delete_object(root: Path, key: str) -> bool:
    """Remove the object, durably, and the folders that it leaves empty; False when there was none."""
    removed = False
    with suppress(FileNotFoundError), _entered(root, folder_of(key)) as folder:
        for _ in range(_TRIES):
            versions = _versions(folder)
            # A leftover of a crash must not outlive its successor, or it would be the object again.
            if versions[:-1]:
                _remove_all(versions[:-1], folder)
                os.fsync(folder)
            removed = _remove_all(versions[-1:], folder) > 0
            if removed or not versions:
                break
        if removed:
            os.fsync(folder)
    _prune(root, folder_of(key))
    return removed


def scan(root: Path, prefix: str, folder: tuple[str, ...] = ()) -> Iterator[StoredObject]:
    """Objects below ``folder`` whose key begins with ``prefix``, in key order."""
    base = "".join(name + "/" for name in folder)
    for name in _subfolders(root, (OBJECTS, *folder)):
        path = base + name[:-1] if name.endswith("@") else f"{base}{name}/"
        if name.endswith("@"):
            if path.startswith(prefix) and (stored := _stat_if_there(root, path)):
                yield stored
        elif path.startswith(prefix) or prefix.startswith(path):
            yield from scan(root, prefix, (*folder, name))


def sweep(root: Path, horizon_ns: int) -> Iterator[int]:
    """Remove what writers left before ``horizon_ns`` (Unix time); yields after each place looked at how many it held.

    Left are files in ``tmp`` that no process writes, versions beside their successor, and empty folders (not counted).
    """
    with suppress(FileNotFoundError), _entered(root, (TMP,)) as tmp, os.scandir(tmp) as staged:
        for entry in staged:
            yield _remove_abandoned(entry.name, tmp, horizon_ns)
    with suppress(FileNotFoundError):
        for path, _, names, folder in os.fwalk(root / OBJECTS, topdown=False):
            versions = sorted(filter(_VERSION.fullmatch, names))
            superseded = versions and _stamp(versions[-1]) <= horizon_ns
            yield _remove_all(versions[:-1], folder) if superseded else 0
            # Fails while anything is inside.
            with suppress(OSError):
                Path(path).rmdir()


@contextmanager
def _entered(root: Path, names: Sequence[str] = (), *, make: bool = False) -> Iterator[int]:
    """Descriptor of a folder below ``root``, reached through no symbolic link; ``make`` makes what is missing."""
    fd = os.open(root, _FOLDER)
    try:
        for name in names:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
                    os.fsync(fd)
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _rename_into(root: Path, folder: int, *, name: str, sha256: str) -> str:
    """Rename ``tmp/<name>`` into the key's folder as its newest version, whose name is returned."""
    # Greater than what is there also when the clock was set back.
    stamp = max([time.time_ns(), *(_stamp(version) + 1 for version in _versions(folder))])
    version = f"{stamp:020d}-{sha256}"
    with _entered(root, (TMP,)) as tmp:
        os.rename(name, version, src_dir_fd=tmp, dst_dir_fd=folder)
    try:
        os.fsync(folder)
    except OSError:
        with suppress(OSError):
            os.unlink(version, dir_fd=folder)
        raise
    # Published: what cannot be removed now is no longer the object, and left to sweep.
    with suppress(OSError):
        _remove_all(_versions(folder)[:-1], folder)
    return version


def _stamp(version: str) -> int:
    return int(version[:20])


def _versions(folder: int) -> list[str]:
    """File names of a key's versions, the newest last."""
    return sorted(filter(_VERSION.fullmatch, os.listdir(folder)))


def _remove_all(names: Sequence[str], folder: int) -> int:
    """Unlink; returns how many were still there."""
    removed = 0
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
            removed += 1
    return removed


def _prune(root: Path, names: tuple[str, ...]) -> None:
    """Remove a folder, and those around it as long as they are empty."""
    with suppress(OSError):
        while len(names) > 1:
            with _entered(root, names[:-1]) as outer:
                os.rmdir(names[-1], dir_fd=outer)
            names = names[:-1]


def _subfolders(root: Path, names: Sequence[str]) -> list[str]:
    """Names of the folders inside, in the order of the keys they stand for: ``a``, ``a-b``, ``a/b``."""
    with suppress(FileNotFoundError), _entered(root, names) as folder, os.scandir(folder) as entries:
        found = [e.name for e in entries if _KEY_FOLDER.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        return sorted(found, key=lambda name: name[:-1] if name.endswith("@") else name + "/")
    return []


def _stat_if_there(root: Path, key: str) -> StoredObject | None:
    try:
        return stat_object(root, key)
    except ObjectMissing:
        return None


def _remove_abandoned(name: str, tmp: int, horizon_ns: int) -> bool:
    """Remove a file that is older than the horizon and locked by no writer."""
    try:
        fd = os.open(name, _READ, dir_fd=tmp)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if found.st_mtime_ns > horizon_ns or not stat.S_ISREG(found.st_mode):
            return False
        return not _locked_by_its_writer(fd) and _remove_all([name], tmp) > 0
    finally:
        os.close(fd)


def _locked_by_its_writer(fd: int) -> bool:
    """False also where the file system has no locks: there age alone decides."""
    with suppress(OSError):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
