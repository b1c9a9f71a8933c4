"""``/client/<node>/<noun>``: a request becomes a call of a node's handler, its answer an HTTP response."""

from __future__ import annotations

from contextlib import aclosing
from typing import NamedTuple

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway_core import Gateway, UpstreamFailed
from gateway_core.http.body import body, read_body
from gateway_pipe.hub.calls import Called
from gateway_pipe.link.http import http_error, is_strict, lax_head, parse_timeout, server_timing, strict_head
from gateway_pipe.link.model import Body, Headers, Kind, LinkError, Opening
from gateway_pipe.service import SERVICE_KEY
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.access import call_headers, check_page
from gateway_pipe.web.answers import SPEAKS_FOR_THE_ORIGIN, harmless, relay
from gateway_pipe.web.calls import accept, wants_durable
from gateway_pipe.web.target import target_of

SMALL_BYTES = 64 * 1024
"""Bodies up to this size are read before the call, and such answers sent at once: a stream costs more."""

_RECEIVED_BYTES = 4 * 1024 * 1024  # more than any window
_NOT_OF_DATA = SPEAKS_FOR_THE_ORIGIN | {"content-security-policy", "www-authenticate"}
_LEADS_ELSEWHERE = frozenset({"content-location", "location", "refresh"})
"""A caller that follows would show its credential there."""
_FOR_OTHER_ORIGINS = "access-control-"

_BODYLESS = frozenset({204, 304})  # their Content-Length is of another answer, RFC 9110 8.6
_SANDBOX = "sandbox; default-src 'none'"


class _Wanted(NamedTuple):
    """How a caller wants its answer: with real statuses, and whole within what time, None for the settings'."""

    strict: bool
    timeout_s: float | None


class NounHandlers:
    """The handler of calls to nodes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open = not gateway.section(PipeSettings).call_auth
        self._slashes = gateway.section(PipeSettings).prefix.count("/") + 3
        self._stall_s = gateway.settings.write_stall_s

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Call a noun of a node: GET `time/utc` is its handler's `get_time_utc`, `cat//a/b` passes `a` and `b`.

        The answer is 200 with the handler's data and `X-Event-Return-Code`, whatever it returned, 255 for a noun that
        is not there and 251 where the handler raised; with `X-Pipe-Status: strict` it has a real status. Without a noun
        the node tells what it has. 404: no such node. 503: it is away, and did not come back while the call waited.
        504: the answer was not there in the seconds of `X-Request-Timeout`, or had not begun in the settings' time.
        502: the link broke meanwhile. With `Prefer: respond-async` the call is kept until it was made.
        """
        if self._open:
            check_page(request, self._gateway)
        headers = request.headers
        given = headers.get("X-Request-Timeout")
        strict = is_strict(headers.get("X-Pipe-Status", ""))
        wanted = _Wanted(strict, None if given is None else parse_timeout(given))
        opening = Opening(
            kind=Kind.NOUN,
            method=hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method,
            target=target_of(request, self._slashes),
            headers=call_headers(request),
        )
        if not request.body_exists:
            return await self._carry_out(request, opening, b"", wanted=wanted)
        size = request.content_length
        if size is not None and size <= SMALL_BYTES:
            return await self._carry_out(request, opening, await read_body(request), wanted=wanted)
        async with aclosing(body(request)) as chunks:
            return await self._carry_out(request, opening, chunks, wanted=wanted)

    async def _carry_out(
        self, request: web.Request, opening: Opening, data: Body, *, wanted: _Wanted
    ) -> web.StreamResponse:
        service, node = self._gateway.state[SERVICE_KEY], request.match_info["node"]
        if wants_durable(request):
            return await accept(request, service, node, opening=opening, body=data)
        strict, timeout_s = wanted
        try:
            async with service.hub.call(
                node, opening, data, timeout_s=timeout_s, whole=timeout_s is not None
            ) as called:
                return await self._answer(request, called, strict=strict)
        except LinkError as error:
            raise http_error(error) from error

    async def _answer(self, request: web.Request, called: Called, *, strict: bool) -> web.StreamResponse:
        answer = called.answer
        status, pairs = strict_head(answer.head) if strict else lax_head(answer.head)
        if status < 200:  # of an interim response (RFC 9110 15.2), which a node has no business to send
            status = 502
        headers = _sandboxed(pairs)
        timings = called.timings
        headers["Server-Timing"] = server_timing({"wait": timings["wait"], "link": timings["link"]})
        received = await answer.read(_RECEIVED_BYTES) if answer.received else None
        if received is not None and len(received) <= SMALL_BYTES:
            said = headers.pop(hdrs.CONTENT_LENGTH, None)
            if said is not None and status not in _BODYLESS and int(said) != len(received):
                raise UpstreamFailed("the node's answer is not as long as it said")
            return web.Response(body=received, status=status, headers=headers)
        response = web.StreamResponse(status=status, headers=headers)
        await relay(request, response, received or answer, stall_s=self._stall_s)
        return response


def _sandboxed(pairs: Headers) -> CIMultiDict[str]:
    """Headers of an answer that shares its origin with the gateway and with other nodes, and must not speak for it."""
    kept = harmless(pairs, _NOT_OF_DATA | _LEADS_ELSEWHERE)
    headers = CIMultiDict(pair for pair in kept if not pair[0].lower().startswith(_FOR_OTHER_ORIGINS))
    headers[hdrs.CONTENT_SECURITY_POLICY] = _SANDBOX
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    return headers
