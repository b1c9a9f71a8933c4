"""Durable calls over HTTP: accepted with 202, asked after, fetched, forgotten."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from gateway_core import BadRequest, Client, Gateway, Gone, NotFound, Route, Unauthorized, client_of
from gateway_core.http.json_body import validate
from gateway_core.http.links import external_base
from gateway_pipe.durable.model import MAX_TTL_S, Call, CallState, NewCall
from gateway_pipe.durable.store import CallStore
from gateway_pipe.durable.topics import ERASED, call_topic
from gateway_pipe.link.http import RETURN_CODE, is_strict
from gateway_pipe.link.model import Body, Head, Opening
from gateway_pipe.service import SERVICE_KEY, Service
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.answers import relay
from gateway_pipe.web.readable import readable

MAX_WAIT_S = 60.0
IDEMPOTENCY_KEY = "Idempotency-Key"
TTL = "X-Pipe-TTL"
PREFERENCE = "respond-async"

_POLL_S = 1.0
_INLINE_BYTES = 1 << 20
_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_DESCRIBE = ("Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition")
_NO_STORE: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store"}


class WaitQuery(BaseModel):
    """With ``wait`` the answer comes when the call has its result, or after so many seconds."""

    wait: float = Field(0.0, ge=0.0, le=MAX_WAIT_S)


class ListQuery(BaseModel):
    """Which calls: of one node, in one state, and at most how many."""

    node: str = Field("", max_length=128)
    state: CallState | None = None
    limit: int = Field(100, ge=1, le=1000)


class CallStatus(BaseModel):
    """A durable call. Times are Unix seconds; ``expires`` is the end of its life while it waits, then of its result.

    ``result`` is JSON or text as its ``content_type`` says, ``result_base64`` any other; above 1 MiB there is neither,
    the bytes are at ``result_url``.
    """

    id: str
    node: str
    state: CallState
    done: bool
    method: str
    target: str
    code: int | None
    status: int | None
    content_type: str | None
    result: Any = None
    result_base64: str | None = None
    result_bytes: int | None
    result_url: str | None = None
    created: float
    expires: float
    ended: float | None
    attempts: int


class CallList(BaseModel):
    """Calls of the client, newest first."""

    calls: list[CallStatus]


def wants_durable(request: web.BaseRequest) -> bool:
    """Whether the request has ``Prefer: respond-async`` (RFC 7240 4.1)."""
    preferences = ",".join(request.headers.getall("Prefer", ())).split(",")
    return any(text.partition(";")[0].strip().lower() == PREFERENCE for text in preferences)


async def accept(request: web.Request, service: Service, node: str, *, opening: Opening, body: Body) -> web.Response:
    """Keep a call for ``node`` and answer 202 with where it can be asked after.

    Raises BadRequest for a wrong Idempotency-Key or X-Pipe-TTL, and what ``CallStore.accept`` raises.
    """
    new = NewCall(
        client_id=owner_of(request, service.settings).id,
        node=node,
        opening=opening,
        ttl_s=_ttl_s(request, service.settings.ttl),
        key=_idempotency_key(request),
    )
    base = _base(request, service.gateway)
    call = await service.calls.accept(new, body)
    if call.id == new.id:
        service.deliveries.announce(node)
    url = f"{base}/{call.id}"
    headers: dict[str, str] = {hdrs.LOCATION: urlsplit(url).path, "Preference-Applied": PREFERENCE, **_NO_STORE}
    return web.json_response(call.described() | {"url": url}, status=202, headers=headers)


def owner_of(request: web.Request, settings: PipeSettings) -> Client:
    """Whose calls the request may make and see: without ``CALL_AUTH`` all are nobody's.

    The calls are their client's whatever its scopes are now: a client for one node only must see what came of its call.
    Raises Unauthorized.
    """
    if not settings.call_auth:
        return Client.ANONYMOUS
    client = client_of(request)
    if client.anonymous:
        raise Unauthorized("no valid credential; send the client's secret in Authorization")
    return client


class CallHandlers:
    """Handlers of ``/pipe/calls``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def listed(self, request: web.Request) -> web.Response:
        """The client's durable calls, newest first, without their results."""
        query = validate(ListQuery, dict(request.query), location="query")
        owner = self._owner(request)
        found = await self._calls.listed(owner, node=query.node, state=query.state, limit=query.limit)
        return web.json_response({"calls": [call.described() for call in found]}, headers=_NO_STORE)

    async def show(self, request: web.Request) -> web.Response:
        """How a durable call is, and its result when it has one; 410 when its time was over before.

        With `?wait=30` the answer comes when the call has ended, or after as many seconds, at most 60.
        """
        call = await self._within(request)
        said = call.described()
        if call.state is CallState.DONE:
            said["result_url"] = f"{_base(request, self._gateway)}/{call.id}/result"
            said |= await self._inlined(call)
        status = 410 if call.state is CallState.EXPIRED else 200
        return web.json_response(said, status=status, headers=_NO_STORE)

    async def result(self, request: web.Request) -> web.StreamResponse:
        """What the node answered, byte for byte; 202 before that, 410 when its time was over before.

        As with the call itself, `X-Event-Return-Code` has the code and `X-Pipe-Status: strict` asks for real statuses.
        """
        strict = is_strict(request.headers.get("X-Pipe-Status", ""))
        call = await self._within(request)
        if call.state is CallState.EXPIRED:
            raise Gone("No answer came in the call's time")
        if call.head is None or call.result is None:
            return web.json_response(call.described(), status=202, headers=_NO_STORE)
        status = 200 if not strict else call.head.status if call.head.status >= 200 else 502
        response = web.StreamResponse(status=status, headers=_result_headers(call.head))
        response.content_length = call.result.size_bytes
        async with self._calls.result(call) as content:
            await relay(request, response, content, stall_s=self._gateway.settings.write_stall_s)
        return response

    async def delete(self, request: web.Request) -> web.Response:
        """Forget a call and its result. One that waits is not carried out, unless the node has it already."""
        call_id, owner = _asked(request), self._owner(request)
        await self._calls.erase(call_id, owner)
        self._gateway.wakeups.publish(ERASED)
        self._gateway.wakeups.publish(call_topic(call_id), through_database=False)
        return web.Response(status=204)

    @property
    def _calls(self) -> CallStore:
        return self._gateway.state[SERVICE_KEY].calls

    def _owner(self, request: web.Request) -> str:
        return owner_of(request, self._gateway.section(PipeSettings)).id

    async def _within(self, request: web.Request) -> Call:
        """The call in its final state, or as it is after ``wait``; at once when the gateway drains. Raises NotFound."""
        query = validate(WaitQuery, dict(request.query), location="query")
        call_id, owner = _asked(request), self._owner(request)
        clock = asyncio.get_running_loop().time
        deadline = clock() + query.wait
        with self._gateway.wakeups.subscribe(call_topic(call_id)) as signal:
            while True:
                call = await self._calls.find(call_id, owner)
                left = deadline - clock()
                if call.state is not CallState.WAITING or left <= 0 or self._gateway.draining.is_set():
                    return call
                await signal.wait(min(_POLL_S, left))

    async def _inlined(self, call: Call) -> dict[str, Any]:
        if call.result is None or call.result.size_bytes > _INLINE_BYTES:
            return {}
        async with self._calls.result(call) as content:
            data = content if isinstance(content, bytes) else b"".join([chunk async for chunk in content])
        return readable(data, call.content_type, name="result")


def calls_routes(gateway: Gateway) -> list[Route]:
    """Routes below ``/pipe/calls``; their handlers see to whose calls are meant, whatever the client's scopes."""
    handlers = CallHandlers(gateway)
    one = "/pipe/calls/{id}"
    return [
        Route(
            method="GET",
            path="/pipe/calls",
            handler=handlers.listed,
            name="calls",
            public=True,
            query=ListQuery,
            response=CallList,
        ),
        Route(
            method="GET",
            path=one,
            handler=handlers.show,
            name="call",
            public=True,
            query=WaitQuery,
            response=CallStatus,
        ),
        Route(
            method="GET",
            path=f"{one}/result",
            handler=handlers.result,
            name="call_result",
            public=True,
            query=WaitQuery,
            media_type="application/octet-stream",
        ),
        Route(method="DELETE", path=one, handler=handlers.delete, name="call_delete", public=True),
    ]


def _asked(request: web.Request) -> str:
    """The id in the path; raises NotFound for what is none."""
    text = request.match_info["id"]
    if not _ID.fullmatch(text):
        raise NotFound("Call not found")
    return text


def _base(request: web.BaseRequest, gateway: Gateway) -> str:
    """Absolute URL of all calls; raises BadRequest for a Host that cannot be in one."""
    base = external_base(request, gateway.public_url, gateway.trusted_proxies)
    return f"{base}{gateway.section(PipeSettings).prefix}/pipe/calls"


def _ttl_s(request: web.BaseRequest, default_s: float) -> float:
    text = request.headers.get(TTL)
    if text is None:
        return min(default_s, MAX_TTL_S)
    seconds = float(text) if _SECONDS.fullmatch(text.strip()) else 0.0
    if not 0 < seconds <= MAX_TTL_S:
        raise BadRequest(f"{TTL}: expected seconds above 0, at most {MAX_TTL_S:.0f}, not {text!r}")
    return seconds


def _idempotency_key(request: web.BaseRequest) -> str:
    """Empty where there is none."""
    key = request.headers.get(IDEMPOTENCY_KEY, "").strip()
    if key and not _KEY.fullmatch(key):
        raise BadRequest(f"{IDEMPOTENCY_KEY}: expected at most 255 printable ASCII characters")
    return key


def _result_headers(head: Head) -> dict[str, str]:
    """What describes the bytes, and nothing that could speak for this origin to a browser."""
    described = {name: head.header(name) for name in _DESCRIBE}
    kept = {name: value.encode(errors="replace").decode() for name, value in described.items() if value}
    return {**_NO_STORE, hdrs.CONTENT_SECURITY_POLICY: "sandbox", **kept, RETURN_CODE: str(head.code)}
