"""The upstream of all sides: a real nginx with a private configuration, and the files it serves, in memory."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nginx import nginx
from process import Server, accepts, clean_environment, free_port
from programs import HERE

DELAY_S = 0.005
"""What is below ``distant`` is so far away: a request takes so much longer."""

LOCATIONS = """
        location /logged/ {{
            alias {files}/small/;
            access_log {home}/moments.log moment;
        }}
        location /distant/ {{ alias {files}/small/; }}
        location /tiny/ {{ try_files /tiny.bin =404; }}
"""


@dataclass(frozen=True)
class Load:
    """``count`` items of ``size_bytes`` below ``folder``; what is below ``logged`` leaves a moment for each answer."""

    folder: str
    count: int
    size_bytes: int

    @property
    def payload_bytes(self) -> int:
        return self.count * self.size_bytes

    @property
    def paths(self) -> list[str]:
        return [f"/{self.folder}/{number:04}.bin" for number in range(self.count)]


BIG = Load("big", 8, 256 << 20)
SMALL = Load("small", 2000, 20_000)
LOGGED = Load("logged", 2000, 20_000)
DISTANT = Load("distant", 2000, 20_000)
TINY = Load("tiny", 100_000, 100)


class Origin:
    """nginx on a free port below ``home``; the files are random, so that nothing can be won by compressing.

    Small files have three folders, and there is one tiny file under every name.
    """

    server: Server

    def __init__(self, home: Path) -> None:
        self.home = home
        self.files = home / "files"
        self.port, self.distant_port = free_port(), free_port()
        self._crc32s: dict[Path, int] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        self._write_files()
        locations = LOCATIONS.format(home=self.home, files=self.files)
        self.server = nginx(self.home, self.port, root=self.files, locations=locations)
        delay = [sys.executable, str(HERE / "delay.py"), str(self.distant_port), str(self.port), str(DELAY_S)]
        distant = Server(delay, self.home / "delay.log", clean_environment())
        with (
            self.server.running(lambda: accepts(self.port)),
            distant.running(lambda: accepts(self.distant_port)),
        ):
            yield

    def _write_files(self) -> None:
        """The big items are one file under several names: larger than any cache, and memory for one only."""
        for load in (SMALL, BIG):
            self.file(load.paths[0]).parent.mkdir(parents=True)
        for path in SMALL.paths:
            self._write(self.file(path), SMALL.size_bytes)
        self._write(self.file(TINY.paths[0]), TINY.size_bytes)
        big = self.file(BIG.paths[0])
        self._write(big, BIG.size_bytes)
        for path in BIG.paths[1:]:
            self.file(path).hardlink_to(big)
            self._crc32s[self.file(path)] = self._crc32s[big]

    def _write(self, path: Path, size_bytes: int) -> None:
        crc32 = 0
        with path.open("wb") as file:
            for start in range(0, size_bytes, 1 << 20):
                data = os.urandom(min(1 << 20, size_bytes - start))
                crc32 = zlib.crc32(data, crc32)
                file.write(data)
        self._crc32s[path] = crc32

    def file(self, path: str) -> Path:
        folder, name = path[1:].split("/")
        if folder == TINY.folder:
            return self.files / "tiny.bin"
        return self.files / (folder if folder == BIG.folder else SMALL.folder) / name

    def size(self, path: str) -> int:
        return self.file(path).stat().st_size

    def crc32(self, path: str) -> int:
        return self._crc32s[self.file(path)]

    def url(self, path: str) -> str:
        distant = path.startswith(f"/{DISTANT.folder}/")
        return f"http://127.0.0.1:{self.distant_port if distant else self.port}{path}"

    def moments(self) -> list[float]:
        """Unix times, to the millisecond, at which nginx finished its answers below /logged/ so far."""
        return [float(line) for line in (self.home / "moments.log").read_text().split()]
