"""A node's own small web server: what the programs beside it call the gateway's handlers through."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Protocol

from aiohttp import web
from multidict import CIMultiDict

from gateway_core.errors import DeadlineExceeded, GatewayError, NotFound, StartupError
from gateway_core.http.body import BodyLimits, body, read_body
from gateway_core.http.gone import ClientGone
from gateway_core.http.stream import open_response
from gateway_core.observe.logs import get_logger
from gateway_pipe.link.calling import Answer
from gateway_pipe.link.http import (
    OWN_REQUEST_HEADERS,
    check_request,
    http_error,
    is_strict,
    lax_head,
    parse_timeout,
    server_timing,
    strict_head,
    strip_headers,
)
from gateway_pipe.link.model import Body, Headers, Kind, Limits, LinkError, LinkLost, Opening, Reset, StreamReset
from gateway_pipe.link.session import Link
from gateway_pipe.node.guard import check_caller

log = get_logger("gateway.pipe.node")

WAIT_FOR_LINK_S = 20.0
"""How long a call waits for a link that is away, as on the server."""

CALL_TIMEOUT_S = 300.0
"""How long a call without a limit of its own waits for its answer to begin."""

_PREFIX = "/server/"
_AT_ITS_OWN_PACE = BodyLimits(max_bytes=None, min_bytes_per_s=0.0)
_SMALL_BYTES = 64 * 1024
_STOP_S = 10.0


class Uplink(Protocol):
    """The link as its users see it: there or away."""

    async def wait_link(self, timeout_s: float) -> Link:
        """The link, waited for; raises Unavailable with Retry-After."""

    def status(self) -> dict[str, Any]:
        """What ``/status`` tells; ``connected`` is a boolean."""


class LocalServer:
    """``ANY /server/<noun>`` through ``uplink``, ``/healthz`` and ``/status``; ``url`` once it runs.

    ``sent`` is told the seconds from a call to the beginning of its answer.
    """

    def __init__(
        self,
        uplink: Uplink,
        *,
        host: str,
        port: int,
        sent: Callable[[float], None],
        wait_s: float = WAIT_FOR_LINK_S,
    ) -> None:
        self.url = ""
        self._uplink = uplink
        self._host = host
        self._port = port
        self._wait_s = wait_s
        self._sent = sent
        app = web.Application(middlewares=[_guarded(host)])
        app.router.add_route("*", _PREFIX + "{noun:.*}", self._relay)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/status", self._status)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=_STOP_S, auto_decompress=False
        )

    async def start(self) -> None:
        """Listen; raises StartupError that names the address."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            text = f"cannot listen on {self._host} port {self._port}: {error.strerror or error}"
            raise StartupError(f"{text}; choose another with --local") from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Take nothing new; what runs has 10 s to end."""
        await self._runner.cleanup()

    async def _health(self, _request: web.Request) -> web.Response:
        connected = bool(self._uplink.status()["connected"])
        return web.Response(text="ok\n" if connected else "no link\n", status=200 if connected else 503)

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(self._uplink.status())

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        size = request.content_length
        if not request.body_exists:
            return await self._call(request, b"")
        if size is not None and size <= _SMALL_BYTES:
            return await self._call(request, await read_body(request, _AT_ITS_OWN_PACE))
        async with aclosing(body(request, _AT_ITS_OWN_PACE)) as chunks:
            return await self._call(request, chunks)

    async def _call(self, request: web.Request, data: Body) -> web.StreamResponse:
        started = time.monotonic()
        given = request.headers.get("X-Request-Timeout")
        timeout_s = None if given is None else parse_timeout(given)
        shape = strict_head if is_strict(request.headers.get("X-Pipe-Status", "")) else lax_head
        async with self._answer(_opening(request), data, timeout_s) as (answer, waited_s):
            status, headers = shape(answer.head)
            took_s = time.monotonic() - started
            self._sent(took_s)
            timings = server_timing({"wait": waited_s * 1000, "link": (took_s - waited_s) * 1000})
            return await _send(request, answer, status=status, headers=(*headers, ("Server-Timing", timings)))

    @asynccontextmanager
    async def _answer(
        self, opening: Opening, data: Body, timeout_s: float | None
    ) -> AsyncIterator[tuple[Answer, float]]:
        """The answer and the seconds waited for a link; what provably did not begin is tried once more."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        waited_s = 0.0
        async with AsyncExitStack() as stack:
            for last in (False, True):
                asked = time.monotonic()
                link = await self._link(deadline)
                waited_s += time.monotonic() - asked
                left_s = CALL_TIMEOUT_S if deadline is None else max(0.001, deadline - time.monotonic())
                call = link.call(opening, data, timeout_s=left_s, whole=deadline is not None)
                try:
                    answer = await stack.enter_async_context(call)
                    break
                except (LinkLost, StreamReset) as error:
                    if last or not isinstance(data, bytes) or not _not_begun(error):
                        raise
            yield answer, waited_s

    async def _link(self, deadline: float | None) -> Link:
        """Raises Unavailable after the usual wait, DeadlineExceeded when the caller's time was up before."""
        left_s = self._wait_s if deadline is None else deadline - time.monotonic()
        if left_s >= self._wait_s:
            return await self._uplink.wait_link(self._wait_s)
        try:
            async with asyncio.timeout(left_s):
                return await self._uplink.wait_link(self._wait_s)
        except TimeoutError as error:
            raise DeadlineExceeded("no link to the gateway within the time that the caller set") from error


def _opening(request: web.Request) -> Opening:
    """What the call asks: the path as it was written, ``%2F`` and all."""
    _, prefix, target = request.raw_path.partition(_PREFIX)
    if not prefix:  # a letter of it was percent-encoded
        raise NotFound(f"write {_PREFIX} as it is")
    check_request(request.method, target)
    headers = strip_headers(request.headers.items(), OWN_REQUEST_HEADERS)
    return Opening(kind=Kind.NOUN, method=request.method, target=target, headers=headers)


def _not_begun(error: LinkLost | StreamReset) -> bool:
    return not error.started if isinstance(error, LinkLost) else error.code is Reset.REFUSED


async def _send(request: web.Request, answer: Answer, *, status: int, headers: Headers) -> web.StreamResponse:
    """The answer, small ones in one piece; where it breaks, so does the connection to the caller."""
    fields = CIMultiDict(headers)
    if answer.received and request.method != "HEAD":  # no more than a window of it, and in memory
        fields.pop("Content-Length", None)
        return web.Response(body=await answer.read(Limits.max_window), status=status, headers=fields)
    response = web.StreamResponse(status=status, headers=fields)
    try:
        async with open_response(request, response) as writer:
            async for chunk in answer:
                await writer.write(chunk)
    except LinkError as error:
        log.warning("an answer broke off", error=str(error))
        raise ClientGone("its answer broke off") from error
    return response


def _guarded(bound: str) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def guarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        origin, fetch_site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        try:
            check_caller(bound=bound, host=request.headers.get("Host", ""), origin=origin, fetch_site=fetch_site)
            return await handler(request)
        except ClientGone:
            return web.Response(status=ClientGone.status)
        except web.HTTPNotFound:
            return _problem(NotFound("this server has /server/<noun>, /status and /healthz"))
        except GatewayError as error:
            return _problem(http_error(error))

    return guarded


def _problem(error: GatewayError) -> web.Response:
    text = json.dumps(error.problem(), ensure_ascii=False)
    return web.Response(
        text=text, status=error.status, headers={**error.headers, "Content-Type": "application/problem+json"}
    )
