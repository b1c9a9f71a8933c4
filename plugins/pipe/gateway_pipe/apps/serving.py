"""The node's end: streams of ``Kind.APP`` become requests to the local web applications that it publishes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Literal, Self

from aiohttp import (
    ClientConnectionError,
    ClientError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    DummyCookieJar,
    TCPConnector,
    WebSocketError,
    WSMsgType,
)
from aiohttp.client_middlewares import ClientHandlerType
from multidict import CIMultiDict

from gateway_core.errors import BadRequest, GatewayError, HttpError, MethodNotAllowed, NotFound, UpstreamFailed
from gateway_core.observe.logs import get_logger
from gateway_pipe.apps import codec
from gateway_pipe.apps.codec import Message, Type
from gateway_pipe.apps.expose import Exposed
from gateway_pipe.link.http import strip_headers
from gateway_pipe.link.model import Head, Headers, Incoming, Opening, Reset, StreamReset, header_of

log = get_logger("gateway.pipe")

_CONNECT_S = 5.0
_IDLE_S = 1.5  # below what common servers keep an idle connection, so that none is closed while a request is sent
_CLOSE_S = 2.0
_GOING_AWAY = 1001
_MAX_HEADER_BYTES = 32 * 1024
_WEBSOCKET_OWN = frozenset(
    {"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-accept"}
)
_NEVER_PASSED = frozenset({"host", "expect", *_WEBSOCKET_OWN})
_NOT_OF_A_REFUSAL = frozenset({"sec-websocket-protocol", *_WEBSOCKET_OWN})

_Socket = ClientWebSocketResponse[Literal[False]]


class _NotUpgraded(Exception):
    """An answer like others, on its way past the client library."""

    def __init__(self, response: ClientResponse) -> None:
        super().__init__(response.status)
        self.response = response


async def _only_upgrades(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Keep the client library from following redirects of a handshake, and from throwing a refusal's body away."""
    response = await handler(request)
    if response.status != 101:
        raise _NotUpgraded(response)
    return response


class AppServer:
    """Answers streams with what the local applications say; where those are is fixed here and never a caller's choice.

    Use it as an async context manager around the time in which ``serve`` is called.
    """

    def __init__(self, apps: Iterable[Exposed]) -> None:
        self._apps = {app.name: app for app in apps}
        self._stack = AsyncExitStack()
        self._session: ClientSession

    @property
    def names(self) -> tuple[str, ...]:
        """What is published, for ``Hello.apps``."""
        return tuple(self._apps)

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(
            ClientSession(
                connector=TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
                auto_decompress=False,
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=None, sock_connect=_CONNECT_S),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                max_field_size=_MAX_HEADER_BYTES,
                max_line_size=_MAX_HEADER_BYTES,
                middlewares=(_only_upgrades,),
            )
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def serve(self, incoming: Incoming) -> None:
        """Answer one stream; see ``codec`` for its form.

        Unknown applications are 404, those that cannot be reached 502; an answer that breaks off breaks the stream.
        """
        opening = incoming.opening
        try:
            app, rest = self._app(opening)
            if codec.is_websocket(opening.method, opening.headers):
                await self._websocket(incoming, app, rest)
            else:
                await self._exchange(incoming, app, rest)
        except HttpError as error:
            await incoming.answer(*_told(error))

    def _app(self, opening: Opening) -> tuple[Exposed, str]:
        """The application meant, and the target there."""
        path, mark, query = opening.target.partition("?")
        name, _, rest = path.partition("/")
        app = self._apps.get(name)
        if app is None:
            raise NotFound(f"this node publishes no application {name[:64]!r}")
        if opening.method == "CONNECT":
            raise MethodNotAllowed(())
        return app, f"{rest}{mark}{query}"

    async def _exchange(self, incoming: Incoming, app: Exposed, rest: str) -> None:
        opening = incoming.opening
        url = app.url(rest)
        body = incoming if codec.has_body(opening.headers) else None
        try:
            response = await self._session.request(
                opening.method,
                url,
                headers=_request_headers(opening.headers, app),
                data=body,
                allow_redirects=False,
                middlewares=(),
            )
        except (ClientError, OSError, ValueError) as error:
            raise _unreachable(error, app) from error
        await _pass_on(incoming, response, app)

    async def _websocket(self, incoming: Incoming, app: Exposed, rest: str) -> None:
        headers = incoming.opening.headers
        try:
            socket = await self._session.ws_connect(
                app.url(rest),
                protocols=codec.subprotocols(headers),
                headers=_request_headers(headers, app, drop=(codec.PROTOCOLS.lower(),)),
                timeout=ClientWSTimeout(ws_receive=None, ws_close=_CLOSE_S),
                max_msg_size=codec.MAX_MESSAGE_BYTES,
                decode_text=False,
            )
        except _NotUpgraded as refused:
            await _pass_on(incoming, refused.response, app)
            return
        except (ClientError, OSError, ValueError) as error:
            raise _unreachable(error, app) from error
        chosen = ((codec.PROTOCOLS, socket.protocol),) if socket.protocol else ()
        await _converse(incoming, socket, chosen)


async def _pass_on(incoming: Incoming, response: ClientResponse, app: Exposed) -> None:
    """Answer with ``response``, as it comes."""
    try:
        await incoming.answer(Head(status=response.status, headers=_answer_headers(response, app)), _body(response))
    finally:
        response.close()


async def _body(response: ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (ClientError, OSError) as error:
        raise StreamReset(Reset.INTERNAL, "the application broke its answer off") from error


async def _converse(incoming: Incoming, socket: _Socket, chosen: Headers) -> None:
    """Carry messages both ways until one side closes."""
    speaking = asyncio.create_task(_to_app(incoming, socket))
    try:
        await incoming.answer(Head(status=101, headers=chosen), _from_app(socket, speaking))
    finally:
        speaking.cancel()
        try:
            await asyncio.wait({speaking})
        finally:  # a link that ends cancels us twice
            await socket.close(code=_GOING_AWAY)


async def _to_app(incoming: Incoming, socket: _Socket) -> None:
    """Give the caller's messages to the application; whatever ends them ends the socket."""
    code, reason = _GOING_AWAY, b""
    with contextlib.suppress(GatewayError, ConnectionError):  # whichever end is gone, the other direction tells
        async for message in codec.messages(incoming):
            if message.type is Type.CLOSE:
                code, reason = message.closing()
                break
            await socket.send_frame(message.payload, WSMsgType(message.type))
    await socket.close(code=code, message=reason)


async def _from_app(socket: _Socket, speaking: asyncio.Task[None]) -> AsyncIterator[bytes]:
    while True:
        received = await socket.receive()
        if received.type is WSMsgType.TEXT or received.type is WSMsgType.BINARY:
            yield Message(Type(received.type), received.data).encoded()
        elif received.type is WSMsgType.CLOSE:
            yield Message.close(received.data, received.extra or "").encoded()
            return
        elif received.type is WSMsgType.CLOSING:  # the caller closes it, and that must reach the application
            await asyncio.wait({speaking})
            return
        elif isinstance(received.data, WebSocketError):  # too big, no UTF-8, no frame
            yield Message.close(received.data.code, str(received.data)).encoded()
            return
        else:
            raise StreamReset(Reset.INTERNAL, "the application broke the WebSocket off")


def _request_headers(headers: Headers, app: Exposed, *, drop: tuple[str, ...] = ()) -> CIMultiDict[str]:
    """What the application gets. A page of its own on the server is a page of its own here: Origin fits Host again."""
    outside = f"{header_of(headers, 'X-Forwarded-Proto')}://{header_of(headers, 'X-Forwarded-Host')}"
    return CIMultiDict(
        (name, str(app.base.origin()) if name.lower() == "origin" and value == outside else value)
        for name, value in strip_headers(headers, (*_NEVER_PASSED, *drop))
    )


def _answer_headers(response: ClientResponse, app: Exposed) -> Headers:
    """What the caller gets: addresses of the application as seen from its root."""
    raw = [(name.decode("ascii", "replace"), _text(value)) for name, value in response.raw_headers]
    return tuple((name, _seen_outside(name, value, app)) for name, value in strip_headers(raw, _NOT_OF_A_REFUSAL))


def _seen_outside(name: str, value: str, app: Exposed) -> str:
    match name.lower():
        case "location" | "content-location":
            return app.outside(value)
        case "set-cookie":
            return _cookie_outside(value, app)
    return value


def _cookie_outside(value: str, app: Exposed) -> str:
    """The cookie with its Path as seen from the application's root (RFC 6265 5.2.4)."""
    first, *attributes = value.split(";")
    for place, attribute in enumerate(attributes):
        key, separator, path = attribute.partition("=")
        if key.strip().lower() == "path" and separator:
            attributes[place] = f"{key}={app.outside_path(path.strip())}"
    return ";".join((first, *attributes))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _unreachable(error: Exception, app: Exposed) -> GatewayError:
    """What the caller is told; where the application should be is only for the operator."""
    if isinstance(error, ValueError) and not isinstance(error, ClientError):
        return BadRequest("a request that cannot be sent on")
    log.warning("a published application does not answer", app=app.name, url=str(app.base), error=str(error))
    if isinstance(error, TimeoutError):
        return UpstreamFailed(f"the application {app.name} did not take the connection in {_CONNECT_S:g} s")
    reason = getattr(error, "os_error", error)
    if isinstance(reason, ConnectionRefusedError):
        return UpstreamFailed(f"the application {app.name} is not running: connection refused")
    if isinstance(error, ClientConnectionError):
        return UpstreamFailed(f"the application {app.name} cannot be reached, or closed the connection")
    return UpstreamFailed(f"the application {app.name} gave an answer that is no HTTP")


def _told(error: HttpError) -> tuple[Head, bytes]:
    """An error of this end, in words."""
    text = (error.detail or error.title).encode()
    headers = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))))
    return Head(status=error.status, headers=(*headers, *error.headers.items())), text
