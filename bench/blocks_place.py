"""Where the files are that are served, and where downloads go."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

_NUMBERS = count()


@dataclass(frozen=True)
class Place:
    """``home`` is on a disk, so that files are served from the page cache; ``downloads`` in memory where there is any.

    Files are a day old: one written just now has only a weak tag.
    """

    home: Path
    downloads: Path

    @property
    def root(self) -> Path:
        folder = self.home / "files"
        folder.mkdir(exist_ok=True)
        return folder

    def folder(self, name: str) -> Path:
        """A new one on the disk, for a server's own things."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.home))

    def random(self, name: str, size_bytes: int) -> Path:
        """A file of the root, written once for all workloads; in memory in any case."""
        path = self.root / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                for first in range(0, size_bytes, 1 << 20):
                    file.write(os.urandom(min(1 << 20, size_bytes - first)))
                file.flush()
                os.fsync(file.fileno())
            _age(path)
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        return path

    def sparse(self, name: str, size_bytes: int) -> Path:
        """A file of the root that takes no room."""
        path = self.root / name
        with path.open("wb") as file:
            file.truncate(size_bytes)
        _age(path)
        return path

    @contextmanager
    def renewed(self, path: Path) -> Iterator[str]:
        """A name under which nobody knows the sums of the file, though its pages stay in memory.

        rd-api goes by names. The gateway goes by the version, which a new hard link changes: its ctime.
        """
        name = f"{path.stem}-{next(_NUMBERS)}{path.suffix}"
        other = path.with_name(name)
        other.hardlink_to(path)
        try:
            yield name
        finally:
            other.unlink()

    @contextmanager
    def download(self) -> Iterator[Path]:
        """A folder that is gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.downloads) as folder:
            yield Path(folder)


def _age(path: Path) -> None:
    yesterday = time.time() - 86_400
    os.utime(path, (yesterday, yesterday))
