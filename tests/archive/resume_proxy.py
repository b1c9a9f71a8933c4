"""Servers to kill, and a proxy before them that cuts what they answer."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import struct
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from gateway_core.testing import ServeProcess, Upstream
from tests.prepared import serve_process

_PIECE_BYTES = 16 << 10
_BUFFER_BYTES = 64 << 10
_SEGMENT_BYTES = 1400


class Node:
    """A server process that can be killed; it starts again, on its port, when somebody is to be answered."""

    def __init__(self, data_dir: Path, env: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.kills = 0
        self.logs: list[dict[str, Any]] = []
        self.port = _free_port()
        self._env = env
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._server: ServeProcess | None = None

    @property
    def running(self) -> bool:
        """Whether it can answer now."""
        return self._server is not None

    async def up(self) -> ServeProcess:
        """Start it unless it runs."""
        async with self._lock:
            if self._server is None:
                starting = serve_process("--port", str(self.port), data_dir=self.data_dir, env=self._env)
                self._server = await self._stack.enter_async_context(starting)
            return self._server

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with a signal, and keep its log."""
        async with self._lock:
            server, self._server = self._server, None
            if server is not None:
                self.kills += number is signal.SIGKILL
                server.send_signal(number)
                await server.wait()
                await self._stack.aclose()
                self.logs += server.logs

    def complaints(self) -> list[dict[str, Any]]:
        """What its log says of errors, tracebacks among them."""
        logs = self.logs + (self._server.logs if self._server else [])
        return [line for line in logs if line.get("level", "error") in {"error", "critical"} or "exception" in line]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class How(StrEnum):
    """How an answer ends early."""

    FIN = "fin"
    RST = "rst"
    KILL = "kill"


@dataclass
class Cuts:
    """Cuts to come, each after ``mean_bytes`` of a body, as a rule; some before the head has passed."""

    rng: random.Random
    left: list[How] = field(default_factory=list)
    mean_bytes: int = 1

    def next(self, promised: int) -> tuple[int, How] | None:
        """Bytes of the body that pass, -1 for not even the head, and what happens then; None where all passes."""
        if not self.left:
            return None
        kills = self.left[-1] is How.KILL  # when there is something to lose
        share = self.rng.uniform(0.5, 1.5) if kills else self.rng.uniform(0, 2)
        after = int(share * self.mean_bytes) if kills or self.rng.random() < 0.9 else -1
        return (after, self.left.pop()) if after < promised else None


@dataclass
class Passed:
    """A request, who answered it, and what passed of the answer; ``upstream_before`` was sent before it came."""

    node: Node
    method: str
    headers: Mapping[str, str]
    upstream_before: int
    status: int = 0
    answer: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    cut: How | None = None

    @property
    def promised(self) -> int:
        """Bytes of the body, whole."""
        return 0 if self.method == "HEAD" else int(self.answer.get("content-length", "0"))

    def __str__(self) -> str:
        asked = " ".join(self.headers.get(name, "-") for name in ("range", "if-range"))
        shown = " ".join(self.answer.get(name, "-") for name in ("content-range", "content-length", "etag"))
        end = f"cut ({self.cut})" if self.cut else "whole" if self.body_bytes == self.promised else "left"
        return f":{self.node.port} {self.method} {asked} -> {self.status} {shown}: {self.body_bytes} bytes, {end}"


class Proxy:
    """Stands before the nodes, passes on what they answer, and cuts it as ``cuts`` say.

    With ``one_by_one`` a request waits until nothing of the one before is fetched any more. ``faults`` are what no
    server may do: break off by itself, promise no length, go on fetching for nobody. What a client of before still
    asks for, which is not ``target``, is hung up on and counts for nothing.
    """

    def __init__(self, nodes: Sequence[Node], upstream: Upstream, rng: random.Random) -> None:
        self.port = 0
        self.target = ""
        self.cuts = Cuts(rng)
        self.switching = 0.0
        self.one_by_one = False
        self.passed: list[Passed] = []
        self.faults: list[str] = []
        self._nodes = nodes
        self._node = nodes[0]
        self._upstream = upstream
        self._rng = rng

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        while await self._exchange(reader, writer):
            pass

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can take another."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, headers = _parsed(head)
        if line.split(" ")[1] != self.target:
            return False
        passed = await self._begun(line, headers)
        kills = passed.node.kills
        below, above = await asyncio.open_connection(sock=await _connected(passed.node.port))
        try:
            above.write(head)
            try:
                return await self._answer(passed, below, writer)
            except asyncio.IncompleteReadError:
                if passed.node.kills == kills:
                    self.faults.append(f"the server broke off: {passed}")
                return False
        finally:
            above.transport.abort()

    async def _begun(self, line: str, headers: Mapping[str, str]) -> Passed:
        if self.one_by_one:
            try:
                await self._upstream.wait_idle()
            except TimeoutError as error:
                self.faults.append(f"fetching for nobody: {error}")
        if self._rng.random() < self.switching:
            self._node = self._rng.choice([node for node in self._nodes if node is not self._node])
        node = self._node
        await node.up()
        passed = Passed(node, line.partition(" ")[0], headers, sent_bytes(self._upstream))
        self.passed.append(passed)
        return passed

    async def _answer(self, passed: Passed, below: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Raises IncompleteReadError when the server breaks off."""
        head = await _read(below.readuntil(b"\r\n\r\n"))
        line, passed.answer = _parsed(head)
        passed.status = int(line.split(" ")[1])
        if "content-length" not in passed.answer and passed.status not in {204, 304}:
            self.faults.append(f"no length: {passed}")
            return False
        after, passed.cut = self.cuts.next(passed.promised) or (passed.promised, None)
        if after >= 0:
            writer.write(head)
        while passed.body_bytes < after:
            piece = await _read(below.read(min(_PIECE_BYTES, after - passed.body_bytes)))
            if not piece:
                raise asyncio.IncompleteReadError(b"", passed.promised - passed.body_bytes)
            writer.write(piece)
            passed.body_bytes += len(piece)
            await writer.drain()
        if passed.cut is How.KILL:
            await passed.node.kill()
        if passed.cut is How.RST:
            linger: socket.socket = writer.get_extra_info("socket")
            linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return passed.cut is None and "close" not in passed.answer.get("connection", "").lower()


async def _connected(port: int) -> socket.socket:
    """A connection that holds little, as on a long way: the server cannot be far ahead of what the client has."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)  # before the window and the server's buffer
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


async def _read(reading: Awaitable[bytes]) -> bytes:
    """From a server; a reset is an end, too."""
    try:
        return await reading
    except ConnectionError as error:
        raise asyncio.IncompleteReadError(b"", None) from error


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    return start, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def sent_bytes(upstream: Upstream) -> int:
    """All bodies that it has sent, as far as they went."""
    return sum(request.sent_bytes for request in upstream.requests)
