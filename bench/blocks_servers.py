"""The servers of the same files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from blocks_place import Place
from nginx import nginx
from process import Server, accepts, clean_environment, free_port
from programs import GATEWAY, HERE, installed, program
from sides import OPEN

PEERS = ("rd==1.7.0.0", "rd-api==1.7.0.0")


class FileServer:
    """Serves the files below ``root``; ``launch`` gives its processes, each with its port, in order."""

    name: ClassVar[str]

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.processes: list[Server] = []

    def launch(self, home: Path) -> Iterator[tuple[Server, int]]:
        raise NotImplementedError

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        with ExitStack() as stack:
            for process, port in self.launch(home):
                stack.enter_context(process.running(lambda port=port: accepts(port)))
                self.processes.append(process)
            yield

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return sum(process.cpu_s() for process in self.processes)

    def check(self, path: str) -> None:
        """Raise SystemExit unless it delivers the bytes of a file; of a large one the first."""
        wanted = self.root.joinpath(path).open("rb").read(100_000)
        with OPEN(self.url(path), timeout=60) as answer:
            if answer.read(len(wanted)) != wanted:
                raise SystemExit(f"{self.name} delivers other bytes than those of {path}")


class GatewayServer(FileServer):
    """This project, as it comes."""

    name = "gateway"

    def __init__(self, root: Path, **settings: str) -> None:
        super().__init__(root)
        self._settings = settings

    def launch(self, home: Path) -> Iterator[tuple[Server, int]]:
        environment = clean_environment(
            GATEWAY_HOST="127.0.0.1",
            GATEWAY_PORT=str(self.port),
            GATEWAY_DATA_DIR=str(home),
            GATEWAY_PLUGINS="blocks",
            GATEWAY_BLOCKS__ROOT=str(self.root),
            GATEWAY_BLOCKS__MOUNT="/",
            **self._settings,
        )
        yield Server([str(GATEWAY), "serve"], home / "server.log", environment), self.port


class GatewayWorkersServer(GatewayServer):
    """This project with two processes: rd-api and nginx use more than one core as they come."""

    name = "gateway-2"

    def __init__(self, root: Path) -> None:
        super().__init__(root, GATEWAY_WORKERS="2")


class RdApiServer(FileServer):
    """rd-api and the Redis that it needs."""

    name = "rd-api"

    def launch(self, home: Path) -> Iterator[tuple[Server, int]]:
        port, environment = free_port(), clean_environment()
        redis = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
        redis += ["--save", "", "--appendonly", "no", "--dir", str(home)]
        yield Server(redis, home / "redis.log", environment), port
        rd_api = [str(installed(*PEERS) / "rd-api"), "--host", "127.0.0.1", "-p", str(self.port)]
        rd_api += ["--redis-port", str(port), "-d", str(self.root)]
        yield Server(rd_api, home / "server.log", environment), self.port


class NginxServer(FileServer):
    """The limit: sendfile in C, without a log."""

    name = "nginx"

    def launch(self, home: Path) -> Iterator[tuple[Server, int]]:
        yield nginx(home, self.port, root=self.root), self.port


class FileResponseServer(FileServer):
    """What aiohttp brings along."""

    name = "file-response"

    def launch(self, home: Path) -> Iterator[tuple[Server, int]]:
        command = [sys.executable, str(HERE / "blocks_handler.py"), self.name, str(self.port), str(self.root)]
        yield Server(command, home / "server.log", clean_environment()), self.port


class BareServer(FileResponseServer):
    """As little as an aiohttp handler can do for a small file."""

    name = "bare"


SERVERS: dict[str, type[FileServer]] = {
    server.name: server
    for server in (GatewayServer, GatewayWorkersServer, RdApiServer, NginxServer, FileResponseServer, BareServer)
}


@contextmanager
def running(place: Place, names: Sequence[str], path: str) -> Iterator[Mapping[str, FileServer]]:
    """Fresh processes of these servers, each of which has delivered ``path``."""
    servers = {name: SERVERS[name](place.root) for name in dict.fromkeys(names)}
    with ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server.running(place.folder(server.name)))
            server.check(path)
        yield servers
