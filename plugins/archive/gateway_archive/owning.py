"""What the owner of a ticket may see of it and do with it: how its downloads go, and an end to it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, Literal

from aiohttp import hdrs, web
from pydantic import BaseModel

from gateway_archive.answers import iso
from gateway_archive.downloads import DOWNLOADS_KEY, Downloads
from gateway_archive.errors import fpx_errors
from gateway_archive.ledger.layouts import Layouts
from gateway_archive.ledger.responses import RUNNING, Response, Responses
from gateway_archive.ledger.sweeping import sweep_orphans
from gateway_archive.report import Failure
from gateway_archive.tickets import Ticket, TicketType
from gateway_core import Gateway, Kind, NotFound, Route, TooManyRequests, client_of
from gateway_core.http.sse import ServerEvent, send_events

SCOPE = "archive:ticket"
LOOK_EVERY_S = 1.0
SPEED_OVER_S = 5.0
MOST_WATCHERS = 200
"""Event streams of one process; each costs some look-ups in the database a second."""
FORMATS = ("zip", "tar")


class DownloadStatus(BaseModel):
    """One answer to a request for the download: ``sent`` bytes of it, at ``speed`` bytes a second.

    ``total`` is of the whole, which several answers may give in parts; null where nobody knows it. ``entry`` is the
    file under way, ``failures`` counts the missing ones.
    """

    id: str
    state: Literal["running", "completed", "aborted"]
    began: str
    updated: str
    sent: int
    total: int | None
    speed: int
    entry: str
    failures: int


class FailureStatus(BaseModel):
    """A file that cannot be had; ``url`` is without what is secret in it."""

    name: str
    url: str
    reason: str


class QueueStatus(BaseModel):
    """Where the ticket stands in the queue: 0 is next; ``available`` when its download may begin now."""

    position: int
    available: bool


class TicketStatus(BaseModel):
    """A ticket as it is: its last downloads, newest first, and the files that are missing in its archive.

    ``queue`` is null for a ticket that does not wait.
    """

    id: str
    type: TicketType
    created: str
    expires: str
    downloads: list[DownloadStatus]
    failures: list[FailureStatus]
    queue: QueueStatus | None


class OwningHandlers:
    """Handlers of ``/ticket/<id>/status`` and ``/ticket/<id>/events``, and of DELETE."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._watchers = 0

    @property
    def _downloads(self) -> Downloads:
        return self._gateway.state[DOWNLOADS_KEY]

    async def status(self, request: web.Request) -> web.Response:
        """Show how a ticket's downloads go, which of its files are missing, and its place in the queue."""
        ticket = await self._owned(request)
        shown = await _Watch(self._downloads, ticket).look()
        return web.json_response(shown, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Follow a ticket as server-sent events: a `status` at once and whenever it changes, `gone` at its end."""
        watch = _Watch(self._downloads, await self._owned(request))
        if self._watchers >= MOST_WATCHERS:
            raise TooManyRequests(f"{self._watchers} event streams are open", retry_after_s=5)
        self._watchers += 1
        try:
            return await send_events(request, watch.events(), draining=self._gateway.closing)
        finally:
            self._watchers -= 1

    async def delete(self, request: web.Request) -> web.Response:
        """End a ticket at once, with all that is kept for it; downloads under way are cut."""
        ticket = await self._owned(request)
        await self._downloads.store.drop(ticket.id)
        await sweep_orphans(self._gateway.db)
        return web.Response(status=204)

    async def _owned(self, request: web.Request) -> Ticket:
        """The ticket asked for, without its items; another client's is NotFound, but for an operator."""
        ticket, client = await self._downloads.store.head(request.match_info["id"]), client_of(request)
        if ticket.client_id != client.id and not client.allows("admin"):
            raise NotFound("Ticket not found")
        return ticket


def owning_routes(gateway: Gateway) -> list[Route]:
    """Routes for the client who made a ticket."""
    handlers = OwningHandlers(gateway)
    owned: dict[str, Any] = {"scope": SCOPE, "errors": fpx_errors}
    return [
        Route(
            method="GET",
            path="/ticket/{id}/status",
            handler=handlers.status,
            name="status",
            response=TicketStatus,
            **owned,
        ),
        Route(
            method="GET",
            path="/ticket/{id}/events",
            handler=handlers.events,
            name="events",
            kind=Kind.STREAM,
            media_type="text/event-stream",
            **owned,
        ),
        Route(method="DELETE", path="/ticket/{id}", handler=handlers.delete, name="delete", **owned),
    ]


class _Watch:
    """One ticket, looked at once or again and again."""

    def __init__(self, downloads: Downloads, ticket: Ticket) -> None:
        self._downloads, self._ticket = downloads, ticket
        self._responses, self._layouts = Responses(downloads.gateway), Layouts(downloads.gateway)
        self._left_out: dict[str, tuple[str, tuple[Failure, ...]]] = {}
        self._speeds: dict[str, Speed] = {}

    async def look(self) -> dict[str, Any]:
        """How it is now, as TicketStatus has it."""
        ticket, downloads = self._ticket, self._downloads
        responses = await self._responses.of(ticket.id)
        self._speeds = {response.id: self._speeds.get(response.id, Speed(response)) for response in responses}
        place = await downloads.turns.place(ticket.id) if downloads.settings.queue else None
        return {
            "id": ticket.id,
            "type": ticket.type.value,
            "created": iso(ticket.created),
            "expires": iso(ticket.expires),
            "downloads": [self._download(response) for response in responses],
            "failures": [failure.public() for failure in await self._failures()],
            "queue": None if place is None else {"position": place.position, "available": place.available},
        }

    async def events(self) -> AsyncGenerator[ServerEvent, None]:
        """A ``status`` now and after each change, then ``gone``."""
        told = ""
        try:
            while True:
                await self._downloads.store.head(self._ticket.id)
                text = json.dumps(await self.look())
                if text != told:
                    yield ServerEvent(text, event="status")
                    told = text
                await asyncio.sleep(LOOK_EVERY_S)
        except NotFound:
            yield ServerEvent(json.dumps({"id": self._ticket.id}), event="gone")

    def _download(self, response: Response) -> Mapping[str, Any]:
        return {
            "id": response.id,
            "state": response.state,
            "began": iso(response.began),
            "updated": iso(response.updated),
            "sent": response.sent,
            "total": response.total,
            "speed": self._speeds[response.id].now(response),
            "entry": response.entry,
            "failures": response.failures,
        }

    async def _failures(self) -> Iterable[Failure]:
        """What the ticket's archives leave out, in every format, each file once."""
        found: dict[str, Failure] = {}
        for format_name in FORMATS:
            stamp = await self._layouts.stamp(self._ticket.id, format_name)
            if stamp is None:
                continue
            known = self._left_out.get(format_name)
            if known is None or known[0] != stamp.etag:
                loaded = await self._layouts.load(self._ticket.id, format_name)
                failures = () if loaded is None else tuple(loaded[1].failures)
                known = self._left_out[format_name] = (stamp.etag, failures)
            losses = await self._layouts.losses(self._ticket.id, stamp.etag)
            found |= {failure.name: failure for failure in (*known[1], *losses.values())}
        return found.values()


class Speed:
    """Of one download that is watched: over the last seconds, before that since it began."""

    def __init__(self, response: Response) -> None:
        self._seen = deque([(response.began, 0)])
        """Times in Unix seconds, and bytes sent until then."""

    def now(self, response: Response) -> int:
        """Bytes a second, 0 for a download that has ended."""
        if response.state != RUNNING:
            return 0
        seen = self._seen
        if response.updated > seen[-1][0]:
            seen.append((response.updated, response.sent))
        while len(seen) > 2 and seen[1][0] <= response.updated - SPEED_OVER_S:
            seen.popleft()
        (since, before), (until, after) = seen[0], seen[-1]
        return round((after - before) / (until - since)) if until > since else 0
