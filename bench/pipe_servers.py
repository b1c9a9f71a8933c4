"""The sides that carry a call to a program elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from process import Server, accepts, clean_environment, free_port, output_of
from programs import GATEWAY, HERE, installed, program
from report import Summary
from sides import OPEN

NODE = "node1"
NATS_PY = "nats-py==2.16.0"


class PipeSide:
    """``load`` asks it for some seconds."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.port = free_port()
        self.processes: list[Server] = []

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        raise NotImplementedError

    def load(self, *, parallel: int, seconds: float) -> Summary:
        raise NotImplementedError

    def cpu_s(self) -> float:
        """Of all its processes so far."""
        return sum(process.cpu_s() for process in self.processes)


class HttpSide(PipeSide):
    """One that is asked with HTTP; ``path`` is what is asked for, ``headers`` with which headers."""

    path: str
    headers: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.headers = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> bytes:
        import urllib.request

        with OPEN(urllib.request.Request(self.url(path), headers=self.headers), timeout=30) as answer:
            body: bytes = answer.read()
            return body

    def load(self, *, parallel: int, seconds: float) -> Summary:
        """What wrk finds; raises SystemExit when an answer was not as it should be."""
        if json.loads(self.get(self.path)) != {"ok": True}:
            raise SystemExit(f"{self.name} does not answer")
        command = [program("wrk", "wrk"), "-t1", f"-c{parallel}", f"-d{seconds}s", "--timeout", "10s"]
        command += [part for name, value in self.headers.items() for part in ("-H", f"{name}: {value}")]
        command += ["-s", str(HERE / "pipe_calls.lua"), self.url(self.path)]
        cpu_before = self.cpu_s()
        told = json.loads(output_of(command, clean_environment()).splitlines()[-1])
        cpu_s = self.cpu_s() - cpu_before
        if told["failed"]:
            raise SystemExit(f"{self.name}: {told}")
        return {
            "speed": told["requests"] / told["duration_us"] * 1e6,
            "cpu_us": cpu_s / told["requests"] * 1e6,
            "p50_s": told["p50_us"] / 1e6,
            "p99_s": told["p99_us"] / 1e6,
        }


class GatewayPipe(HttpSide):
    """This project: a gateway, and a node that came with a secret over the ordinary port, or with a certificate."""

    name = "gateway"
    path = f"/client/{NODE}/quick"
    certificate = False

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        """Until the node answers; ``processes`` are the server and the node."""
        tls_port = free_port()
        settings = {
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_DATA_DIR": str(home / "data"),
            "GATEWAY_PLUGINS": "pipe",
        }
        if self.certificate:
            settings["GATEWAY_PIPE__LISTEN"] = f"127.0.0.1:{tls_port}"
        environment = clean_environment(**settings)
        add = [str(GATEWAY), "client", "add", "--json"]
        self.headers["Authorization"] = json.loads(output_of([*add, "bench"], environment))["secret"]
        if self.certificate:
            output_of([str(GATEWAY), "pipe", "ca", "init"], environment)
        server = Server([str(GATEWAY), "serve"], home / "server.log", environment, cwd=home)
        with ExitStack() as stack:
            stack.enter_context(server.running(lambda: accepts(self.port)))
            connect = self._certificate(home, environment, tls_port) if self.certificate else self._secret(environment)
            node = self._node(home, connect)
            self.processes = [server, node]
            stack.enter_context(node.running(self._answers))
            yield

    def _secret(self, environment: Mapping[str, str]) -> list[str]:
        add = [str(GATEWAY), "client", "add", "--json", NODE, "--scope", f"pipe:connect:{NODE}"]
        secret = json.loads(output_of(add, environment))["secret"]
        return [self.url(""), "--name", NODE, "--secret", secret]

    def _certificate(self, home: Path, environment: Mapping[str, str], port: int) -> list[str]:
        invited = output_of([str(GATEWAY), "pipe", "invite", NODE, "--json"], environment)
        token, url, folder = json.loads(invited)["token"], f"https://127.0.0.1:{port}", str(home / "node")
        output_of([str(GATEWAY), "pipe", "enroll", url, "--token", token, "--dir", folder], clean_environment())
        return [url, "--dir", folder]

    def _node(self, home: Path, connect: Sequence[str]) -> Server:
        command = [str(GATEWAY), "pipe", "connect", *connect, "--local", "off", "--handlers", "pipe_handlers:Handlers"]
        environment = clean_environment(PYTHONPATH=str(HERE), XDG_STATE_HOME=str(home))
        return Server(command, home / "node.log", environment, cwd=home)

    def _answers(self) -> bool:
        try:
            return json.loads(self.get(self.path)) == {"ok": True}
        except (OSError, ValueError):
            return False


class GatewayPipeTls(GatewayPipe):
    """The same over mutual TLS."""

    name = "gateway-mtls"
    certificate = True


class ProxySide(HttpSide):
    """A plain reverse proxy of aiohttp, and the application behind it."""

    name = "proxy"
    path = "/quick"

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        backend_port = free_port()
        commands = (
            (backend_port, [sys.executable, str(HERE / "pipe_backend.py"), str(backend_port)]),
            (self.port, [sys.executable, str(HERE / "pipe_proxy.py"), str(self.port), str(backend_port)]),
        )
        with ExitStack() as stack:
            for port, command in commands:
                process = Server(command, home / f"proxy-{port}.log", clean_environment(), cwd=home)
                self.processes.append(process)
                stack.enter_context(process.running(lambda port=port: accepts(port)))
            yield


class NatsSide(PipeSide):
    """NATS with nats.py at both ends: request and reply without HTTP."""

    name = "nats"

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        self.python = str(installed(NATS_PY) / "python")
        command = [program("nats-server", "nats-server"), "-a", "127.0.0.1", "-p", str(self.port)]
        server = Server(command, home / "nats.log", clean_environment(), cwd=home)
        with server.running(lambda: accepts(self.port)):
            log = home / "responder.log"
            responder = Server([self.python, *self._script("respond")], log, clean_environment(), cwd=home)
            self.processes = [server, responder]
            with responder.running(lambda: "ready" in log.read_text()):
                yield

    def load(self, *, parallel: int, seconds: float) -> Summary:
        cpu_before = self.cpu_s()
        command = [self.python, *self._script("load"), str(parallel), str(seconds)]
        found: Summary = json.loads(output_of(command, clean_environment()))
        found["cpu_us"] = (self.cpu_s() - cpu_before) / (found["speed"] * seconds) * 1e6
        return found

    def _script(self, what: str) -> list[str]:
        return [str(HERE / "pipe_nats.py"), what, f"nats://127.0.0.1:{self.port}"]


SERVERS: dict[str, type[PipeSide]] = {side.name: side for side in (GatewayPipe, GatewayPipeTls, ProxySide, NatsSide)}


@contextmanager
def running(home: Path, names: Sequence[str]) -> Iterator[Mapping[str, PipeSide]]:
    """Those sides by name, each with a folder of its own."""
    sides = {name: SERVERS[name]() for name in names}
    with ExitStack() as stack:
        for name, side in sides.items():
            folder = home / name
            os.mkdir(folder)
            stack.enter_context(side.running(folder))
        yield sides
