"""Keeps one link to a gateway: connects, notices when it breaks, and connects again, for ever."""

from __future__ import annotations

import asyncio
import math
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import Any, Protocol

import aiohttp

from gateway_core.errors import GatewayError, Unavailable
from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.explaining import explain
from gateway_pipe.identity.urls import GatewayUrl
from gateway_pipe.link.handshake import HANDSHAKE_S, Refused, greet
from gateway_pipe.link.model import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Farewell,
    Goodbye,
    Hello,
    Limits,
    ProtocolViolation,
    Serve,
)
from gateway_pipe.link.session import Link
from gateway_pipe.node.backoff import Backoff
from gateway_pipe.node.repeats import Repeats
from gateway_pipe.wires.websocket import WebSocketWire, client_wire

log = get_logger("gateway.pipe.node")

TCP_CONNECT_S = 3.0
"""Longer than a SYN that is sent again after a second; a network that came back is noticed at the next try."""

_PING_S = 5.0
_LEAST_PING_S = 0.05
_TICKS_A_PING = 4
_ABORTED_S = 2.0
_EXPECTED = (OSError, aiohttp.ClientError, GatewayError, ValueError)


class Credentials(Protocol):
    """What proves to the gateway which node this is, and to the node that it is its gateway."""

    def headers(self) -> dict[str, str]:
        """Sent with the request for a link."""

    async def context(self) -> ssl.SSLContext | None:
        """For the next connection, with what is valid now; None without TLS. Raises GatewayError, OSError."""


class Observer(Protocol):
    """Is told what happens to the link; never blocks and never raises."""

    def tried(self, seconds: float) -> None:
        """A try to connect took so long, whatever came of it."""

    def connected(self, link: Link) -> None:
        """The link is up."""

    def failed(self, attempts: int, last_disconnected: datetime | None, reason: str) -> None:
        """A try brought no link; ``attempts`` in a row did not."""

    def broken(self, farewell: Farewell, *, silent: bool) -> None:
        """The link is down, or about to be; ``silent`` where the gateway no longer answered heartbeats."""

    def beat(self, rtt_s: float) -> None:
        """A heartbeat came back."""


class Dialer:
    """One node's link to ``target``: ``link`` while there is one, ``wait_link`` for who can wait.

    A link that is told to go takes no new calls, and the next is made while what runs on it ends.
    """

    def __init__(
        self, target: GatewayUrl, credentials: Credentials, hello: Hello, *, serve: Serve, observer: Observer
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._hello = hello
        self._serve = serve
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(SystemRandom())
        self._repeats = Repeats()
        self._link: Link | None = None
        self._since: datetime | None = None
        self._last_disconnected: datetime | None = None
        self._links = 0
        self._next_try = self._loop.time()
        self._arrival: asyncio.Future[None] = self._loop.create_future()
        self._keepers: dict[asyncio.Task[None], Link] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def link(self) -> Link | None:
        """The link, None while there is none that takes calls."""
        return self._link if self._link is not None and self._link.alive else None

    def start(self) -> None:
        """Begin to connect."""
        self._task = self._loop.create_task(self._run())

    async def wait_link(self, timeout_s: float) -> Link:
        """The link, waited for; raises Unavailable, with the time of the next try as Retry-After."""
        try:
            async with asyncio.timeout(timeout_s):
                while (link := self.link) is None:
                    await asyncio.shield(self._arrival)
                return link
        except TimeoutError as error:
            pause_s = max(1, math.ceil(self._next_try - self._loop.time()))
            raise Unavailable("no link to the gateway", retry_after_s=pause_s) from error

    def status(self) -> dict[str, Any]:
        """Who this is, and how its link is, as JSON has it; ``since`` is when it came up or went down."""
        link = self.link
        rtt_s = None if link is None else link.traffic.rtt_s
        since = self._last_disconnected if link is None else self._since
        return {
            "name": self._hello.name,
            "connected": link is not None,
            "since": None if since is None else since.isoformat(timespec="milliseconds"),
            "server": self._target.text,
            "rtt_ms": None if rtt_s is None else round(rtt_s * 1000, 3),
            "reconnects": max(0, self._links - 1),
            "failures": self._backoff.failures,
        }

    async def close(self, patience_s: float) -> None:
        """Say goodbye, let what runs end for ``patience_s`` at most, then cut."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for link in self._keepers.values():
            link.say_goodbye(Farewell(Goodbye.SHUTDOWN, "the node stops"), patience_s=patience_s)
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=patience_s)
        self.drop("the node stops")
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=_ABORTED_S)

    def drop(self, reason: str) -> None:
        """Cut what there is at once; without ``close`` before, the next link is made."""
        for link in list(self._keepers.values()):
            link.drop(reason)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._next_try - self._loop.time()))
            try:
                await self._once()
            except Exception:  # a supervisor: a node keeps trying whatever happens
                self._next_try = self._backoff.failed(self._loop.time())
                log.exception("unexpected failure")

    async def _once(self) -> None:
        """One try, and the life of the link that comes of it."""
        began = self._loop.time()
        self._backoff.trying(began)
        try:
            link = await self._connect()
        except _EXPECTED as error:
            self._observer.tried(self._loop.time() - began)
            self._next_try = self._note_failure(error)
        else:
            self._observer.tried(self._loop.time() - began)
            self._next_try = await self._use(link)

    async def _connect(self) -> Link:
        """A link that works, with its keeper; raises what stood in the way."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=TCP_CONNECT_S),
        )
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                wire = client_wire(await self._open(session))
                try:
                    welcome = await greet(wire, self._hello)
                except BaseException:
                    wire.abort()
                    raise
        except BaseException:
            await session.close()
            raise
        link = Link(
            wire,
            opens="node",
            serve=self._serve,
            peer=welcome,
            limits=Limits(window=self._hello.window, streams=self._hello.streams),
            ping_s=max(_LEAST_PING_S, welcome.ping_s or _PING_S),
        )
        keeper = self._loop.create_task(self._keep(link, wire, session))
        self._keepers[keeper] = link
        keeper.add_done_callback(self._keepers.pop)
        return link

    async def _open(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        context = await self._credentials.context()
        socket = await session.ws_connect(
            self._target.at(f"/pipe/link/{self._hello.name}"),
            protocols=(SUBPROTOCOL,),
            headers=self._credentials.headers(),
            ssl=context if context is not None else True,
            proxy=self._target.proxy(),
            compress=0,
            autoping=False,
            max_msg_size=MAX_MESSAGE_BYTES,
        )
        if socket.protocol != SUBPROTOCOL:
            client_wire(socket).abort()
            raise ProtocolViolation(f"a WebSocket that does not speak {SUBPROTOCOL}")
        return socket

    async def _keep(self, link: Link, wire: WebSocketWire, session: aiohttp.ClientSession) -> None:
        """Run ``link`` to its end, heartbeats included."""
        running = self._loop.create_task(link.run())
        beaten: float | None = None
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=min(1.0, link.ping_s / _TICKS_A_PING))
                link.tick(self._loop.time())
                if link.traffic.rtt_s is not None and link.traffic.rtt_s != beaten:
                    beaten = link.traffic.rtt_s
                    self._observer.beat(beaten)
        finally:
            running.cancel()
            await asyncio.wait({running})
            wire.abort()
            await session.close()

    async def _use(self, link: Link) -> float:
        """Have ``link`` used until it goes; returns when the next try begins."""
        up = self._loop.time()
        self._link, self._since = link, datetime.now(UTC)
        self._links += 1
        self._repeats.forget()
        log.info("connected", name=self._hello.name, server=self._target.text, gateway=link.peer.name)
        self._observer.connected(link)
        arrival, self._arrival = self._arrival, self._loop.create_future()
        arrival.set_result(None)
        farewell = await link.leaving()
        now = self._loop.time()
        self._link, self._last_disconnected = None, datetime.now(UTC)
        self._observer.broken(farewell, silent=link.heartbeat.dead(now))
        next_try = self._backoff.broke(now, farewell=farewell)
        log.warning(
            _words(farewell), reason=farewell.reason, up_s=round(now - up, 1), next_try_s=round(next_try - now, 1)
        )
        return next_try

    def _note_failure(self, error: Exception) -> float:
        now = self._loop.time()
        farewell = error.farewell if isinstance(error, Refused) else None
        next_try = self._backoff.failed(now, retry_after_s=_retry_after_s(error), farewell=farewell)
        text = _words(farewell) if farewell is not None else "cannot connect"
        reason = explain(error)
        more = self._repeats.due(f"{text}: {reason}", now)
        if more is not None:
            log.warning(
                text,
                reason=reason,
                server=self._target.text,
                attempts=self._backoff.failures,
                next_try_s=round(next_try - now, 1),
                **({"not_logged": more} if more else {}),
            )
        self._observer.failed(self._backoff.failures, self._last_disconnected, reason)
        return next_try


_WORDS = {
    Goodbye.REPLACED: "another process with this name took over",
    Goodbye.REVOKED: "the gateway has revoked this node",
    Goodbye.SHUTDOWN: "the gateway is about to stop",
    Goodbye.OVERLOAD: "the gateway has too much to do",
    Goodbye.EXPIRED: "the certificate of this node has expired",
    Goodbye.PROTOCOL: "the gateway says that this node violated the protocol",
}


def _words(farewell: Farewell) -> str:
    return "link lost" if farewell.code is None else _WORDS[farewell.code]


def _retry_after_s(error: Exception) -> float | None:
    """Seconds of the ``Retry-After`` that came instead of a link (RFC 9110 10.2.3), None without one."""
    if not isinstance(error, aiohttp.WSServerHandshakeError) or error.status not in {429, 503}:
        return None
    text = "" if error.headers is None else error.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(moment.tzinfo or UTC)).total_seconds()) if moment.tzinfo else None
