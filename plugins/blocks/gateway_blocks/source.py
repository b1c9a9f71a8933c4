"""``blocks:/path``: a served file as a source, for those who may read it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from gateway_blocks.files.media import media_type
from gateway_blocks.files.paths import UrlPath, parse_path
from gateway_blocks.files.root import OpenFile, Root
from gateway_blocks.sums.service import SERVICE_KEY
from gateway_core import (
    Client,
    Gateway,
    GatewayError,
    SourceChanged,
    SourceFailed,
    SourceGone,
    SourceInfo,
    SourceRefused,
    SourceRequest,
    SourceStream,
)

SCHEME = "blocks"
SCOPE = "blocks:read"
_CHUNK_BYTES = 256 << 10


class BlocksSource:
    """Files below the root by path: ``blocks:/folder/file.iso``, percent-encoded as in a URL.

    The client needs the scope ``blocks:read``, also where files are public: what a ticket's owner may not read by a
    secret of its own should not depend on a setting of another plugin.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def check(self, url: str, client: Client) -> None:
        """See Source: the scope and the form of the path are looked at, not the file."""
        if not client.allows(SCOPE):
            raise SourceRefused(f"the client lacks scope {SCOPE}")
        _path(url)

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """See Source."""
        await self.check(request.url, request.client)
        with await self._open(_path(request.url)) as file:
            return _info(file)

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[SourceStream]:
        """See Source; a file that is written to while it is read ends in SourceChanged."""
        return self._opened(request)

    def lane(self, url: str) -> str:
        """One for all: they are on this machine's disk."""
        del url
        return f"{SCHEME}:"

    @asynccontextmanager
    async def _opened(self, request: SourceRequest) -> AsyncIterator[SourceStream]:
        await self.check(request.url, request.client)
        with await self._open(_path(request.url)) as file:
            info = _info(file)
            if request.validator is not None and request.validator != info.validator:
                raise SourceChanged("the file is another version now")
            if request.offset > file.identity.size_bytes:
                raise SourceChanged(f"the file ends before byte {request.offset}")
            yield _FileStream(file, info, request)

    async def _open(self, path: UrlPath) -> OpenFile:
        if SERVICE_KEY not in self._gateway.state:
            raise SourceFailed("only a serving gateway has files")
        root: Root = self._gateway.state[SERVICE_KEY].root
        try:
            found = await asyncio.to_thread(root.open, path.names)
        except GatewayError as error:
            raise (SourceGone if error.status in {403, 404, 414} else SourceFailed)(
                error.detail or error.title
            ) from error
        if isinstance(found, OpenFile):
            return found
        found.close()
        raise SourceGone("this is a folder")


class _FileStream:
    """The part of an open file that is asked for."""

    def __init__(self, file: OpenFile, info: SourceInfo, request: SourceRequest) -> None:
        self.info = info
        self._file = file
        self._offset = request.offset
        size, length = file.identity.size_bytes, request.length
        self._end = size if length is None else min(size, request.offset + length)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        known, offset = self._file.identity, self._offset
        while offset < self._end:
            count = min(_CHUNK_BYTES, self._end - offset)
            try:
                chunk = await asyncio.to_thread(os.pread, self._file.fd, count, offset)
            except OSError as error:
                raise SourceFailed(f"the file cannot be read: {error.strerror}") from error
            now = os.fstat(self._file.fd)
            if not chunk or (now.st_size, now.st_mtime_ns) != (known.size_bytes, known.mtime_ns):
                raise SourceChanged("the file changed while it was read")
            offset += len(chunk)
            yield chunk


def _path(url: str) -> UrlPath:
    """What ``blocks:/path`` names; raises SourceRefused for another form, SourceGone for what cannot be a file."""
    rest = url.partition(":")[2]
    if not rest.startswith("/") or rest.startswith("//") or "?" in rest or "#" in rest:
        raise SourceRefused("a served file is named as blocks:/path")
    try:
        path = parse_path(rest[1:])
    except GatewayError as error:
        raise SourceRefused("not the path of a served file") from error
    if path.folder:
        raise SourceRefused("not the path of a served file")
    return path


def _info(file: OpenFile) -> SourceInfo:
    etag = file.identity.etag()
    return SourceInfo(
        size_bytes=file.identity.size_bytes,
        validator=None if etag.weak else str(etag),
        strong=not etag.weak,
        modified=file.identity.mtime_ns / 1e9,
        media_type=media_type(file.names[-1]),
        name=file.names[-1].encode("utf-8", "replace").decode(),
        ranges=True,
    )
