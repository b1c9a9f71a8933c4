"""What a ticket's archive holds, and each of its files alone; as with the download, the ticket's id is the right."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from aiohttp import hdrs, web
from pydantic import BaseModel

from gateway_archive.answers import iso, send_item, send_now
from gateway_archive.delivery.archive import Archive
from gateway_archive.downloads import DOWNLOADS_KEY, Downloads
from gateway_archive.errors import fpx_errors
from gateway_archive.names import NameRegistry, entry_name, folder_name, name_from_url
from gateway_archive.report import REPORT_NAME, Failure
from gateway_archive.tickets import OnError, Ticket, TicketType
from gateway_core import Forbidden, Gateway, Kind, NotFound, Route
from gateway_core.http.conditional import ETag
from gateway_core.http.stream import open_response

_IN_THREAD_ITEMS = 1000
_BATCH = 500
"""Entries written at once: some milliseconds of work."""

_YEAR_10000 = 253_402_300_800
"""In Unix seconds: RFC 3339 ends before it, a ticket's dates do not."""

_UNKNOWN = {"etag": None, "length": None}

_Row = Mapping[str, Any]


class EntryListed(BaseModel):
    """One file or folder: ``n`` is its item in the ticket, counted from 0, ``name`` its path, ``/`` at a folder's end.

    ``crc32`` is eight hex digits, ``offset`` where its local header begins in the archive. What is not known, or not
    to be had, is null; ``reason`` stands there for a failed one.
    """

    n: int
    name: str
    size: int | None
    crc32: str | None
    modified: str | None
    offset: int | None
    state: Literal["ready", "failed"]
    reason: str | None = None


class Entries(BaseModel):
    """A ticket's archive, or the file of a ``stream`` ticket, in the ticket's order.

    ``etag`` is as the download's header has it and ``length`` in bytes; both are null where the length cannot be known
    before the archive is made.
    """

    format: Literal["zip", "stream"]
    etag: str | None
    length: int | None
    entries: list[EntryListed]


class BrowsingHandlers:
    """Handlers of ``/ticket/<id>/entries`` and ``/ticket/<id>/file/<n>``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def _downloads(self) -> Downloads:
        return self._gateway.state[DOWNLOADS_KEY]

    async def entries(self, request: web.Request) -> web.StreamResponse:
        """List what is in a ticket's archive: names, sizes, dates, CRC-32s, offsets, and what cannot be had and why.

        The sources are asked for what the ticket does not say, once for the listing and all downloads.
        """
        ticket = await self._downloads.store.get(request.match_info["id"])
        archive = await self._archive(ticket)
        if archive is None:
            names = await _names(ticket, len(ticket.items))
            return await self._listed(request, {"format": ticket.type, **_UNKNOWN}, _unfrozen(ticket, names))
        shown = {"etag": str(ETag(archive.layout.etag)), "length": archive.layout.total_bytes}
        return await self._listed(request, {"format": ticket.type, **shown}, _frozen(archive))

    async def _archive(self, ticket: Ticket) -> Archive | None:
        """The ticket's ZIP as it is frozen, from now on at the latest; None where it has no known length."""
        if ticket.type is not TicketType.ZIP:
            return None
        archives = self._downloads.archives
        while (archive := await archives.open(ticket)) is not None and not await archives.commit(archive):
            pass  # another one was faster
        return archive

    async def _listed(self, request: web.Request, head: _Row, rows: Iterator[_Row]) -> web.StreamResponse:
        """A JSON object of ``head`` and ``entries``, written as it is made: there may be a hundred thousand."""
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-store"})
        async with open_response(request, response, stall_s=self._gateway.settings.write_stall_s) as writer:
            if not writer.bodyless:
                text = json.dumps(head)[:-1] + ', "entries": ['
                while batch := list(itertools.islice(rows, _BATCH)):
                    await writer.write((text + json.dumps(batch)[1:-1]).encode())
                    text = ", "
                await writer.write(b"]}" if text == ", " else f"{text}]}}".encode())
        return response

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Download one item of a ticket alone, as its source gives it, under its name in the archive.

        Ranges and conditions are obeyed where the source proves its version. A ticket for one use has no files alone.
        """
        downloads = self._downloads
        ticket = await downloads.store.get(request.match_info["id"])
        n = _number(request.match_info["n"])
        if n >= len(ticket.items) or (item := ticket.items[n]).is_folder:
            raise NotFound("File not found")
        if ticket.options.once:
            raise Forbidden("a ticket for one use is downloaded whole")
        name = await _file_name(ticket, n)
        if request.method == hdrs.METH_HEAD:
            return await send_item(request, downloads, ticket, item=item, name=name)
        async with downloads.answering(ticket) as tracker:
            tracker.entry = name or ""
            response = await send_item(request, downloads, ticket, item=item, name=name, tracker=tracker)
            await send_now(request, response)
            return response


def browsing_routes(gateway: Gateway) -> list[Route]:
    """Routes for whoever has a ticket's id."""
    handlers = BrowsingHandlers(gateway)
    capability: dict[str, Any] = {"public": True, "cors": True, "errors": fpx_errors}
    return [
        Route(
            method="GET",
            path="/ticket/{id}/entries",
            handler=handlers.entries,
            name="entries",
            response=Entries,
            **capability,
        ),
        Route(
            method="GET",
            path="/ticket/{id}/file/{n}",
            handler=handlers.file,
            name="file",
            kind=Kind.STREAM,
            media_type="application/octet-stream",
            **capability,
        ),
    ]


def _frozen(archive: Archive) -> Iterator[_Row]:
    """What was frozen, with what has become known or failed since, and what was left out, by item."""
    frozen = archive.frozen
    entries = ((frozen[i].item, i) for i in range(len(frozen)))
    left_out = zip(frozen.failed_items, itertools.count(len(frozen)), strict=False)
    for item, place in heapq.merge(entries, sorted(left_out)):
        if place >= len(frozen):
            yield _failed(item, frozen.failures[place - len(frozen)], size=None)
        elif place in archive.losses:
            yield _failed(item, archive.losses[place], size=frozen.size(place))
        else:
            yield _ready(archive, place)


def _ready(archive: Archive, place: int) -> _Row:
    entry, crc32 = archive.frozen[place], archive.crc32(place)
    offset = archive.layout.start(place)
    return _row(entry.item, entry.name, entry.size, crc32=crc32, modified=entry.modified, offset=offset)


def _row(
    n: int, name: str, size: int | None, *, crc32: int | None, modified: float | None, offset: int | None = None
) -> _Row:
    return {
        "n": n,
        "name": name,
        "size": size,
        "crc32": None if crc32 is None else f"{crc32:08x}",
        "modified": None if modified is None or modified >= _YEAR_10000 else iso(modified),
        "offset": offset,
        "state": "ready",
    }


def _failed(item: int, failure: Failure, *, size: int | None) -> _Row:
    unknown = dict.fromkeys(("crc32", "modified", "offset"))
    return {"n": item, "name": failure.name, "size": size, **unknown, "state": "failed", "reason": failure.reason}


def _unfrozen(ticket: Ticket, names: Sequence[str | None]) -> Iterator[_Row]:
    """What the ticket alone says."""
    for n, (item, name) in enumerate(zip(ticket.items, names, strict=True)):
        if name is not None:
            crc32, size = (0, 0) if item.is_folder else (item.crc32, item.size)
            yield _row(n, name, size, crc32=crc32, modified=item.modified)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotFound("File not found")
    return int(text)


async def _file_name(ticket: Ticket, n: int) -> str | None:
    """The last part of the entry's path; a stream ticket's file has the name of its download."""
    if ticket.type is TicketType.STREAM:
        return ticket.options.filename or ticket.items[n].name
    name = (await _names(ticket, n + 1))[n]
    return None if name is None else name.rpartition("/")[2]


async def _names(ticket: Ticket, count: int) -> list[str | None]:
    """Paths of the first ``count`` items as the archive has them; None for a folder that an earlier one made."""
    if count > _IN_THREAD_ITEMS:
        return await asyncio.to_thread(_named, ticket, count)
    return _named(ticket, count)


def _named(ticket: Ticket, count: int) -> list[str | None]:
    names = NameRegistry()
    if ticket.options.on_error is OnError.REPORT:
        names.file(REPORT_NAME)
    return [
        names.folder(folder_name((item.path or "") + "/" + (item.name or "")))
        if item.is_folder
        else names.file(entry_name(item.path or "", item.name or name_from_url(item.url)))
        for item in itertools.islice(ticket.items, count)
    ]
