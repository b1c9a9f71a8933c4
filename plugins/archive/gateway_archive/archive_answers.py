"""Answers with a whole archive, or ranges of it: of known length where it can be known, else as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from aiohttp import hdrs, web

from gateway_archive.delivery.archive import Archive
from gateway_archive.delivery.content import archive_content
from gateway_archive.delivery.failing import Refrozen
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.downloads import Downloads
from gateway_archive.tickets import Ticket
from gateway_archive.zip_writer import Piece
from gateway_core import Conflict, Unavailable
from gateway_core.http.conditional import ETag, Validators, applicable_range
from gateway_core.http.disposition import content_disposition
from gateway_core.http.representation import RangeSupport, Representation, not_modified, send_representation
from gateway_core.http.stream import ResponseWriter, open_response

_CHANGES_BORNE = 8
_MOST_RANGES = 16
"""For more of them in one request a source without ranges would be read from its start each time."""
_MEDIA_TYPES = {"zip": "application/zip", "tar": "application/x-tar"}


async def send_archive(
    request: web.Request, downloads: Downloads, ticket: Ticket, *, tracker: Tracker, format_name: str
) -> web.StreamResponse:
    """Answer GET and HEAD as RFC 9110 says, ranges included, where the archive's length can be known.

    A ZIP whose length cannot be known is packed as it comes; a tar is then Conflict. Raises UpstreamFailed where
    nothing can be had, and what ``send_representation`` raises.
    """
    archives = downloads.archives
    archive = await archives.open(ticket, format_name)
    before = archive is None and await archives.witness.layouts.stamp(ticket.id, format_name) is not None
    if archive is not None and request.method == hdrs.METH_GET and _is_whole(request, downloads, archive):
        archive = await archives.renewed(archive)
    in_parts = True
    for _ in range(_CHANGES_BORNE):
        _refuse_blind_rest(request, downloads, archive, before=before)
        if archive is None:
            return await _send_unsized(request, downloads, ticket, tracker=tracker, format_name=format_name)
        if request.method == hdrs.METH_HEAD and not await archives.commit(archive):
            archive = await archives.open(ticket, format_name)
            continue
        try:
            return await _send_sized(request, downloads, archive, tracker=tracker, in_parts=in_parts)
        except Refrozen as changed:
            archive, in_parts = changed.archive, changed.in_parts
    raise Unavailable("the sources change faster than they can be read")


async def _send_sized(
    request: web.Request, downloads: Downloads, archive: Archive, *, tracker: Tracker, in_parts: bool
) -> web.StreamResponse:
    in_parts = in_parts and request.headers.get(hdrs.RANGE, "").count(",") < _MOST_RANGES
    whole = not in_parts or _is_whole(request, downloads, archive)
    shown = Representation(
        archive.layout.media_type,
        _validators(archive),
        _headers(archive.ticket, archive.format_name),
        lambda: archive_content(archive, downloads.archives, tracker, whole=whole),
        ranges=_range_support(downloads, archive) if in_parts else RangeSupport.NEVER,
    )
    return await send_representation(request, shown, stall_s=downloads.gateway.settings.write_stall_s)


async def _send_unsized(
    request: web.Request, downloads: Downloads, ticket: Ticket, *, tracker: Tracker, format_name: str
) -> web.StreamResponse:
    """Pack while sending; the answer begins with the first file that is there."""
    if format_name != "zip":
        raise Conflict("a tar needs the size of every file beforehand, and not every source tells it")
    headers = _headers(ticket, format_name) | {hdrs.CONTENT_TYPE: _MEDIA_TYPES[format_name]}
    known = not_modified(request, Validators(), headers)
    if known is not None:
        return known
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers=headers)
    tracker.of_layout("", None)
    await downloads.archives.witness.mark_unsized(ticket, format_name)
    response = web.StreamResponse(headers=headers)
    async with AsyncExitStack() as stack:
        writer: ResponseWriter | None = None

        async def write(pieces: Sequence[Piece]) -> None:
            nonlocal writer
            tracker.check()
            if writer is None:
                stall_s = downloads.gateway.settings.write_stall_s
                writer = await stack.enter_async_context(open_response(request, response, stall_s=stall_s))
            await writer.write(*pieces)

        await downloads.pack(ticket, write, tracker)
    tracker.gave_all = True
    return response


def _refuse_blind_rest(request: web.Request, downloads: Downloads, archive: Archive | None, *, before: bool) -> None:
    """Raise Conflict for a part behind the first byte when its client may hold bytes of another archive.

    If-Range would tell. The whole (RFC 9110 14.2) would be the answer for other clients, but GNU wget appends the end
    of it to what it has. ``before`` says that there was an archive of which nothing is known any more.
    """
    asked = request.headers.get(hdrs.RANGE, "").partition("=")[2]
    if request.method != hdrs.METH_GET or hdrs.IF_RANGE in request.headers or not asked:
        return
    if all(part.strip().startswith("0-") for part in asked.split(",")):
        return
    if archive is not None:
        before = archive.stamp is not None and _range_support(downloads, archive) is not RangeSupport.ALWAYS
    if before:
        raise Conflict("the archive is not the one that was begun, or cannot be proven to be: download it anew")


def _headers(ticket: Ticket, format_name: str) -> dict[str, str]:
    name = ticket.options.filename or "collection.zip"
    if format_name != "zip":
        name = f"{name.removesuffix('.zip')}.{format_name}"
    return {hdrs.CONTENT_DISPOSITION: content_disposition(name), hdrs.CACHE_CONTROL: "private, no-store"}


def _validators(archive: Archive) -> Validators:
    return Validators(ETag(archive.layout.etag)) if archive.proven else Validators()


def _range_support(downloads: Downloads, archive: Archive) -> RangeSupport:
    """A client without If-Range may hold bytes of an earlier archive of this ticket: it gets the whole."""
    if not archive.proven and not downloads.settings.resume_unproven:
        return RangeSupport.NEVER
    first = archive.stamp is None or (archive.stored and archive.stamp.generation == 1)
    return RangeSupport.ALWAYS if first else RangeSupport.WITH_IF_RANGE


def _is_whole(request: web.Request, downloads: Downloads, archive: Archive) -> bool:
    """Whether the answer is the archive from its first byte to its last."""
    support = _range_support(downloads, archive)
    if support is RangeSupport.NEVER or (
        support is RangeSupport.WITH_IF_RANGE and hdrs.IF_RANGE not in request.headers
    ):
        return True
    return applicable_range(request.method, request.headers, _validators(archive)) is None
