"""``/group/<selector>/<noun>``: one call to all nodes with a tag, or whose names match a pattern."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web

from gateway_core import BadRequest, DeadlineExceeded, Gateway, GatewayError, NotFound
from gateway_core.http.body import read_body
from gateway_core.http.stream import ResponseWriter, open_response
from gateway_pipe.hub.hub import Hub
from gateway_pipe.link.http import http_error, parse_timeout
from gateway_pipe.link.model import Head, Kind, Opening
from gateway_pipe.service import SERVICE_KEY
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.access import Reach, call_headers
from gateway_pipe.web.readable import readable
from gateway_pipe.web.target import target_of

AT_ONCE = 32
"""Nodes that one request calls at the same time; the next is called when a line was taken by the client."""

MAX_ANSWER_BYTES = 1024 * 1024
"""Of one node; for larger ones there is ``/client/``."""

_MEDIA_TYPE = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class GroupQuery:
    """What stands in the query for the group itself, or in headers; the rest of the query is the noun's."""

    target: str
    quorum: int | None
    timeout_s: float | None


class GroupHandlers:
    """The handler of calls to groups."""

    def __init__(self, gateway: Gateway) -> None:
        settings = gateway.section(PipeSettings)
        self._gateway = gateway
        self._slashes = settings.prefix.count("/") + 3
        self._timeout_s = float(settings.call_timeout)
        self._stall_s = gateway.settings.write_stall_s
        self._reach = Reach(gateway)

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Call a noun of all nodes that have the tag, or match the pattern, and that the caller may call.

        One JSON object a line as they answer: `node`, `ms` and either `status`, `code`, `content_type` and `data`
        (`data_base64` for what is neither text nor JSON), or `error` and `status`. The last line has the `summary`:
        how many `matched` and `answered`, who `failed`, was `away` or was `cancelled`, and whether the `quorum` was
        reached. `?quorum=N` ends it when N have answered well, and `?timeout=S` after so many seconds; in the headers
        `X-Pipe-Quorum` and `X-Request-Timeout` they leave the query to the noun. 404: nothing matches.
        """
        may_call = self._reach.of(request)
        wanted = group_query(request, target_of(request, self._slashes))
        hub = self._gateway.state[SERVICE_KEY].hub
        selector = request.match_info["selector"]
        matches = [match for match in await hub.matching(selector) if may_call(match.name)]
        if not matches:
            raise NotFound(f"no node {selector!r}, by tag or pattern, that this client may call")
        opening = Opening(
            kind=Kind.NOUN,
            method=hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method,
            target=wanted.target,
            headers=call_headers(request),
        )
        body = await read_body(request) if request.body_exists else b""
        group = _Group(
            hub,
            opening,
            body,
            names=[match.name for match in matches if match.connected],
            quorum=len(matches) if wanted.quorum is None else wanted.quorum,
            ends=time.monotonic() + (wanted.timeout_s or self._timeout_s),
        )
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: _MEDIA_TYPE, hdrs.CACHE_CONTROL: "no-store"})
        async with open_response(request, response, stall_s=self._stall_s) as writer:
            if not writer.bodyless:
                await group.ask_all(writer)
                away = sorted(match.name for match in matches if not match.connected)
                await writer.write(_line({"summary": {"matched": len(matches), **group.summary(), "away": away}}))
        return response


@dataclass
class _Group:
    """The calls of one request: ``names`` are asked until ``quorum`` have answered well or ``ends`` has come."""

    hub: Hub
    opening: Opening
    body: bytes
    names: Sequence[str]
    quorum: int
    ends: float
    answered: set[str] = field(default_factory=set)
    well: int = 0
    failed: set[str] = field(default_factory=set)

    def enough(self) -> bool:
        """Whether the quorum was reached."""
        return self.well >= self.quorum

    def summary(self) -> dict[str, Any]:
        """Who did what, of those that were asked."""
        left = set(self.names) - self.answered - self.failed
        return {
            "answered": len(self.answered),
            "failed": sorted(self.failed),
            "cancelled": sorted(left),
            "quorum": self.enough(),
        }

    async def ask_all(self, writer: ResponseWriter) -> None:
        """Call the nodes and write their lines; raises what the writer raises. Nothing runs afterwards."""
        turns, taking = iter(self.names), asyncio.Lock()
        at_once = min(AT_ONCE, len(self.names))
        askers = {asyncio.create_task(self._ask_some(turns, writer, taking)) for _ in range(at_once)}
        try:
            while askers and not self.enough():
                done, _ = await asyncio.wait(askers, return_when=asyncio.FIRST_COMPLETED)
                for asker in done:
                    asker.result()
                askers -= done
        finally:
            for asker in askers:
                asker.cancel()
            await asyncio.gather(*askers, return_exceptions=True)

    async def _ask_some(self, turns: Iterator[str], writer: ResponseWriter, taking: asyncio.Lock) -> None:
        for name in turns:
            line = await self._ask(name)
            async with taking:
                if self.enough():
                    return
                self._count(name, line)
                await writer.write(_line(line))
            if self.enough():
                return

    def _count(self, name: str, line: dict[str, Any]) -> None:
        if "error" in line:
            self.failed.add(name)
            return
        self.answered.add(name)
        self.well += line["status"] < 400

    async def _ask(self, name: str) -> dict[str, Any]:
        """One node's line, also where it could not be called."""
        began = time.monotonic()
        try:
            told = await self._called(name, self.ends - began)
        except GatewayError as error:
            shown = http_error(error)
            told = {"status": shown.status, "error": shown.detail or shown.title}
        return {"node": name, "ms": round((time.monotonic() - began) * 1000, 1), **told}

    async def _called(self, name: str, left_s: float) -> dict[str, Any]:
        """What a node answers; raises GatewayError."""
        if left_s <= 0:
            raise DeadlineExceeded("its turn did not come in the time that the caller set")
        hub, opening = self.hub, self.opening
        async with hub.call(name, opening, self.body, timeout_s=left_s, whole=True, wait_s=0.0) as called:
            return _told(called.answer.head, await called.answer.read(MAX_ANSWER_BYTES))


def group_query(request: web.Request, target: str) -> GroupQuery:
    """What the request asks of the group; raises BadRequest.

    ``quorum`` and ``timeout`` are taken out of ``target`` unless the header with the same meaning is there.
    """
    headers = request.headers
    given = {"quorum": headers.get("X-Pipe-Quorum"), "timeout": headers.get("X-Request-Timeout")}
    path, mark, query = target.partition("?")
    kept = []
    for part in query.split("&") if mark else ():
        name, _, value = part.partition("=")
        if given.get(name, "") is None:
            given[name] = value
        else:
            kept.append(part)
    quorum, timeout = given["quorum"], given["timeout"]
    return GroupQuery(
        target="?".join([path, "&".join(kept)]) if kept else path,
        quorum=None if quorum is None else _quorum(quorum),
        timeout_s=None if timeout is None else parse_timeout(timeout),
    )


def _quorum(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise BadRequest(f"quorum: expected a number above 0, not {text!r}")
    return int(text)


def _told(head: Head, data: bytes) -> dict[str, Any]:
    content_type = head.header(hdrs.CONTENT_TYPE)
    told = {"status": head.status, "code": head.code, "content_type": content_type}
    return {**told, **readable(data, content_type, name="data")}


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"
