"""What a tree of processes and its folders take at this moment: memory, processes, disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FIELDS = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk and entries found; ``hidden`` says that a process does not let its open files be seen."""

    used_bytes: int
    entries: int
    hidden: bool = False


def memory_bytes(pids: Iterable[int], *, limit_bytes: int) -> int:
    """Memory of these processes together: anonymous, shared and swapped; pages of files are the kernel's to drop.

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
    used = entries = 0
    waiting = list(folders)
    while waiting and entries <= max_entries:
        try:
            with os.scandir(waiting.pop()) as found:
                for entry in found:
                    entries += 1
                    used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if entries > max_entries:
                        break
        except OSError:
            continue
    unnamed, hidden = _unnamed_bytes(pids)
    return Disk(used + unnamed, entries, hidden)


def _unnamed_bytes(pids: Iterable[int]) -> tuple[int, bool]:
    """Disk of files that were removed but are open, each once; and whether a process hides its descriptors."""
    files: dict[tuple[int, int], int] = {}
    hidden = False
    for pid in pids:
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
    return sum(files.values()), hidden


def _resident_bytes(pid: int) -> int:
    status = _read(f"/proc/{pid}/status")
    return 1024 * sum(_number_after(field, status) for field in _FIELDS)


def _share_bytes(pid: int) -> int:
    rollup = _read(f"/proc/{pid}/smaps_rollup")
    if b"Pss_Anon:" not in rollup:
        return _resident_bytes(pid)
    return 1024 * sum(_number_after(field, rollup) for field in (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"))


def _number_after(field: bytes, text: bytes) -> int:
    _, found, rest = text.partition(b"\n" + field)
    return int(rest.split(None, 1)[0]) if found else 0


def _read(path: str) -> bytes:
    """The file, or nothing when the process is gone or says no."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
