"""A gateway's end of links over real WebSockets, as simple as can be, and a node's dialer that talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from aiohttp import web

from gateway_pipe.identity.urls import gateway_url
from gateway_pipe.link.handshake import expect, turn_away, welcome
from gateway_pipe.link.model import MAX_MESSAGE_BYTES, SUBPROTOCOL, Farewell, Head, Hello, Incoming, Serve
from gateway_pipe.link.session import Link
from gateway_pipe.node.dialer import Dialer
from gateway_pipe.wires.websocket import WebSocketWire


async def echo(incoming: Incoming) -> None:
    """Answers with what it was asked: the target as a header, the body as the body."""
    await incoming.answer(Head(headers=(("X-Target", incoming.opening.target),)), incoming)


class StubGateway:
    """Takes every node. ``refuse`` may answer a request itself, ``deaf`` links are never read or answered."""

    def __init__(self) -> None:
        self.url = ""
        self.ping_s = 5.0
        self.deaf = False
        self.serve: Serve = echo
        self.turn_away: Farewell | None = None
        self.refuse: Callable[[web.Request], web.Response | None] = lambda _request: None
        self.requests: list[web.Request] = []
        self.hellos: list[Hello] = []
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self._live: set[Link] = set()
        self._runner: web.AppRunner | None = None
        self._hangs: set[asyncio.Event] = set()

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/pipe/link/{name}", self._link)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        for link in list(self._live):
            link.drop("test over")
        for hang in self._hangs:
            hang.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _link(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        refusal = self.refuse(request)
        if refusal is not None:
            return refusal
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), compress=False, autoping=False, max_msg_size=MAX_MESSAGE_BYTES
        )
        await socket.prepare(request)
        wire = WebSocketWire(socket, request.transport)
        try:
            hello = await expect(wire)
        except ConnectionError:  # the node did not want this one
            return socket
        self.hellos.append(hello)
        if self.turn_away is not None:
            await turn_away(wire, self.turn_away)
            return socket
        await welcome(wire, Hello(name="gateway", instance="g1", ping_s=self.ping_s))
        link = Link(wire, opens="server", serve=self.serve, peer=hello, ping_s=self.ping_s)
        self.links.put_nowait(link)
        if self.deaf:
            self._hangs.add(hang := asyncio.Event())
            await hang.wait()
            wire.abort()
            return socket
        self._live.add(link)
        try:
            await link.run()
        finally:
            self._live.discard(link)
        return socket


@asynccontextmanager
async def stub_gateway() -> AsyncIterator[StubGateway]:
    gateway = StubGateway()
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()


class BearerCredentials:
    """A secret over plain HTTP."""

    def headers(self) -> dict[str, str]:
        return {"Authorization": "Bearer s3cret"}

    async def context(self) -> None:
        return None


class Watcher:
    """Keeps what a dialer tells; ``failures`` and ``farewells`` can be waited for."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Link] = asyncio.Queue()
        self.failures: asyncio.Queue[tuple[int, datetime | None, str]] = asyncio.Queue()
        self.farewells: asyncio.Queue[Farewell] = asyncio.Queue()
        self.beats: asyncio.Queue[float] = asyncio.Queue()
        self.tries = 0
        self.silent = False

    def tried(self, seconds: float) -> None:
        assert seconds >= 0
        self.tries += 1

    def connected(self, link: Link) -> None:
        self.connections.put_nowait(link)

    def failed(self, attempts: int, last_disconnected: datetime | None, reason: str) -> None:
        self.failures.put_nowait((attempts, last_disconnected, reason))

    def broken(self, farewell: Farewell, *, silent: bool) -> None:
        self.silent = silent
        self.farewells.put_nowait(farewell)

    def beat(self, rtt_s: float) -> None:
        self.beats.put_nowait(rtt_s)


@asynccontextmanager
async def dialing(
    url: str, watcher: Watcher, *, serve: Callable[[Incoming], Awaitable[None]] = echo
) -> AsyncIterator[Dialer]:
    hello = Hello(name="node1", instance="i1", nouns=("time",))
    dialer = Dialer(gateway_url(url), BearerCredentials(), hello, serve=serve, observer=watcher)
    dialer.start()
    try:
        yield dialer
    finally:
        await dialer.close(1.0)
