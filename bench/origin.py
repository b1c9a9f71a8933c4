"""The upstream of all sides: a real nginx with a private configuration, and the files it serves, in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nginx import nginx
from process import Server, accepts, free_port

LOGGED = """
        location /logged/ {{
            alias {home}/files/small/;
            access_log {home}/moments.log moment;
        }}
"""


@dataclass(frozen=True)
class Workload:
    """``count`` items of ``size_bytes`` below ``folder``; what is below ``logged`` leaves a moment for each answer."""

    name: str
    title: str
    folder: str
    count: int
    size_bytes: int

    @property
    def payload_bytes(self) -> int:
        return self.count * self.size_bytes

    @property
    def paths(self) -> list[str]:
        return [f"/{self.folder}/{number:04}.bin" for number in range(self.count)]


BIG = Workload("big", "8 x 256 MiB", "big", 8, 256 << 20)
SMALL = Workload("small", "2,000 x 20 kB", "small", 2000, 20_000)
FIRST = Workload("first", "first byte of 2,000 x 20 kB", "logged", 2000, 20_000)


class Origin:
    """nginx on a free port below ``home``; the files are random, so that nothing can be won by compressing."""

    server: Server

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()

    @contextmanager
    def running(self) -> Iterator[None]:
        self._write_files()
        self.server = nginx(self.home, self.port, root=self.home / "files", locations=LOGGED.format(home=self.home))
        with self.server.running(lambda: accepts(self.port)):
            yield

    def _write_files(self) -> None:
        """The big items are one file under several names: larger than any cache, and memory for one only."""
        for workload in (SMALL, BIG):
            self.file(workload.paths[0]).parent.mkdir(parents=True)
        for path in SMALL.paths:
            self.file(path).write_bytes(os.urandom(SMALL.size_bytes))
        with self.file(BIG.paths[0]).open("wb") as big:
            for _ in range(BIG.size_bytes >> 20):
                big.write(os.urandom(1 << 20))
        for path in BIG.paths[1:]:
            self.file(path).hardlink_to(self.file(BIG.paths[0]))

    def file(self, path: str) -> Path:
        return self.home / "files" / path[1:]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def moments(self) -> list[float]:
        """Unix times, to the millisecond, at which nginx finished its answers below /logged/ so far."""
        return [float(line) for line in (self.home / "moments.log").read_text().split()]
