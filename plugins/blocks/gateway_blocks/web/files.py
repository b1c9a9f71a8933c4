"""Files, folders, and what is told beside them, under the mount."""

from __future__ import annotations

from functools import lru_cache

from aiohttp import hdrs, web

from gateway_blocks.files.media import media_type
from gateway_blocks.files.paths import UrlPath
from gateway_blocks.files.root import OpenFile, OpenFolder
from gateway_blocks.formats.digest_fields import content_digest, repr_digest, wants_digest
from gateway_blocks.formats.metalink import MEDIA_TYPE as METALINK
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.service import SERVICE_KEY, Service
from gateway_blocks.web.accel import accelerated
from gateway_blocks.web.file_response import as_representation
from gateway_blocks.web.folders import send_listing
from gateway_blocks.web.place import asker, below, opened
from gateway_blocks.web.recent import Recent
from gateway_blocks.web.virtual import send_virtual
from gateway_core import Gateway, NotFound
from gateway_core.errors import RangeNotSatisfiable
from gateway_core.http.ranges import parse_range
from gateway_core.http.representation import send_representation


class Files:
    """Handlers of everything under the mount."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stall_s = gateway.settings.write_stall_s
        self._recent: Recent | None = None

    async def to_folder(self, request: web.Request) -> web.Response:
        """The mount without its slash leads to the root's listing."""
        return _to_folder(request)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """A file, whole or by ranges, conditional as RFC 9110 says; a folder's listing (HTML, or JSON by Accept).

        Beside each file stand `<file>.meta4` and `<file>.torrent`, in each folder `SHA256SUMS`, `SHA1SUMS`
        and `.meta4`.
        """
        if self._recent is not None:
            answer = self._recent.answer(request)
            if answer is not None:
                return answer
        service = self._gateway.state[SERVICE_KEY]
        url = below(request, service.base)
        try:
            found = await opened(service.root, url.names)
        except NotFound:
            return await send_virtual(request, service, url)
        with found:
            if isinstance(found, OpenFolder):
                return await send_listing(request, service, found, url=url) if url.folder else _to_folder(request)
            if url.folder:
                raise NotFound
            return await self._send_file(request, service, found, url=url)

    async def _send_file(
        self, request: web.Request, service: Service, file: OpenFile, *, url: UrlPath
    ) -> web.StreamResponse:
        record = service.catalogue.peek(file.identity)
        if record is None and wants_digest(request.headers):
            record = await service.catalogue.find(file)
        headers: dict[str, str] = {hdrs.LINK: _link(file.names[-1])}
        if record is not None:
            if record.whole is not None:
                headers |= repr_digest(record.whole.sha256)
                if hdrs.RANGE not in request.headers:
                    headers |= content_digest(record.whole.sha256)
            self._note_range(request, service, record)
        found = as_representation(file, headers=headers, media_type=media_type(file.names[-1]))
        if service.settings.accel:
            answer = accelerated(request, found, url)
            if answer is not None:
                return answer
            return await send_representation(request, found, stall_s=self._stall_s)
        response = await send_representation(request, found, stall_s=self._stall_s)
        self._recent = self._recent or Recent(service.root, service.catalogue)
        self._recent.note(request, file, response)
        return response

    def _note_range(self, request: web.Request, service: Service, record: Record) -> None:
        """Blocks that are read while the file is hashed come first; one that is read again and again is suspicious."""
        asked = request.headers.get(hdrs.RANGE)
        if asked is None or request.method != hdrs.METH_GET:
            return
        try:
            ranges = parse_range(asked, record.layout.size_bytes) or ()
        except RangeNotSatisfiable:
            return
        for found in ranges[:1]:
            blocks = record.layout.covering(found.first, found.last)
            if not record.complete:
                service.catalogue.prefer(record, blocks)
            elif len(blocks) == 1 and found.length == record.layout.length(blocks[0]):
                service.reports.asked(record, asker(request, service), blocks[0])


@lru_cache(maxsize=4096)
def _link(name: str) -> str:
    """Where the Metalink of a file is (RFC 6249 2)."""
    return f'<./{UrlPath((name,), folder=False).encoded}.meta4>; rel=describedby; type="{METALINK}"'


def _to_folder(request: web.Request) -> web.Response:
    """To the same URL with a slash at its end, as a relative reference, so that no proxy's prefix gets lost."""
    url = request.rel_url
    query = f"?{url.raw_query_string}" if url.raw_query_string else ""
    location = f"./{url.raw_path.rpartition('/')[2]}/{query}"
    return web.Response(status=301, headers={hdrs.LOCATION: location})
