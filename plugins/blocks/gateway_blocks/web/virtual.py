"""What is told beside the files without being one: Metalinks, torrents, lists of checksums."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace

from aiohttp import hdrs, web

from gateway_blocks.files.paths import UrlPath
from gateway_blocks.formats import checksum_list
from gateway_blocks.formats.checksum_list import checksum_line
from gateway_blocks.formats.metalink import MEDIA_TYPE as METALINK
from gateway_blocks.formats.metalink import MetalinkFile, metalink
from gateway_blocks.formats.torrent import MEDIA_TYPE as TORRENT
from gateway_blocks.formats.torrent import Torrent
from gateway_blocks.sums.ahead import Listed, listed
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.service import Service
from gateway_blocks.web.place import asker, opened_file
from gateway_core import NotFound
from gateway_core.http.disposition import content_disposition, safe_filename
from gateway_core.http.links import external_base
from gateway_core.http.stream import open_response

_METALINK = ".meta4"
_TORRENT = ".torrent"
_LISTS = {"SHA1SUMS": "sha1", "SHA256SUMS": "sha256"}
_ALIVE_S = 10.0
"""While a list waits for a large file it says so in a comment, so that nobody takes it for dead."""
_WHOLE_S = 2.0
"""How long a Metalink waits at its end for the digest of the whole file: without one wget2 checks no pieces."""


async def send_virtual(request: web.Request, service: Service, url: UrlPath) -> web.StreamResponse:
    """Answer for a path where no file is; raises NotFound when nothing is told under that name either.

    Everything is streamed while the files are hashed. When one changes meanwhile the answer is cut: it is never whole.
    """
    if url.folder or not url.names:
        raise NotFound
    *above, last = url.names
    teller = _Teller(request, service)
    if last == _METALINK:
        return await teller.folder_metalink(UrlPath(tuple(above), folder=True))
    if last in _LISTS:
        return await teller.checksums(UrlPath(tuple(above), folder=True), _LISTS[last])
    for suffix, tell in ((_METALINK, teller.metalink), (_TORRENT, teller.torrent)):
        if last.endswith(suffix):
            return await tell(replace(url, names=(*above, last.removesuffix(suffix))))
    raise NotFound


class _Teller:
    """Answers one request."""

    def __init__(self, request: web.Request, service: Service) -> None:
        self._request = request
        self._service = service
        gateway = service.gateway
        self._client = asker(request, service)
        self._stall_s = gateway.settings.write_stall_s
        outside = external_base(request, gateway.public_url, gateway.trusted_proxies)
        self._base = f"{outside}{service.base}/"

    async def metalink(self, url: UrlPath) -> web.StreamResponse:
        """Metalink 4 of one file."""
        record = await self._record(url)

        async def one() -> AsyncIterator[MetalinkFile]:
            yield replace(self._entry(url.names[-1], url, record), digests=self._patient_digests(record))

        return await self._send(metalink(one()), METALINK, name=f"{url.names[-1]}{_METALINK}", record=record)

    async def folder_metalink(self, folder: UrlPath) -> web.StreamResponse:
        """Metalink 4 of all files of a folder, those below it too."""
        found = listed(self._service, folder.names, client=self._client, whole=False, recursive=True)
        first = await _begun(found)

        async def entries() -> AsyncIterator[MetalinkFile]:
            async for item in _after(first, found):
                below = "/".join(item.names[len(folder.names) :])
                yield self._entry(below, UrlPath(item.names, folder=False), item.record)

        name = f"{folder.names[-1] if folder.names else 'files'}{_METALINK}"
        async with aclosing(found):
            return await self._send(metalink(entries()), METALINK, name=name)

    async def torrent(self, url: UrlPath) -> web.StreamResponse:
        """A torrent of one file, with its URL as web seed."""
        record = await self._record(url)
        layout = record.layout
        torrent = Torrent(url.names[-1], layout.size_bytes, layout.block_bytes, (self._base + url.encoded,))
        digests = self._service.catalogue.digests(record, self._client)
        length: dict[str, str] = {hdrs.CONTENT_LENGTH: str(torrent.length)}
        name = f"{url.names[-1]}{_TORRENT}"
        return await self._send(torrent.encoded(digests), TORRENT, name=name, headers=length, record=record)

    async def checksums(self, folder: UrlPath, algorithm: str) -> web.StreamResponse:
        """What sha1sum or sha256sum would print for the files of a folder; with `?recursive=1` below it too."""
        if not self._service.settings.full_digest:
            raise NotFound("digests of whole files are switched off (BLOCKS__FULL_DIGEST)")
        recursive = self._request.query.get("recursive", "") not in {"", "0", "false"}
        found = listed(self._service, folder.names, client=self._client, whole=True, recursive=recursive)
        first = await _begun(found)

        async def lines() -> AsyncIterator[bytes]:
            async for item in _after(first, found):
                name = "/".join(item.names[len(folder.names) :])
                async for comment in self._until_whole(item.record, name):
                    yield comment
                assert item.record.whole is not None
                yield checksum_line(getattr(item.record.whole, algorithm), name)

        async with aclosing(found):
            return await self._send(lines(), checksum_list.MEDIA_TYPE)

    async def _until_whole(self, record: Record, name: str) -> AsyncIterator[bytes]:
        """Comments every now and then until the digests of a file are known."""
        waiting = asyncio.ensure_future(self._service.catalogue.whole(record, self._client))
        try:
            while not (await asyncio.wait([waiting], timeout=_ALIVE_S))[0]:
                yield f"# hashing {name!a}\n".encode()
            await waiting
        finally:
            waiting.cancel()

    def _entry(self, name: str, url: UrlPath, record: Record) -> MetalinkFile:
        return MetalinkFile(
            name=name,
            size_bytes=record.layout.size_bytes,
            block_bytes=record.layout.block_bytes,
            digests=self._service.catalogue.digests(record, self._client),
            sha256=lambda: record.whole.sha256 if record.whole is not None else None,
            urls=(self._base + url.encoded,),
        )

    async def _patient_digests(self, record: Record) -> AsyncIterator[bytes]:
        async for digest in self._service.catalogue.digests(record, self._client):
            yield digest
        if self._service.settings.full_digest and record.layout.count > 1:
            self._service.catalogue.ask(record, self._client)
            await record.wait_for(lambda: record.whole is not None, _WHOLE_S)

    async def _record(self, url: UrlPath) -> Record:
        with await opened_file(self._service.root, url) as file:
            record = await self._service.catalogue.find(file)
        self._service.catalogue.ask(record, self._client)
        return record

    async def _send(
        self,
        body: AsyncIterable[bytes],
        media_type: str,
        *,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        record: Record | None = None,
    ) -> web.StreamResponse:
        own = {hdrs.CONTENT_TYPE: media_type, hdrs.CACHE_CONTROL: "no-cache", **(headers or {})}
        if name:
            own[hdrs.CONTENT_DISPOSITION] = content_disposition(safe_filename(name))
        if record is not None:
            own[hdrs.LAST_MODIFIED] = record.key.identity.validators().headers()[hdrs.LAST_MODIFIED]
        response = web.StreamResponse(headers=own)
        async with open_response(self._request, response, stall_s=self._stall_s) as writer:
            if self._request.method != hdrs.METH_HEAD:
                async for piece in body:
                    await writer.write(piece)
        return response


async def _begun(found: AsyncIterator[Listed]) -> Listed | None:
    """The first of ``found``, so that what is not there is answered with 404 and not with half an answer."""
    return await anext(found, None)


async def _after(first: Listed | None, rest: AsyncIterator[Listed]) -> AsyncIterator[Listed]:
    if first is not None:
        yield first
        async for item in rest:
            yield item
