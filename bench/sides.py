"""The sides that are compared. All but nginx take a ticket, a list of URLs, and give one download for it."""

from __future__ import annotations

import io
import json
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from origin import Origin
from process import Server, accepts, clean_environment, free_port, output_of
from programs import GATEWAY, HERE, installed

OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""``urlopen`` that leaves out proxies of the environment, for loopback."""


class Side:
    """A server that makes one download of a ticket; ``launch`` gives its process, listening on ``port``."""

    name: ClassVar[str]
    secret = ""
    server: Server

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.port = free_port()

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        self.server = self.launch(home)
        with self.server.running(self.ready):
            yield

    def launch(self, home: Path) -> Server:
        raise NotImplementedError

    def ready(self) -> bool:
        return accepts(self.port)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ticket(self, paths: list[str]) -> list[str]:
        """Hand in upstream ``paths``; the paths to download from this side."""
        body = json.dumps({"type": "zip", "items": [self.item(path) for path in paths]}).encode()
        headers = {"Authorization": self.secret, "Content-Type": "application/json"}
        request = urllib.request.Request(self.url("/ticket/generate"), body, headers)
        with OPEN(request, timeout=60) as answer:
            return [f"/ticket/{json.load(answer)['id']}/download"]

    def item(self, path: str) -> Any:
        """How an upstream path stands in a ticket."""
        return self.origin.url(path)

    def delivers(self, paths: list[str]) -> bool:
        """Whether a download of ``paths`` has their bytes, each in its place."""
        download = b"".join(OPEN(self.url(path), timeout=60).read() for path in self.ticket(paths))
        return self.unpacked(download) == b"".join(self.origin.file(path).read_bytes() for path in paths)

    def unpacked(self, download: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(download)) as archive:
            return b"".join(archive.read(entry) for entry in archive.infolist())


class GatewaySide(Side):
    """This project, told nothing of the items but their URLs: it asks for their sizes.

    Every ticket has URLs of its own, so that no CRC-32 is known from the download before.
    """

    name = "gateway"
    SETTINGS: ClassVar[dict[str, str]] = {}

    def __init__(self, origin: Origin, **settings: str) -> None:
        super().__init__(origin)
        self.settings = self.SETTINGS | settings
        self.tickets = 0

    def launch(self, home: Path) -> Server:
        environment = clean_environment(
            GATEWAY_HOST="127.0.0.1",
            GATEWAY_PORT=str(self.port),
            GATEWAY_DATA_DIR=str(home),
            GATEWAY_PLUGINS="archive",
            GATEWAY_EGRESS_ALLOW="127.0.0.0/8",
            **self.settings,
        )
        if not self.secret:
            client = output_of([str(GATEWAY), "client", "add", "bench", "--json"], environment)
            self.secret = json.loads(client)["secret"]
        return Server([str(GATEWAY), "serve"], home / "server.log", environment)

    def ready(self) -> bool:
        try:
            OPEN(self.url("/readyz"), timeout=2).close()
        except OSError:
            return False
        return True

    def ticket(self, paths: list[str]) -> list[str]:
        self.tickets += 1
        return super().ticket(paths)

    def item(self, path: str) -> Any:
        return {"url": f"{self.origin.url(path)}?{self.tickets}", **self.facts(path)}

    def facts(self, _path: str) -> dict[str, int]:
        """What the ticket tells of an item."""
        return {}


class SizedSide(GatewaySide):
    """Told the sizes: the CRC-32s come behind the data."""

    name = "sized"

    def facts(self, path: str) -> dict[str, int]:
        return {"size": self.origin.size(path)}


class KnownSide(SizedSide):
    """Told sizes and CRC-32s: items are stored as they are."""

    name = "known"

    def facts(self, path: str) -> dict[str, int]:
        return super().facts(path) | {"crc32": self.origin.crc32(path)}


class OpenSide(GatewaySide):
    """Told nothing, and asks for nothing: no length, no ranges."""

    name = "open"
    SETTINGS: ClassVar[dict[str, str]] = {"GATEWAY_ARCHIVE__PROBE": "never"}


class FpxSide(Side):
    """FPX from PyPI, in a virtual environment of its own that is kept in the cache directory."""

    name = "fpx"

    def launch(self, home: Path) -> Server:
        fpx = str(installed("fpx==0.8.0", "setuptools<81") / "fpx")
        database = f"sqlite:///{home}/fpx.db"
        environment = clean_environment(FPX_DB_URL=database, FPX_HOST="127.0.0.1", FPX_PORT=str(self.port))
        output_of([fpx, "db", "up"], environment)
        self.secret = output_of([fpx, "client", "add", "bench"], environment).split()[-1]
        return Server([fpx, "server", "run"], home / "server.log", environment)


class RelaySide(Side):
    """relay.py: what aiohttp can do when there is no ZIP to make."""

    name = "relay"

    def launch(self, home: Path) -> Server:
        command = [sys.executable, str(HERE / "relay.py"), str(self.port)]
        return Server(command, home / "server.log", clean_environment())

    def unpacked(self, download: bytes) -> bytes:
        return download


class NginxSide(RelaySide):
    """The upstream itself, one item after another over one connection: no side can be faster that does the same."""

    name = "nginx"

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self.port = origin.port

    @contextmanager
    def running(self, _home: Path) -> Iterator[None]:
        self.server = self.origin.server
        yield

    def ticket(self, paths: list[str]) -> list[str]:
        return paths


SIDES: dict[str, type[Side]] = {
    side.name: side for side in (GatewaySide, KnownSide, SizedSide, OpenSide, FpxSide, RelaySide, NginxSide)
}
