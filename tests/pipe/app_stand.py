"""A web application on this machine, and a gateway with a node that publishes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import WSMsgType, web

from gateway_core import hookimpl
from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_pipe import plugin
from gateway_pipe.apps.expose import exposed
from gateway_pipe.apps.serving import AppServer
from gateway_pipe.hub.directory import LocalDirectory
from gateway_pipe.hub.hub import Hub
from gateway_pipe.hub.nodes import Entrance, Via
from gateway_pipe.link.model import Hello
from gateway_pipe.service import SERVICE_KEY
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.apps import app_routes
from tests.pipe.links import Pair, linked

PATIENCE_S = 20.0


class LocalApp:
    """Says what it was asked, and does what the path names. ``go`` lets an answer that waits go on."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.closed: asyncio.Queue[tuple[int | None, str]] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        for name in ("body", "stream", "cut", "ws", "early", "mine"):
            app.router.add_route("*", f"/{{base:(base/)?}}{name}", getattr(self, f"_{name}"))
        app.router.add_route("*", "/{any:.*}", self._told)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """From now on connections to it are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _told(self, request: web.Request) -> web.Response:
        """What arrived. Headers of the answer are those that the query names."""
        seen = {
            "method": request.method,
            "path": request.raw_path,
            "headers": [list(h) for h in request.headers.items()],
        }
        answer = web.json_response(seen, status=int(request.query.get("status", "200")))
        for name, value in request.query.items():
            if name != "status":
                answer.headers.add(name, value)
        return answer

    async def _body(self, request: web.Request) -> web.StreamResponse:
        """The request's body, while it comes."""
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for chunk in request.content.iter_any():
            await answer.write(chunk)
        return answer

    async def _early(self, request: web.Request) -> web.Response:
        """An answer that does not wait for the body."""
        return web.Response(text="enough", status=413)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Events, the second one when the test says so."""
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        try:
            await answer.write(b"data: 1\n\n")
            await self.go.wait()
            await answer.write(b"data: 2\n\n")
        except asyncio.CancelledError:
            self.left.put_nowait("stream")
            raise
        return answer

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half")
        await self.go.wait()
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def _mine(self, request: web.Request) -> web.Response:
        """Two cookies, and a policy of its own."""
        answer = web.Response(text="<p>hello", content_type="text/html")
        answer.headers.add("Set-Cookie", "a=1; Path=/base; Domain=apps.test; HttpOnly")
        answer.headers.add("Set-Cookie", "gateway-login=evil")
        answer.headers["Content-Security-Policy"] = "default-src 'self'"
        answer.headers["Service-Worker-Allowed"] = "/"
        answer.headers["Clear-Site-Data"] = '"*"'
        answer.headers["X-Accel-Redirect"] = "/secret"
        return answer

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        """Sends back what comes; ``close`` closes with 4001, ``cut`` drops the connection."""
        if request.query.get("refuse"):
            return web.Response(text="not you", status=403)
        socket = web.WebSocketResponse(protocols=("v2", "v1"), max_msg_size=2**25)
        await socket.prepare(request)
        if request.query.get("tell"):
            await socket.send_str(json.dumps(dict(request.headers)))
        while True:
            message = await socket.receive()
            if message.type is WSMsgType.TEXT and message.data == "close":
                await socket.close(code=4001, message=b"as asked")
                return socket
            if message.type is WSMsgType.TEXT and message.data == "cut":
                assert request.transport is not None
                request.transport.abort()
                return socket
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            else:
                self.closed.put_nowait((socket.close_code, str(message.extra or "")))
                return socket


@asynccontextmanager
async def local_app() -> AsyncIterator[LocalApp]:
    app = LocalApp()
    await app.start()
    try:
        yield app
    finally:
        app.go.set()
        await app.stop()


@asynccontextmanager
async def node_with(apps: Mapping[str, str]) -> AsyncIterator[Pair]:
    """A node that publishes these, and its link."""
    async with AppServer(exposed(name, url) for name, url in apps.items()) as server, linked(node=server.serve) as pair:
        yield pair


def _plugin() -> Any:
    """The pipe plugin with a hub and its routes of applications, and nothing else of it."""

    @asynccontextmanager
    async def lifespan(gateway: Any) -> AsyncIterator[None]:
        hub = Hub(gateway, gateway.section(PipeSettings), directory=LocalDirectory())
        gateway.state[SERVICE_KEY] = SimpleNamespace(hub=hub)
        await hub.start()
        yield
        await hub.stop()

    return SimpleNamespace(
        gateway_settings=hookimpl(lambda: PipeSettings),
        gateway_migrations=plugin.gateway_migrations,
        gateway_routes=hookimpl(lambda gateway: app_routes(gateway)),
        gateway_lifespan=hookimpl(lambda gateway: lifespan(gateway)),
    )


@asynccontextmanager
async def app_gateway(folder: Path, **settings: Any) -> AsyncIterator[RunningGateway]:
    """A gateway; ``settings`` are those of the core, and of the plugin as ``pipe``."""
    every = {"plugins": "apps", "apps": settings.pop("pipe", {}), **settings}
    async with running_gateway(folder, settings=every, plugins={"apps": _plugin()}) as running:
        yield running


@contextmanager
def here(gateway: RunningGateway, name: str, pair: Pair, apps: Iterable[str] = ()) -> Iterator[None]:
    """The gateway has this link of a node of that name."""
    hub = gateway.core.state[SERVICE_KEY].hub
    hello = Hello(name=name, instance="i", apps=tuple(apps))
    with hub.attach(pair.server, hello, Entrance(epoch=1, via=Via.CERTIFICATE)):
        yield


@asynccontextmanager
async def attached(gateway: RunningGateway, name: str, apps: Mapping[str, str]) -> AsyncIterator[Pair]:
    """A node of that name at the gateway, which publishes these."""
    async with node_with(apps) as pair:
        with here(gateway, name, pair, apps):
            yield pair
