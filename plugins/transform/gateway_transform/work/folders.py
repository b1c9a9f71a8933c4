"""Folders of boxes: made for a sandbox's user, where it can get to."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway_core.storage.removal import remove_folder

_PASSABLE = "gateway-boxes-"
_LOCK = ".lock"


@contextmanager
def passable_folder(root: Path) -> Iterator[Path]:
    """A new folder below ``root`` that every user may pass through, removed at the end.

    Those of processes that died are removed first: a living one holds a lock on its folder.
    """
    for other in root.glob(f"{_PASSABLE}*"):
        _remove_if_abandoned(other)
    folder = Path(tempfile.mkdtemp(prefix=f".{_PASSABLE}", dir=root))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.chmod(0o711)
        folder = folder.rename(folder.with_name(folder.name[1:]))  # seen by others from here on, and locked
        yield folder
    finally:
        remove_folder(folder)
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Only what is this user's own; one that is being made right now has no lock yet and stays."""
    with suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_folder(folder)
        finally:
            os.close(lock)


def make_folder(folder: Path, *, uid: int | None) -> None:
    """Make ``folder`` with ``work`` and ``tmp``, which belong to ``uid`` where this process may give them away."""
    folder.mkdir()
    folder.chmod(0o711)  # whatever the umask is
    for name in ("work", "tmp"):
        (folder / name).mkdir(mode=0o700)
        if uid is not None:
            os.chown(folder / name, uid, uid)
