"""The archive plugin's routes: FPX's, and ours beside them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from aiohttp import hdrs, web
from multidict import CIMultiDict
from pydantic import BaseModel, Field

from gateway_archive.answers import file_headers, send_item, send_now, send_single
from gateway_archive.archive_answers import send_archive
from gateway_archive.browsing import browsing_routes
from gateway_archive.checking import CheckResult, check_order
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.downloads import DOWNLOADS_KEY, Downloads
from gateway_archive.errors import fpx_errors
from gateway_archive.links import StreamLink, link_id, read_link
from gateway_archive.owning import owning_routes
from gateway_archive.settings import ArchiveSettings
from gateway_archive.tickets import GenerateRequest, Ticket, TicketType
from gateway_archive.waiting import wait_for_turn
from gateway_core import (
    Body,
    ConfigError,
    Forbidden,
    Gateway,
    Invalid,
    Kind,
    NotFound,
    Route,
    SourceInfo,
    SourceRefused,
    SourceRequest,
    client_of,
)
from gateway_core.http.body import read_body
from gateway_core.http.json_body import validate
from gateway_core.http.ws import open_websocket
from gateway_core.observe.events import TICKET_CREATED

SCOPE = "archive:ticket"


class GenerateQuery(BaseModel):
    """``strict=1`` makes what would be a warning an error."""

    strict: bool = False


class PageQuery(BaseModel):
    """Ten tickets a page, counted from 1."""

    page: int = Field(1, ge=1, le=10**9)


class DownloadQuery(BaseModel):
    """Which kind of archive; ignored for ``stream`` tickets."""

    format: Literal["zip", "tar"] = "zip"


class LinkQuery(BaseModel):
    """The name of the client who signed the link."""

    client: str


class TicketCreated(BaseModel):
    """A new ticket: ``created`` is UTC in ISO 8601, ``warnings`` stands there only when there are some."""

    created: str
    type: TicketType
    id: str
    warnings: list[str] | None = None


class TicketListed(BaseModel):
    """A ticket in the list of its client."""

    created: str
    type: TicketType
    id: str


class TicketPage(BaseModel):
    """One page of the client's tickets, oldest first; ``count`` is of all pages."""

    page: int
    count: int
    tickets: list[TicketListed]


class ArchiveHandlers:
    """Handlers; thin: read, ask the domain, answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def _downloads(self) -> Downloads:
        return self._gateway.state[DOWNLOADS_KEY]

    async def generate(self, request: web.Request) -> web.Response:
        """Make a ticket.

        Whoever knows its id may download. Options that are not known are named in `warnings`; with `?strict=1` they
        are refused.
        """
        query = validate(GenerateQuery, dict(request.query), location="query")
        order = await self._downloads.orders.parse(await read_body(request), strict=query.strict)
        client = client_of(request)
        try:
            await self._downloads.check(order.items, client)
        except SourceRefused as exc:
            raise Invalid({"items": [exc.detail]}) from exc
        ticket = await self._downloads.store.create(order, client.id)
        self._gateway.emit(TICKET_CREATED, ticket=ticket.id, client=client.id, items=len(order.items))
        answer = {"created": _iso(ticket.created), "type": ticket.type.value, "id": ticket.id}
        return web.json_response({**answer, "warnings": list(order.warnings)} if order.warnings else answer)

    async def check(self, request: web.Request) -> web.Response:
        """Look at what a ticket of this body would give, without making it: sizes, types, what is missing and why."""
        order = await self._downloads.orders.parse(await read_body(request))
        result = await check_order(order, self._gateway.sources, client_of(request), lanes=self._downloads.lanes)
        return web.json_response(result.model_dump())

    async def index(self, request: web.Request) -> web.Response:
        """List the client's own tickets."""
        query = validate(PageQuery, dict(request.query), location="query")
        count, tickets = await self._downloads.store.page(query.page, client_of(request).id)
        listed = [{"created": _iso(t.created), "type": t.type.value, "id": t.id} for t in tickets]
        return web.json_response({"page": query.page, "count": count, "tickets": listed})

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Download a ticket: one ZIP of its files, or for a `stream` ticket the one file as it is.

        Needs no secret, the id is the right to download. When no file can be had: 502 with the reasons.
        """
        downloads = self._downloads
        format_name = validate(DownloadQuery, dict(request.query), location="query").format
        ticket = await downloads.store.get(request.match_info["id"])
        if request.method == hdrs.METH_HEAD:  # a link preview or a bot uses nothing up
            if ticket.type is TicketType.STREAM:
                return await self._stream(request, ticket)
            tracker = downloads.archives.witness.tracker(ticket)
            return await send_archive(request, downloads, ticket, tracker=tracker, format_name=format_name)
        async with downloads.answering(ticket) as tracker:
            if ticket.type is TicketType.STREAM:
                response = await self._stream(request, ticket, tracker)
                tracker.gave_all = response.status == 200
            else:
                response = await send_archive(request, downloads, ticket, tracker=tracker, format_name=format_name)
            await send_now(request, response)
            return response

    async def _stream(self, request: web.Request, ticket: Ticket, tracker: Tracker | None = None) -> web.StreamResponse:
        """The one file, or for HEAD what a GET would say of it."""
        item = ticket.items[0]
        name = ticket.options.filename or item.name
        return await send_item(request, self._downloads, ticket, item=item, name=name, tracker=tracker)

    async def wait(self, request: web.Request) -> web.StreamResponse:
        """Wait for a ticket's turn over a websocket: `{"position": 0, "available": false}`, at once and on each change.

        Closed with reason `available` when the download may begin.
        """
        ticket = await self._downloads.store.head(request.match_info["id"])
        async with open_websocket(request, draining=self._gateway.closing) as socket:
            await wait_for_turn(socket, self._downloads, ticket.id)
        return socket

    async def signed_stream(self, request: web.Request) -> web.StreamResponse:
        """Stream one URL named in a JSON web token, signed with HS256 under the client's secret.

        Claims: `url`, and as wanted `content-type`, `response_headers`, `exp`.
        """
        query = validate(LinkQuery, dict(request.query), location="query")
        client = await self._gateway.clients.find(query.client)
        if client is None or client.name != query.client:
            raise NotFound("Client not found")
        link = read_link(request.match_info["token"], await self._gateway.clients.secret_of(client.id))
        if not client.allows(SCOPE):
            raise Forbidden(f"the client lacks scope {SCOPE}")
        try:
            await self._gateway.sources.check(link.url, client)
        except SourceRefused as exc:
            raise Invalid({"url": [exc.detail or exc.title]}, location="url") from exc
        downloads = self._downloads
        async with downloads.admitted(link_id(request.match_info["token"])):
            source = SourceRequest(link.url, client=client, stall_s=downloads.settings.stall_timeout_s)
            return await send_single(request, downloads, source, describe=partial(_link_headers, link))


def archive_routes(gateway: Gateway) -> list[Route]:
    """All routes of the plugin; raises ConfigError when the plugin's settings are missing."""
    handlers, settings = ArchiveHandlers(gateway), gateway.section(ArchiveSettings)
    if settings.max_ticket_ttl < settings.ticket_ttl:
        raise ConfigError("ARCHIVE__MAX_TICKET_TTL is shorter than ARCHIVE__TICKET_TTL")
    size = settings.max_ticket_bytes
    owned: dict[str, Any] = {"scope": SCOPE, "errors": fpx_errors}
    capability: dict[str, Any] = {"public": True, "cors": True, "errors": fpx_errors}
    body: dict[str, Any] = {"body": Body.JSON, "request": GenerateRequest, "max_body_bytes": size}
    return [
        Route(
            method="POST",
            path="/ticket/generate",
            handler=handlers.generate,
            name="generate",
            query=GenerateQuery,
            response=TicketCreated,
            **owned,
            **body,
        ),
        Route(
            method="POST",
            path="/ticket/check",
            handler=handlers.check,
            name="check",
            response=CheckResult,
            **owned,
            **body,
        ),
        Route(
            method="GET",
            path="/ticket/",
            handler=handlers.index,
            name="index",
            query=PageQuery,
            response=TicketPage,
            **owned,
        ),
        Route(
            method="GET",
            path="/ticket/{id}/download",
            handler=handlers.download,
            name="download",
            kind=Kind.STREAM,
            query=DownloadQuery,
            media_type="application/zip",
            **capability,
        ),
        Route(
            method="GET",
            path="/ticket/{id}/wait",
            handler=handlers.wait,
            name="wait",
            kind=Kind.WEBSOCKET,
            **capability,
        ),
        Route(
            method="GET",
            path="/stream/url/{token}",
            handler=handlers.signed_stream,
            name="stream",
            kind=Kind.STREAM,
            query=LinkQuery,
            media_type="application/octet-stream",
            **capability,
        ),
        *browsing_routes(gateway),
        *owning_routes(gateway),
    ]


def _link_headers(link: StreamLink, info: SourceInfo) -> CIMultiDict[str]:
    """The link's, in any case, in place of the file's."""
    found = CIMultiDict(file_headers(info, url=link.url, name=None))
    if link.content_type:
        found[hdrs.CONTENT_TYPE] = link.content_type
    found.update(link.headers)
    return found


def _iso(unix_s: float) -> str:
    """UTC without an offset, as FPX writes it."""
    return datetime.fromtimestamp(unix_s, UTC).replace(tzinfo=None).isoformat()
