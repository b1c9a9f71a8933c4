"""Links from this gateway process to others: made when they are needed, closed when nobody uses them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, DummyCookieJar, TCPConnector

from gateway_core.errors import Unavailable
from gateway_core.observe.logs import get_logger
from gateway_pipe.hub.ticker import Ticker
from gateway_pipe.identity.contexts import peer_instance
from gateway_pipe.link.handshake import greet
from gateway_pipe.link.model import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Farewell,
    Goodbye,
    Hello,
    Incoming,
    Limits,
    LinkError,
    Reset,
)
from gateway_pipe.link.session import Link
from gateway_pipe.wires.websocket import WebSocketWire, client_wire

log = get_logger("gateway.pipe")

IDLE_S = 60.0
DIAL_S = 3.0
"""For connection and handshake together: somebody waits for an answer meanwhile."""


@dataclass(slots=True)
class _Kept:
    link: Link
    used: float


class Outgoing:
    """One link for each other process, at work in the block of ``open``; ``hello`` is what this process says of itself.

    A link on which nothing was open for ``idle_s`` is closed.
    """

    def __init__(
        self, hello: Hello, context: ssl.SSLContext, *, ticker: Ticker[Link], limits: Limits, idle_s: float = IDLE_S
    ) -> None:
        self.idle_s = idle_s
        self._hello = hello
        self._context = context
        self._ticker = ticker
        self._limits = limits
        self._kept: dict[str, _Kept] = {}
        self._dials: dict[str, asyncio.Task[Link]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._session: ClientSession

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Links can be made in the block; those that are left are cut at its end."""
        connector = TCPConnector(limit=0, ssl=self._context, force_close=True)
        async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as self._session:
            watch = asyncio.create_task(self._close_idle(), name="pipe peers idle")
            try:
                yield
            finally:
                ended: set[asyncio.Task[object]] = {watch, *self._dials.values()}
                for task in ended:
                    task.cancel()
                await asyncio.wait(ended)
                for kept in self._kept.values():
                    kept.link.drop("the gateway stops")
                if self._running:
                    await asyncio.wait(self._running)

    async def link_to(self, instance: str, address: str) -> Link:
        """The link to the process ``instance``; raises Unavailable when it cannot be reached at ``address``.

        Who asks while it is being made gets the same.
        """
        kept = self._kept.get(instance)
        if kept is not None and kept.link.alive:
            kept.used = asyncio.get_running_loop().time()
            return kept.link
        dial = self._dials.get(instance)
        if dial is None:
            dial = self._dials[instance] = asyncio.create_task(self._dial(instance, address), name="pipe peer dial")
            dial.add_done_callback(lambda ended: self._dialled(instance, address, ended))
        try:
            return await asyncio.shield(dial)
        except (ClientError, OSError, LinkError) as error:
            raise Unavailable("the gateway that holds this node cannot be reached") from error

    async def _dial(self, instance: str, address: str) -> Link:
        wire: WebSocketWire | None = None
        try:
            async with asyncio.timeout(DIAL_S):
                socket = await self._session.ws_connect(
                    f"https://{address}/", protocols=(SUBPROTOCOL,), max_msg_size=MAX_MESSAGE_BYTES, autoping=False
                )
                wire = client_wire(socket)
                if peer_instance(socket.get_extra_info("ssl_object")) != instance:
                    raise ConnectionRefusedError("another gateway has this address by now")
                peer = await greet(wire, self._hello)
        except BaseException:
            if wire is not None:
                await wire.close("")
            raise
        link = Link(wire, opens="node", serve=_refuse, peer=peer, limits=self._limits, ping_s=peer.ping_s)
        self._kept[instance] = _Kept(link, asyncio.get_running_loop().time())
        task = asyncio.create_task(self._hold(instance, link, wire), name="pipe peer link")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return link

    def _dialled(self, instance: str, address: str, ended: asyncio.Task[Link]) -> None:
        del self._dials[instance]
        if not ended.cancelled() and (error := ended.exception()) is not None:
            reason = str(error) or type(error).__name__
            log.warning("a gateway cannot be reached", gateway=instance, address=address, error=reason)

    async def _hold(self, instance: str, link: Link, wire: WebSocketWire) -> None:
        self._ticker.add(link)
        try:
            farewell = await link.run()
            log.debug("link to a gateway ended", gateway=instance, reason=farewell.reason)
        finally:
            self._ticker.discard(link)
            kept = self._kept.get(instance)
            if kept is not None and kept.link is link:
                del self._kept[instance]
            await wire.close("")

    async def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self.idle_s / 4))
            now = loop.time()
            for instance, kept in list(self._kept.items()):
                if kept.link.streams:
                    kept.used = now
                elif now - kept.used > self.idle_s:
                    del self._kept[instance]
                    kept.link.say_goodbye(Farewell(Goodbye.SHUTDOWN, "not used"))


async def _refuse(incoming: Incoming) -> None:
    """The other end of a link from here only answers."""
    await incoming.refuse(Reset.FORBIDDEN, "calls go the other way on this link")
