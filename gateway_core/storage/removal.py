"""Removing folders in which somebody else has built what he liked."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def remove_folder(folder: Path) -> None:
    """Remove ``folder`` and all in it, however deep and whatever its modes; what cannot be removed stays.

    Folders are moved up and emptied one by one, so that neither depth nor the length of paths matters.
    """
    waiting, count = [folder], 0
    emptied: list[Path] = []
    while waiting:
        current = waiting.pop()
        emptied.append(current)
        for entry in _entries(current):
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink()
                elif current == folder:
                    waiting.append(Path(entry.path))
                else:
                    count += 1
                    moved = folder / f".{count}"
                    Path(entry.path).chmod(0o700)  # without a right to write into it, it cannot be moved
                    waiting.append(Path(entry.path).rename(moved))
    for path in reversed(emptied):
        with suppress(OSError):
            path.rmdir()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with suppress(OSError):
        folder.chmod(0o700)
        with os.scandir(folder) as found:
            return list(found)
    return []
