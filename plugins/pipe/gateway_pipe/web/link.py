"""``/pipe/link/<node>``: where nodes connect, on the ordinary port and on the one for certificates."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import hdrs, web

from gateway_core import BadRequest, Conflict, Forbidden, Gateway, GatewayError, client_of
from gateway_core.http.links import client_address
from gateway_core.http.ws import open_bare_websocket
from gateway_core.observe.logs import get_logger
from gateway_core.version import __version__
from gateway_pipe.hub.nodes import Connected, Entrance, Via
from gateway_pipe.link.handshake import expect, turn_away, welcome
from gateway_pipe.link.model import (
    MAX_MESSAGE_BYTES,
    NODE_NAME,
    SUBPROTOCOL,
    Farewell,
    Goodbye,
    Head,
    Hello,
    Incoming,
    Kind,
    Limits,
    ProtocolViolation,
    Reset,
)
from gateway_pipe.link.session import Link
from gateway_pipe.service import SERVICE_KEY
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.certificates import CERTIFICATE
from gateway_pipe.wires.websocket import WebSocketWire

log = get_logger("gateway.pipe")

_MAX_CSR_BYTES = 64 * 1024
_COME_AGAIN_S = 2.0


class LinkHandlers:
    """The handler of links."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.section(PipeSettings)
        self._limits = Limits(streams=self._settings.max_streams)

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """The link of a node: a WebSocket that speaks `pipe.v1`; `gateway pipe connect` is the other end.

        The node proves its name with a certificate, or with the secret of a client that has `pipe:connect:<name>`.
        503 with `Retry-After`: too many connect at once, or the gateway is about to stop. No web page may connect.
        """
        name = request.match_info["node"]
        if not NODE_NAME.fullmatch(name):
            raise BadRequest("no node can have this name")
        service = self._gateway.state[SERVICE_KEY]
        async with AsyncExitStack() as handshake:
            await handshake.enter_async_context(service.hub.admitted(name))
            standing = (await service.authority.revocations.current()).get(name)
            if standing is not None and standing.lifted is None:
                raise Forbidden(f"the node {name} is revoked")
            async with open_bare_websocket(request, protocol=SUBPROTOCOL, max_msg_size=MAX_MESSAGE_BYTES) as socket:
                node = await self._admit(request, WebSocketWire(socket, request.transport))
                await handshake.aclose()
                if node is not None:
                    with node:
                        await node.link.run()
        return socket

    async def _admit(self, request: web.Request, wire: WebSocketWire) -> Connected | None:
        """Exchange the first messages; None for a node that was turned away, or went away itself."""
        name = request.match_info["node"]
        try:
            hello = await expect(wire)
            try:
                return await self._attached(request, wire, hello)
            except GatewayError as error:
                log.warning("a node was turned away", node=name, reason=error.detail or error.title)
                await turn_away(wire, _farewell(error))
        except (ProtocolViolation, OSError) as error:
            log.warning("the handshake with a node failed", node=name, error=str(error) or type(error).__name__)
        return None

    async def _attached(self, request: web.Request, wire: WebSocketWire, hello: Hello) -> Connected:
        """The node in the hub; raises what its refusal is made of, and OSError."""
        if hello.name != request.match_info["node"]:
            raise ProtocolViolation(f"it calls itself {hello.name!r}, and the URL {request.match_info['node']!r}")
        service = self._gateway.state[SERVICE_KEY]
        epoch = await service.hub.next_epoch(hello.name, hello.version)
        own = Hello(
            name="gateway",
            instance=self._gateway.instance,
            version=__version__,
            nouns=service.runner.nouns(),
            window=self._limits.window,
            streams=self._limits.streams,
            ping_s=self._settings.ping,
            epoch=epoch,
        )
        await welcome(wire, own)
        entrance = self._entrance(request, epoch)
        serve = partial(self._serve, hello.name, entrance=entrance)
        link = Link(wire, opens="server", serve=serve, peer=hello, limits=self._limits, ping_s=self._settings.ping)
        return service.hub.attach(link, hello, entrance)

    def _entrance(self, request: web.Request, epoch: int) -> Entrance:
        address = client_address(request, self._gateway.trusted_proxies)
        certificate = request.get(CERTIFICATE)
        if certificate is None:
            return Entrance(epoch=epoch, via=Via.SECRET, address=address, client_id=client_of(request).id)
        return Entrance(
            epoch=epoch,
            via=Via.CERTIFICATE,
            address=address,
            serial=certificate.serial,
            not_after=certificate.not_after,
        )

    async def _serve(self, name: str, incoming: Incoming, *, entrance: Entrance) -> None:
        """What the node asks of this server."""
        service = self._gateway.state[SERVICE_KEY]
        match incoming.opening.kind:
            case Kind.NOUN:
                await service.runner.serve(incoming, peer=name)
            case Kind.CONTROL if incoming.opening.target == "renew":
                await self._renew(name, incoming, entrance=entrance)
            case _:
                await incoming.refuse(Reset.FORBIDDEN, "a gateway has nothing of that kind")

    async def _renew(self, name: str, incoming: Incoming, *, entrance: Entrance) -> None:
        """A further certificate for a node that has one; after a secret there is none, since it would outlast it."""
        try:
            if entrance.via is not Via.CERTIFICATE:
                raise Forbidden("only a node that is connected with a certificate gets a further one")
            csr = (await incoming.read(_MAX_CSR_BYTES)).decode("ascii", "replace")
            authority = self._gateway.state[SERVICE_KEY].authority
            told = await authority.renew(name, csr, serial=entrance.serial)
            head = Head(headers=((hdrs.CONTENT_TYPE, "application/json"),))
        except GatewayError as error:
            log.warning("a certificate was not renewed", node=name, reason=error.detail or error.title)
            told = error.problem()
            head = Head(status=error.status, headers=((hdrs.CONTENT_TYPE, "application/problem+json"),))
        await incoming.answer(head, json.dumps(told).encode())


def _farewell(error: GatewayError) -> Farewell:
    """Why a node is turned away after its HELLO, and when it may come again."""
    reason = error.detail or error.title
    match error:
        case Forbidden():
            return Farewell(Goodbye.REVOKED, reason)
        case Conflict():
            return Farewell(Goodbye.REPLACED, reason)
        case ProtocolViolation():
            return Farewell(Goodbye.PROTOCOL, reason)
        case _:
            after_s = error.headers.get("Retry-After", "")
            return Farewell(Goodbye.OVERLOAD, reason, float(after_s) if after_s.isdigit() else _COME_AGAIN_S)
