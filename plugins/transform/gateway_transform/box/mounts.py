"""Mounts as boxes need them. Every failure is an OSError that names the path."""

from __future__ import annotations

import os
from pathlib import Path

from gateway_transform.box import syscalls as calls

_QUIET = calls.MOUNT_ATTR_NOSUID | calls.MOUNT_ATTR_NODEV
#: Flags of a mount that stay when it is mounted anew, as a process in a user namespace may not take them away:
#: ST_NOEXEC, ST_NOATIME, ST_NODIRATIME have their MS_ values; ST_RELATIME has not.
_KEPT = 0x8 | 0x400 | 0x800
_ST_RELATIME = 0x1000
_MS_RELATIME = 1 << 21


def tmpfs(target: str, options: str) -> None:
    """A new tmpfs without devices and set-user-ID."""
    calls.mount("tmpfs", target, "tmpfs", flags=calls.MS_NOSUID | calls.MS_NODEV, options=options)


def bind(source: str, target: str) -> None:
    """Show one file, folder or device at ``target`` too, which is made when it is not there."""
    _make(source, target)
    calls.mount(source, target, flags=calls.MS_BIND)


def bind_read_only(source: str, target: str) -> None:
    """Show ``source`` and all that is mounted in it at ``target``, to be read and run only."""
    _make(source, target)
    calls.mount(source, target, flags=calls.MS_BIND | calls.MS_REC)
    _set(target, calls.MOUNT_ATTR_RDONLY | _QUIET, recursive=True)


def bind_writable(source: str, target: str) -> None:
    """Show the folder ``source`` at ``target``, which exists; without devices and set-user-ID."""
    calls.mount(source, target, flags=calls.MS_BIND)
    _set(target, _QUIET, recursive=False)


def mask(target: str) -> None:
    """Cover a folder by an empty one, a file by an empty device; ``seal`` it when all is in place."""
    if Path(target).is_dir():
        tmpfs(target, "mode=0755,size=64k")
    else:
        calls.mount("/host/dev/null", target, flags=calls.MS_BIND)


def seal(target: str) -> None:
    """Make one mount read-only."""
    if Path(target).is_dir():
        _set(target, calls.MOUNT_ATTR_RDONLY | _QUIET, recursive=False)


def _make(source: str, target: str) -> None:
    path = Path(target)
    if path.exists():
        return
    if Path(source).is_dir():
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _set(target: str, attributes: int, *, recursive: bool) -> None:
    """By mount_setattr; before Linux 5.12 by mounting anew, each mount below for itself."""
    try:
        calls.mount_setattr(target, attributes, recursive=recursive)
    except OSError:
        for path in _mounts_below(target) if recursive else [target]:
            _mount_anew(path, attributes)


def _mount_anew(path: str, attributes: int) -> None:
    """The attributes used here have the numbers of their MS_ flags."""
    found = os.statvfs(path).f_flag
    kept = found & _KEPT | (_MS_RELATIME if found & _ST_RELATIME else 0)
    calls.mount(None, path, flags=calls.MS_BIND | calls.MS_REMOUNT | attributes | kept | (found & calls.MS_RDONLY))


def _mounts_below(target: str) -> list[str]:
    """From mountinfo (proc(5)); spaces and such are written as octal there."""
    found = []
    with Path("/host/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            path = _unescaped(line.split(" ")[4])
            if path == target or path.startswith(target + "/"):
                found.append(path)
    return found


def _unescaped(text: str) -> str:
    for octal in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(octal, chr(int(octal[1:], 8)))
    return text
