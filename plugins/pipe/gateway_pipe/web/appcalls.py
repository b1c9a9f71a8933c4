"""A request for a published web application becomes a call of its node: HTTP as it streams, WebSockets as well."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from aiohttp import WebSocketError, WSMsgType, hdrs, web
from multidict import CIMultiDict

from gateway_core import Gateway, UpstreamFailed
from gateway_core.http.body import BodyLimits, body
from gateway_core.http.gone import ClientGone
from gateway_core.http.links import client_address
from gateway_core.http.ws import SUBPROTOCOLS, open_websocket
from gateway_pipe.apps import codec
from gateway_pipe.apps.codec import Message, Type
from gateway_pipe.hub.calls import Called
from gateway_pipe.link.calling import Answer
from gateway_pipe.link.http import http_error, parse_timeout, server_timing, strip_headers
from gateway_pipe.link.model import Body as Data
from gateway_pipe.link.model import Head, Headers, Kind, LinkError, Opening
from gateway_pipe.service import SERVICE_KEY
from gateway_pipe.web.access import call_headers
from gateway_pipe.web.answers import harmless, relay

_UNHURRIED = BodyLimits(max_bytes=None, min_bytes_per_s=0)
"""An application's client may hold its request open and be silent: it has shown a credential, or needs none."""

_LENGTH = re.compile(r"[0-9]{1,18}")
_SAID_BY_PROXIES = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"}
    | {"x-forwarded-proto", "x-forwarded-server", "x-real-ip"}
)
_UP_TO_QUERY = re.compile(r"[^?#]*")
_DOT = re.compile("%2e", re.IGNORECASE)

AnswerHeaders = Callable[[Headers], Headers]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an application is, and where its callers see it: below ``prefix`` of ``scheme://host``.

    ``rest`` is the raw path and query below it, without the slash before them.
    """

    node: str
    app: str
    rest: str
    scheme: str
    host: str
    prefix: str = ""

    def located(self, location: str) -> str:
        """An address that the application names, as its callers reach it: one of its own is below the prefix.

        In every spelling, and where it climbs: who follows it shows a credential, which is for this application.
        """
        path = _UP_TO_QUERY.match(location)[0]  # type: ignore[index]  # it matches the empty text, too
        spelled = _DOT.sub(".", path.replace("\\", "/")) + location[len(path) :]  # as clients read it (WHATWG URL 4.4)
        try:
            url = urlsplit(urljoin(f"{self.scheme}://{self.host}{self.prefix}/{self.rest.partition('?')[0]}", spelled))
        except ValueError:
            return location
        if url.scheme not in {"http", "https"} or url.netloc.rpartition("@")[2].lower() != self.host:
            return location
        below = url.path.startswith(f"{self.prefix}/")
        if below and not spelled.startswith("/") and "://" not in path:
            return location  # relative, and stays so
        told = url.path if below else f"{self.prefix}{url.path or '/'}"
        if told.startswith("//"):
            told = f"/.{told}"  # two slashes would begin a host
        return url._replace(scheme="", netloc="", path=told).geturl()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: what its application is told beside method and body, and what becomes of the answer's headers."""

    place: Place
    headers: Headers
    shown: AnswerHeaders


class AppCalls:
    """Answers requests with what applications say."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stall_s = gateway.settings.write_stall_s

    def headers(self, request: web.Request, place: Place, drop: Collection[str] = ()) -> Headers:
        """What the application is told: nothing of ours, nothing of ``drop`` (small letters), and whence it came."""
        told = strip_headers(call_headers(request), {*_SAID_BY_PROXIES, *drop})
        forwarded = [
            ("X-Forwarded-For", client_address(request, self._gateway.trusted_proxies)),
            ("X-Forwarded-Host", place.host),
            ("X-Forwarded-Proto", place.scheme),
        ]
        if place.prefix:
            forwarded.append(("X-Forwarded-Prefix", place.prefix))
        if _wants_websocket(request):
            forwarded.append(codec.UPGRADE)
        elif request.body_exists and request.content_length is None:
            forwarded.append(codec.CHUNKED)
        return (*told, *forwarded)

    async def answer(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """What the application answers, piece by piece; ``X-Request-Timeout`` is for the whole of it.

        Raises NotFound for an unknown node, Unavailable while it is away, UpstreamFailed and DeadlineExceeded. Where
        the link breaks later, the connection is cut.
        """
        place = asked.place
        opening = Opening(
            kind=Kind.APP, method=request.method, target=f"{place.app}/{place.rest}", headers=asked.headers
        )
        try:
            if _wants_websocket(request):
                return await self._websocket(request, asked, opening)
            if not request.body_exists:
                return await self._exchange(request, asked, opening, data=b"")
            async with aclosing(body(request, _UNHURRIED)) as chunks:
                return await self._exchange(request, asked, opening, data=chunks)
        except LinkError as error:
            raise http_error(error) from error

    async def _exchange(
        self, request: web.Request, asked: Asked, opening: Opening, *, data: Data
    ) -> web.StreamResponse:
        given = request.headers.get("X-Request-Timeout")
        timeout_s = None if given is None else parse_timeout(given)
        hub = self._gateway.state[SERVICE_KEY].hub
        async with hub.call(
            asked.place.node, opening, data, timeout_s=timeout_s, whole=timeout_s is not None
        ) as called:
            return await self._pass_on(request, asked, called)

    async def _pass_on(self, request: web.Request, asked: Asked, called: Called) -> web.StreamResponse:
        answer = called.answer
        if not 200 <= answer.head.status < 600:
            raise UpstreamFailed(f"the application answered with status {answer.head.status}")
        headers = _answer_headers(answer.head, asked)
        timings = called.timings
        headers.add("Server-Timing", server_timing({"wait": timings["wait"], "link": timings["link"]}))
        response = web.StreamResponse(status=answer.head.status, headers=headers)
        await relay(request, response, answer, stall_s=self._stall_s)
        return response

    async def _websocket(self, request: web.Request, asked: Asked, opening: Opening) -> web.StreamResponse:
        accepted: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        async with (
            aclosing(_said(accepted)) as said,
            self._gateway.state[SERVICE_KEY].hub.call(asked.place.node, opening, said) as called,
        ):
            answer = called.answer
            if answer.head.status != 101:
                return await self._pass_on(request, asked, called)
            request[SUBPROTOCOLS] = codec.subprotocols(answer.head.headers)
            async with open_websocket(
                request, draining=self._gateway.closing, max_msg_size=codec.MAX_MESSAGE_BYTES
            ) as socket:
                accepted.set_result(socket)
                await _hear(answer, socket)
            return socket


def _wants_websocket(request: web.Request) -> bool:
    return codec.is_websocket(request.method, tuple(request.headers.items()))


async def _said(accepted: asyncio.Future[web.WebSocketResponse]) -> AsyncGenerator[bytes, None]:
    """The caller's messages, from when its socket is open."""
    socket = await accepted
    while True:
        received = await socket.receive()
        if received.type is WSMsgType.TEXT:
            yield Message(Type.TEXT, received.data.encode()).encoded()
        elif received.type is WSMsgType.BINARY:
            yield Message(Type.BINARY, received.data).encoded()
        elif received.type is WSMsgType.CLOSE:
            yield Message.close(received.data, received.extra or "").encoded()
            return
        elif received.type is WSMsgType.CLOSING:  # closed from here
            return
        elif isinstance(received.data, WebSocketError):  # too big, no UTF-8, no frame
            yield Message.close(received.data.code, str(received.data)).encoded()
            return
        else:
            raise ClientGone("closed the connection")


async def _hear(answer: Answer, socket: web.WebSocketResponse) -> None:
    """Give the application's messages to the caller."""
    try:
        async for message in codec.messages(answer):
            if message.type is Type.CLOSE:
                code, reason = message.closing()
                await socket.close(code=code, message=reason)
                return
            await socket.send_frame(message.payload, WSMsgType(message.type))
    except LinkError:
        await socket.close(code=codec.BAD_GATEWAY, message=b"the way to the application broke")


def _answer_headers(head: Head, asked: Asked) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in asked.shown(harmless(strip_headers(head.headers, {"server"}))):
        sendable = value.encode(errors="replace").decode()  # no surrogate escapes
        if name.lower() == "content-length" and (name in headers or not _LENGTH.fullmatch(value)):
            raise UpstreamFailed("the application's answer has no sensible length")
        headers.add(name, asked.place.located(sendable) if name.lower() in _ADDRESSES else sendable)
    return headers


_ADDRESSES = frozenset({hdrs.LOCATION.lower(), hdrs.CONTENT_LOCATION.lower()})
