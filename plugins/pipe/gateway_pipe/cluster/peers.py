"""Links between gateways: each process has a port of its own for them, with TLS on both sides."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway_core import Gateway
from gateway_core.errors import ConfigError, StartupError
from gateway_core.observe.logs import get_logger
from gateway_core.server.sockets import bind
from gateway_core.version import __version__
from gateway_pipe.cluster.outgoing import IDLE_S, Outgoing
from gateway_pipe.hub.ticker import Ticker
from gateway_pipe.identity.contexts import PeerContexts, peer_instance
from gateway_pipe.link.handshake import expect, turn_away, welcome
from gateway_pipe.link.model import MAX_MESSAGE_BYTES, SUBPROTOCOL, Farewell, Goodbye, Hello, Limits, LinkError, Serve
from gateway_pipe.link.session import Link
from gateway_pipe.settings import PipeSettings, address
from gateway_pipe.wires.websocket import WebSocketWire

log = get_logger("gateway.pipe")

STREAMS = 4096
"""Calls at once over one link between gateways, which are those of many nodes."""
PING_S = 2.0
"""A gateway that died without a word is noticed after 2.5 of them, before its entries in the directory run out."""
_LIMITS = Limits(streams=STREAMS)
_CUT_S = 1.0
_ALL_ADDRESSES = frozenset({"0.0.0.0", "::"})


class Peers:
    """What other gateways ask is answered by ``serve``; calls to each of them go over one link, made when needed.

    At work in the block of ``listening``; ``address`` is where others reach this process, ``host:port``.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: PipeSettings,
        serve: Serve,
        *,
        contexts: PeerContexts,
        idle_s: float = IDLE_S,
    ) -> None:
        self.address = ""
        self._gateway = gateway
        self._settings = settings
        self._serve = serve
        self._contexts = contexts
        self._ping_s = min(settings.ping, PING_S)
        self._ticker: Ticker[Link] = Ticker(self._ping_s)
        name = re.sub(r"[^A-Za-z0-9]+", "-", gateway.instance).strip("-")
        self._hello = Hello(
            name=name, instance=gateway.instance, version=__version__, streams=STREAMS, ping_s=self._ping_s
        )
        self.outgoing = Outgoing(self._hello, contexts.client, ticker=self._ticker, limits=_LIMITS, idle_s=idle_s)
        self._incoming: set[Link] = set()
        self._cut_at: float | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take links of other gateways for the block.

        When the gateway closes its ports no new calls are taken; what still runs at the end of the block has what is
        left of the drain. Raises StartupError where no port can be had, ConfigError for an address nobody can dial.
        """
        sock = self._bind()
        app = web.Application()
        app.router.add_get("/", self._accept)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CUT_S)
        try:
            async with self.outgoing.open():
                await runner.setup()
                site = web.SockSite(runner, sock, ssl_context=self._contexts.server)
                await site.start()
                tasks = [
                    asyncio.create_task(work, name="pipe peers")
                    for work in (self._ticker.run(), self._say_goodbye(site))
                ]
                try:
                    yield
                    await self._drained()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
        finally:
            for link in self._incoming:
                link.drop("the gateway stops")
            await runner.cleanup()
            sock.close()

    async def link_to(self, instance: str, address: str) -> Link:
        """The link to the gateway process ``instance``; raises Unavailable when it is not reached at ``address``."""
        return await self.outgoing.link_to(instance, address)

    def _bind(self) -> socket.socket:
        """With a port given, each of several worker processes takes the next free one from it on."""
        host, first = address(self._settings.peer_listen)
        shown = self._settings.peer_host or host
        if shown in _ALL_ADDRESSES:
            raise ConfigError("PIPE__PEER_HOST: needed where PIPE__PEER_LISTEN names all addresses of this host")
        ports = range(first, first + self._gateway.settings.workers) if first else range(1)
        sock = _first_free(host, ports)
        port = sock.getsockname()[1]
        self.address = f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"
        return sock

    async def _accept(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        socket = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), compress=False, max_msg_size=MAX_MESSAGE_BYTES, autoping=False
        )
        await socket.prepare(request)
        wire = WebSocketWire(socket, transport)
        instance = peer_instance(transport.get_extra_info("ssl_object")) if transport is not None else None
        try:
            peer = await expect(wire)
            if instance is None or peer.instance != instance:
                await turn_away(wire, Farewell(Goodbye.PROTOCOL, "the certificate is another gateway's"))
                return socket
            await welcome(wire, self._hello)
        except (LinkError, OSError) as error:
            log.info("another gateway did not connect", gateway=instance, error=str(error))
            wire.abort()
            return socket
        link = Link(wire, opens="server", serve=self._serve, peer=peer, limits=_LIMITS, ping_s=self._ping_s)
        await self._run(link)
        return socket

    async def _run(self, link: Link) -> None:
        self._incoming.add(link)
        self._ticker.add(link)
        if self._cut_at is not None:
            self._part(link)
        try:
            await link.run()
        finally:
            self._ticker.discard(link)
            self._incoming.discard(link)

    async def _say_goodbye(self, site: web.SockSite) -> None:
        """Take nothing new once the gateway closes its ports; what runs has the time of the drain."""
        await self._gateway.closing.wait()
        self._cut_at = asyncio.get_running_loop().time() + self._gateway.settings.drain_timeout_s
        await site.stop()
        for link in self._incoming:
            self._part(link)

    def _part(self, link: Link) -> None:
        farewell = Farewell(Goodbye.SHUTDOWN, "the gateway stops")
        link.say_goodbye(farewell, patience_s=self._gateway.settings.drain_timeout_s)

    async def _drained(self) -> None:
        """Wait until other gateways have their answers, the drain is over, or it was cut short."""
        if self._cut_at is None or not self._incoming:
            return
        left_s = max(0.0, self._cut_at - asyncio.get_running_loop().time())
        ended = asyncio.gather(*(link.closed() for link in self._incoming))
        cut = asyncio.create_task(self._gateway.cut.wait())
        await asyncio.wait((ended, cut), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (ended, cut):
            waiter.cancel()


def _first_free(host: str, ports: range) -> socket.socket:
    for port in ports:
        try:
            return bind(host, port)
        except StartupError:
            if port == ports[-1]:
                raise
    raise StartupError(f"no port to listen on at {host}")
