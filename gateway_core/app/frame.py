"""Around every request: its id, its log line, its metrics, and the answer to what nobody caught."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from itertools import count

from aiohttp import HttpVersion, hdrs, web
from aiohttp.typedefs import Middleware

from gateway_core.app.errors import UnexpectedError, from_aiohttp, problem_response
from gateway_core.app.guard import CORS_HEADERS, MOUNTED
from gateway_core.app.proof import PROOF
from gateway_core.app.traffic import Traffic
from gateway_core.errors import GatewayError, UnsupportedVersion
from gateway_core.gateway import Gateway
from gateway_core.http.gone import ClientGone
from gateway_core.http.links import client_address
from gateway_core.observe import metrics
from gateway_core.observe.logs import RequestLog, begin_context, get_logger
from gateway_core.routing import Handler
from gateway_core.version import __version__

log = get_logger(RequestLog.NAME)
log_request = RequestLog()

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
REQUEST_ID_HEADER = "X-Request-Id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CAPABILITY = re.compile(r"[A-Za-z0-9_.-]{24,}")
_VERSIONS = (HttpVersion(1, 0), HttpVersion(1, 1))
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"core:healthz", "core:readyz", "core:metrics"})


_PROCESS = secrets.token_hex(10)
_numbers = count(int.from_bytes(secrets.token_bytes(4)))


def _new_id() -> str:
    """An id that no other request has, here or elsewhere; it is no secret."""
    return f"{_PROCESS}{next(_numbers):012x}"


def frame(gateway: Gateway, traffic: Traffic) -> Middleware:
    """The one middleware, outside of everything."""

    @web.middleware
    async def framed(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(REQUEST_ID_HEADER, "")
        request[REQUEST_ID] = request_id = given if given and _GIVEN_ID.fullmatch(given) else _new_id()
        begin_context(request_id=request_id)
        started, status = time.monotonic(), 500
        traffic.begin(request.protocol)
        try:
            response = await _answer(request, handler)
            status = response.status
            return response
        except asyncio.CancelledError:
            status = 499
            metrics.CLIENTS_GONE.labels(_label(request)).inc()
            raise
        finally:
            traffic.end(request.protocol)
            _record(gateway, request, status=status, seconds=time.monotonic() - started)

    return framed


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if request.version not in _VERSIONS:
            raise UnsupportedVersion
        response = await handler(request)
        await _send(request, response)
        return _Sent(response) if isinstance(response, web.FileResponse) else response
    except ClientGone:
        metrics.CLIENTS_GONE.labels(_label(request)).inc()
        _cut(request)
        return web.Response(status=499)
    except web.HTTPException as error:
        return _render(request, from_aiohttp(error))
    except GatewayError as error:
        return _render(request, error)
    except Exception:
        log.exception("unexpected error", route=_label(request))
        metrics.ERRORS.labels(_label(request)).inc()
        return _render(request, UnexpectedError())


class _Sent(web.StreamResponse):
    """What aiohttp is given for a file that was sent already: it would open the file again."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__(status=response.status)
        self._response = response

    @property
    def keep_alive(self) -> bool | None:
        return self._response.keep_alive

    async def prepare(self, _request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, _data: bytes = b"") -> None:
        return None


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """What aiohttp would do outside of the frame: a file is sent here, and a drain has to wait for it."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except (ConnectionError, TimeoutError) as error:  # the second is the kernel's, about a client that takes nothing
        raise ClientGone("closed the connection") from error


def _render(request: web.Request, error: GatewayError) -> web.StreamResponse:
    if _begun(request):
        log.warning("answer cut", route=_label(request), error=str(error))
        _cut(request)
        return web.Response(status=499)
    response = problem_response(request, error)
    if error.status >= 500:
        response.force_close()
    return response


def _begun(request: web.Request) -> bool:
    return bool(request.writer is not None and request.writer.output_size)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer, and before them the proof of the request's body."""
    proof = request.get(PROOF)
    if proof is not None:
        await proof.demand()
    response.headers.extend(request.get(CORS_HEADERS, {}))
    response.headers[hdrs.SERVER] = f"content-gateway/{__version__}"  # aiohttp has put its own there before
    response.headers.setdefault(REQUEST_ID_HEADER, request.get(REQUEST_ID, ""))
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


def _label(request: web.Request) -> str:
    mounted = request.get(MOUNTED)
    return "unmatched" if mounted is None else mounted.label


def _shown_path(request: web.Request) -> str:
    """The path, or its pattern where the path is itself the right to use it; nobody's path loses what may be one."""
    mounted = request.get(MOUNTED)
    if mounted is None:
        return _CAPABILITY.sub("…", request.path)
    return mounted.plain_path if mounted.route.cors else request.path


def _record(gateway: Gateway, request: web.Request, *, status: int, seconds: float) -> None:
    label = _label(request)
    method = request.method if request.method in _METHODS else "other"
    metrics.count_request(label, method, status, seconds=seconds)
    if label in _QUIET:
        return
    log_request(
        "request",
        method=method,
        path=_shown_path(request),
        status=status,
        route=label,
        seconds=round(seconds, 4),
        client=client_address(request, gateway.trusted_proxies),
    )
