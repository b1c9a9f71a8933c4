"""The files of an SQLite database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


def make_file(path: Path) -> None:
    """Create the database file, and its folder, for its owner only; SQLite gives its journals the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def lock_path(path: Path) -> Path:
    """The lock file of whoever writes to the database at ``path``."""
    return path.with_name(f"{path.name}.lock")


def journal_mode(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """WAL where the library has no WAL-reset bug, which loses commits (sqlite.org/wal.html#walresetbug)."""
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return "WAL" if fixed else "DELETE"
