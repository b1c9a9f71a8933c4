"""A folder of temporary files for one process, which others clear away when that process is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from gateway_core.storage.removal import remove_folder

_LOCK = ".lock"


@contextlib.contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A new folder below ``root``, removed at the end; those of processes that died are removed first.

    A living process holds a lock on its folder, which ends with it however it ends.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in root.iterdir():
        _remove_if_abandoned(other)
    staged = root / f".{uuid.uuid4().hex}"
    staged.mkdir(mode=0o700)
    lock = os.open(staged / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = staged.rename(root / f"{os.getpid()}-{staged.name[1:9]}")
        yield folder
        remove_folder(folder)
    finally:
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Folders whose name begins with a dot are being made right now; a crash there leaves an empty one."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        remove_folder(folder)
    finally:
        os.close(lock)
