"""Answers that stream: a ticket's ZIP, or one file as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from aiohttp import hdrs, web

from gateway_archive.downloads import Downloads
from gateway_archive.names import entry_name, name_from_url
from gateway_archive.tickets import Ticket
from gateway_archive.zip_writer import Piece
from gateway_core import SourceError, SourceFailed, SourceInfo, TooLarge, UpstreamFailed
from gateway_core.http.disposition import content_disposition
from gateway_core.http.stream import ResponseWriter, open_response
from gateway_core.sources.resume import ResumingReader

_ISOLATED = {
    "Content-Security-Policy": "sandbox",  # somebody else's page must not act as this origin's
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}


def zip_headers(ticket: Ticket) -> dict[str, str]:
    """Headers of a ZIP download."""
    return {
        hdrs.CONTENT_TYPE: "application/zip",
        hdrs.CONTENT_DISPOSITION: content_disposition(ticket.options.filename or "collection.zip"),
        "Cache-Control": "private, no-store",
    }


async def send_zip(request: web.Request, downloads: Downloads, ticket: Ticket) -> web.StreamResponse:
    """Pack while sending; the answer begins with the first file that is there."""
    response = web.StreamResponse(headers=zip_headers(ticket))
    async with AsyncExitStack() as stack:
        writer: ResponseWriter | None = None

        async def write(pieces: Sequence[Piece]) -> None:
            nonlocal writer
            if writer is None:
                stall_s = downloads.gateway.settings.write_stall_s
                writer = await stack.enter_async_context(open_response(request, response, stall_s=stall_s))
            await writer.write(*pieces)

        await downloads.pack(ticket, write)
    return response


async def send_file(
    request: web.Request, downloads: Downloads, reader: ResumingReader, *, headers: Mapping[str, str]
) -> web.StreamResponse:
    """One source's bytes under ``headers``.

    Raises TooLarge where they are over the limit of total bytes, SourceFailed where that shows only on the way.
    """
    size, limit = reader.info.size_bytes, downloads.settings.max_total_bytes
    if size is not None and 0 < limit < size:
        raise TooLarge(f"the file has {size} bytes; the limit is {limit}")
    response = web.StreamResponse(headers={**_ISOLATED, **headers})
    response.content_length = size
    async with open_response(request, response, stall_s=downloads.gateway.settings.write_stall_s) as writer:
        if request.method != hdrs.METH_HEAD:
            async for chunk in reader:
                if 0 < limit < writer.sent_bytes + len(chunk):
                    raise SourceFailed(f"the limit of {limit} bytes is reached")
                await writer.write(chunk)
    return response


def file_headers(info: SourceInfo, *, url: str, name: str | None) -> dict[str, str]:
    """The source's own content type and, unless one was asked for, its own name."""
    name = name or info.name or entry_name("", name_from_url(url))
    return {
        hdrs.CONTENT_TYPE: info.media_type or "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: content_disposition(name),
    }


def as_upstream_failure(error: SourceError) -> UpstreamFailed:
    """A single source that cannot be had before the first byte."""
    reason = f"{error.reason}: {error.detail or error.title}"
    return UpstreamFailed(f"the file cannot be had: {reason}")
