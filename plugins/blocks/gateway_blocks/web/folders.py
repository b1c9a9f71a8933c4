"""Folders: their listing, and the manifest of all files below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from aiohttp import hdrs, web

from gateway_blocks.files.paths import UrlPath
from gateway_blocks.files.root import Entry, OpenFolder
from gateway_blocks.files.walk import walk_in_threads
from gateway_blocks.formats.listing import (
    CONTENT_SECURITY_POLICY,
    HTML_TYPE,
    JSON_TYPE,
    Listing,
    listing_html,
    listing_json,
)
from gateway_blocks.formats.manifest import ManifestFile, manifest
from gateway_blocks.sums.service import Service
from gateway_core.http.links import external_base
from gateway_core.http.stream import open_response

_MOST_FILES = 1_000_000


async def send_listing(
    request: web.Request, service: Service, folder: OpenFolder, *, url: UrlPath
) -> web.StreamResponse:
    """What the folder holds: a page for people, JSON for who prefers it in Accept or asks with ``?format=json``."""
    entries = await asyncio.to_thread(folder.entries)
    gateway = service.gateway
    outside = external_base(request, gateway.public_url, gateway.trusted_proxies)
    stall_s = gateway.settings.write_stall_s
    links = {"Metalink": ".meta4", "JSON": "?format=json"}
    if service.settings.full_digest:
        links = {"SHA256SUMS": "SHA256SUMS", "SHA1SUMS": "SHA1SUMS", **links}
    listing = Listing(url, f"{outside}{service.base}/{url.encoded}", entries, links)
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: "no-cache", hdrs.VARY: hdrs.ACCEPT}
    if _prefers_json(request):
        return await _send(request, listing_json(listing), {**headers, hdrs.CONTENT_TYPE: JSON_TYPE}, stall_s=stall_s)
    page = {
        hdrs.CONTENT_TYPE: HTML_TYPE,
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "no-referrer",
    }
    return await _send(request, listing_html(listing), {**headers, **page}, stall_s=stall_s)


async def send_manifest(request: web.Request, service: Service, names: tuple[str, ...]) -> web.StreamResponse:
    """All files of a folder and of those below, with the digests that are in memory."""

    async def files() -> AsyncIterator[ManifestFile]:
        async for found, entry in walk_in_threads(service.root, names):
            yield _manifest_file(service, UrlPath(found[len(names) :], folder=False), entry)

    path = f"{service.base[1:]}/{UrlPath(names, folder=False).decoded}".strip("/")
    pieces = manifest(path, files(), limit=_MOST_FILES)
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: JSON_TYPE, hdrs.CACHE_CONTROL: "no-store"})
    async with open_response(request, response, stall_s=service.gateway.settings.write_stall_s) as writer:
        if request.method != hdrs.METH_HEAD:
            async for piece in pieces:
                await writer.write(piece)
    return response


async def _send(
    request: web.Request, pieces: Iterable[bytes], headers: dict[str, str], *, stall_s: float
) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    async with open_response(request, response, stall_s=stall_s) as writer:
        if request.method != hdrs.METH_HEAD:
            for piece in pieces:
                await writer.write(piece)
    return response


def _manifest_file(service: Service, path: UrlPath, entry: Entry) -> ManifestFile:
    assert entry.identity is not None  # only folders have none
    record = service.catalogue.peek(entry.identity)
    whole = record.whole if record is not None else None
    return ManifestFile(
        path,
        size_bytes=entry.size_bytes,
        mtime_ns=entry.mtime_ns,
        etag=str(entry.identity.etag()),
        sha1=whole.sha1 if whole is not None else None,
        sha256=whole.sha256 if whole is not None else None,
    )


def _prefers_json(request: web.Request) -> bool:
    """Whether JSON is asked for by name and HTML is not asked for before it."""
    if request.query.get("format") == "json":
        return True
    accept = request.headers.get(hdrs.ACCEPT, "").lower()
    return "application/json" in accept and "text/html" not in accept.partition("application/json")[0]
