"""``/rd/``: what the blocks of a file are, while they become known; reports of bad ones."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.files.paths import UrlPath
from gateway_blocks.files.root import OpenFolder
from gateway_blocks.formats.block_list import block_list
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.reports import Finding
from gateway_blocks.sums.service import SERVICE_KEY, Service
from gateway_blocks.web.folders import send_manifest
from gateway_blocks.web.place import RD, asker, below, opened, opened_file
from gateway_core import Gateway, GatewayError, Invalid, NotFound, Unavailable
from gateway_core.http.json_body import read_json, validate
from gateway_core.http.stream import open_response
from gateway_core.version import __version__

MAX_WAIT_S = 60.0
_FIRST_S = 0.25
"""How long the first answer about a file is held back for its first blocks: rd sleeps a second when there are none."""
_SLICE_S = 1.0
_GZIP_ABOVE_BYTES = 4096
_REPORT_S = 10.0
_TRIES = 5


class WaitQuery(BaseModel):
    """``after`` leaves out the blocks up to that id; with ``wait`` the answer comes when the one after it is known."""

    after: int = Field(-1, ge=-1, le=2**53)
    wait: float = Field(0.0, ge=0.0, le=MAX_WAIT_S)


class ReportBody(BaseModel):
    """The number of a block that did not have the checksum it should have had."""

    block: Annotated[int, Field(ge=0)]


class Metadata:
    """Handlers of ``/rd/``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @property
    def _service(self) -> Service:
        return self._gateway.state[SERVICE_KEY]

    async def about(self, _request: web.Request) -> web.Response:
        """Whether this is a server that reliable-download can use."""
        return web.json_response({"app": "reliable-download api", "ok": True, "version": __version__})

    async def blocks(self, request: web.Request) -> web.StreamResponse:
        """Blocks of the file whose URL has `/rd` before its path: their places and SHA-1, `pending` while it is made.

        Asking begins the hashing. With `?after=<id>&wait=<s>` the answer comes when the block after `id` is known.
        For a folder: its files, below it too.
        """
        service = self._service
        base = RD + service.base
        if request.rel_url.raw_path == f"{RD}/" and service.base:
            return await self.about(request)
        url = below(request, base)
        query = validate(WaitQuery, dict(request.query), location="query")
        for _ in range(_TRIES):
            found = await opened(service.root, url.names)
            with found:
                if isinstance(found, OpenFolder):
                    return await self._folder(request, url)
                if url.folder:
                    raise NotFound
                record = await service.catalogue.find(found)
            with suppress(FileChanged):  # what it is now is looked at anew
                await self._waited(request, record, query)
                return await self._answer(request, block_list(record, self._path(url), after=query.after))
        raise Unavailable("the file keeps changing")

    async def _folder(self, request: web.Request, url: UrlPath) -> web.StreamResponse:
        if not url.folder:
            raise NotFound("this is a folder: its list of files is at the same path with a slash at its end")
        if not url.names and not self._service.base and "files" not in request.query:
            return await self.about(request)
        return await send_manifest(request, self._service, url.names)

    async def report(self, request: web.Request) -> web.Response:
        """Say that a block came with another checksum than it should have: it is hashed again.

        The verdict is `same` (the file is as it was told: the line is bad), `changed` (the file is not what it was, its
        blocks are hashed anew) or `pending` (not known yet, ask again).
        """
        service = self._service
        body = validate(ReportBody, await read_json(request))
        url = below(request, RD + service.base)
        with await opened_file(service.root, url) as file:
            record = await service.catalogue.find(file)
        if body.block >= record.layout.count:
            raise Invalid({"block": [f"the file has {record.layout.count} blocks, counted from 0"]})
        finding: Finding = await service.reports.examine(record, body.block, timeout_s=_REPORT_S)
        sha1 = finding.digest.hex() if finding.digest is not None else None
        return web.json_response(
            {"ok": True, "msg": "", "block": body.block, "verdict": finding.verdict.value, "sha1": sha1}
        )

    def _path(self, url: UrlPath) -> str:
        return f"{self._service.base[1:]}/{url.decoded}".lstrip("/")

    async def _waited(self, request: web.Request, record: Record, query: WaitQuery) -> None:
        """See to it that the file is hashed, and hold the answer back as long as is wanted."""
        catalogue, client = self._service.catalogue, asker(request, self._service)
        wanted = query.after + 1
        catalogue.ask(record, client)
        if wanted < record.layout.count and query.wait:
            await self._until_known(record, wanted, client=client, timeout_s=query.wait)
        elif not record.table.known and not record.complete:
            await record.wait_for(lambda: record.table.known > 0, _FIRST_S)

    async def _until_known(self, record: Record, index: int, *, client: str, timeout_s: float) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while (left := deadline - clock()) > 0 and not self._gateway.draining.is_set():
            self._service.catalogue.ask(record, client)
            if await record.wait_for(lambda: record.table.get(index) is not None, min(left, _SLICE_S)):
                return

    async def _answer(self, request: web.Request, pieces: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/json"
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        size = sum(map(len, pieces))
        if size > _GZIP_ABOVE_BYTES and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            pieces = [await asyncio.to_thread(_compressed, pieces)]
            response.headers[hdrs.CONTENT_ENCODING] = "gzip"
            size = len(pieces[0])
        response.content_length = size
        async with open_response(request, response, stall_s=self._gateway.settings.write_stall_s) as writer:
            await writer.write(*pieces)
        return response


def rd_errors(_request: web.Request, error: GatewayError) -> web.Response:
    """``ok: false`` and the reason, which the rd client shows; with the right status."""
    body = {
        "ok": False,
        "msg": error.detail or error.title,
        "path": "",
        "filepath": "",
        "block_size": "",
        "file_size": -1,
        "block_count": -1,
        "blocks": [],
    }
    return web.json_response(body, status=error.status, headers={hdrs.CACHE_CONTROL: "no-store"})


def _compressed(pieces: list[bytes]) -> bytes:
    """One gzip member of all pieces; hex digits shrink to about half at the fastest level."""
    from isal import isal_zlib

    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(piece) for piece in pieces), packer.flush()])
