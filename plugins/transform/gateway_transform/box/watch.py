"""What a tree of processes and its folders take at this moment: memory, processes, disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TABLES = b"VmPTE:"
_FIELDS = (b"RssAnon:", b"RssShmem:", b"VmSwap:", _TABLES)
_BLOCK_BYTES = 512
_REMOVED = b" (deleted)"
#: Shared memory, which is counted where it is resident.
_IN_MEMORY = (b"/dev/zero", b"/dev/shm/", b"/memfd:", b"/SYSV", b"[")
#: Java removes libraries that it has loaded; nobody has so many.
_MAPPED_FILES = 16


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk and entries found; ``hidden`` says that there is more, which cannot be looked at.

    ``sockets`` are those that processes have open: what was sent to them and not read lies in the kernel's memory.
    """

    used_bytes: int
    entries: int
    hidden: bool = False
    sockets: int = 0


def memory_bytes(pids: Iterable[int], *, limit_bytes: int) -> int:
    """Memory of these processes together: anonymous, shared, swapped, page tables; pages of files can be dropped.

    The cheap sum counts a page once for every process that has it, such as what a box got by its fork. Only when that
    is over ``limit_bytes`` each page is counted by its share (smaps_rollup), as far as the kernel tells.
    """
    known = list(pids)
    rough = sum(_resident_bytes(pid) for pid in known)
    if rough <= limit_bytes:
        return rough
    return sum(_share_bytes(pid) for pid in known)


def threads(pids: Iterable[int]) -> int:
    """How many tasks these processes have, as RLIMIT_NPROC counts."""
    return sum(_number_after(b"Threads:", _read(f"/proc/{pid}/status")) for pid in pids)


def disk(folders: Iterable[str], pids: Iterable[int], *, max_entries: int) -> Disk:
    """What lies in ``folders`` (links are not followed), and files without a name that ``pids`` keep open.

    The walk ends after ``max_entries``: more than that is over any limit.
    """
    walk = _Walk(max_entries)
    waiting = list(folders)
    while waiting and walk.entries <= max_entries:
        waiting += walk.into(waiting.pop())
    kept = _kept_open(pids)
    return Disk(walk.used_bytes + kept.used_bytes, walk.entries, walk.hidden or kept.hidden, kept.sockets)


class _Walk:
    """Counts, folder by folder. What was removed meanwhile is nothing; what cannot be entered is hidden.

    A folder is hidden by its modes, or when it lies deeper than a path can be long.
    """

    def __init__(self, max_entries: int) -> None:
        self.used_bytes = 0
        self.entries = 0
        self.hidden = False
        self._max_entries = max_entries

    def into(self, folder: str) -> list[str]:
        """Count what is in ``folder``, and name the folders there."""
        below = []
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    self._count(entry)
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    if self.entries > self._max_entries:
                        break
        except OSError as error:
            self._missed(error)
        return below

    def _count(self, entry: os.DirEntry[str]) -> None:
        self.entries += 1
        try:
            self.used_bytes += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
        except OSError as error:
            self._missed(error)

    def _missed(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            self.hidden = True


def _kept_open(pids: Iterable[int]) -> Disk:
    """Disk of files that were removed but are open, each once; whether there are more that cannot be seen; sockets.

    A process may hide its descriptors, or keep files by their mapped pages alone, which do not tell a file's size.
    """
    files: dict[tuple[int, int], int] = {}
    sockets: set[int] = set()
    mapped: set[int] = set()
    hidden = False
    for pid in pids:
        mapped |= _removed_but_mapped(pid)
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except PermissionError:
            hidden = True
            continue
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                found = descriptor.stat()
            except OSError:
                continue
            if found.st_nlink == 0 and stat.S_ISREG(found.st_mode):
                files[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK_BYTES
            elif stat.S_ISSOCK(found.st_mode):
                sockets.add(found.st_ino)
    unseen = mapped - {inode for _, inode in files}
    return Disk(sum(files.values()), len(files), hidden or len(unseen) > _MAPPED_FILES, len(sockets))


def _removed_but_mapped(pid: int) -> set[int]:
    """Inodes of files on disk that a process has mapped and nobody can open any more (proc(5), maps)."""
    found = set()
    for line in _read(f"/proc/{pid}/maps").splitlines():
        if line.endswith(_REMOVED):
            inode, path = line.split(None, 5)[4:]
            if not path.startswith(_IN_MEMORY):
                found.add(int(inode))
    return found


def _resident_bytes(pid: int) -> int:
    status = _read(f"/proc/{pid}/status")
    return 1024 * sum(_number_after(field, status) for field in _FIELDS)


def _share_bytes(pid: int) -> int:
    rollup = _read(f"/proc/{pid}/smaps_rollup")
    if b"Pss_Anon:" not in rollup:
        return _resident_bytes(pid)
    shares = sum(_number_after(field, rollup) for field in (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"))
    return 1024 * (shares + _number_after(_TABLES, _read(f"/proc/{pid}/status")))


def _number_after(field: bytes, text: bytes) -> int:
    _, found, rest = text.partition(b"\n" + field)
    return int(rest.split(None, 1)[0]) if found else 0


def _read(path: str) -> bytes:
    """The file, or nothing when the process is gone or says no."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
