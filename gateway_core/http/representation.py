"""An answer of known size: whole or in ranges, if the conditions hold (RFC 9110 13 to 15)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway_core.errors import PreconditionFailed, SourceError, Unavailable
from gateway_core.http.conditional import Validators, Verdict, applicable_range, evaluate
from gateway_core.http.file_body import read_file, send_file
from gateway_core.http.ranges import ByteRange, MultipartRanges, parse_range
from gateway_core.http.stream import ResponseWriter, open_response

SMALL_BYTES = 64 * 1024
"""Bodies up to this are read first and go out together with their head."""

_KEPT_BY_304 = (hdrs.ETAG, hdrs.LAST_MODIFIED, hdrs.CACHE_CONTROL, hdrs.CONTENT_LOCATION, hdrs.EXPIRES, hdrs.VARY)

_Piece = bytes | ByteRange
"""Part of a body: framing, or bytes of the content."""


class RangeSupport(enum.Enum):
    """Whether parts of a representation can be had."""

    ALWAYS = "always"
    WITH_IF_RANGE = "with If-Range"
    """For who says which version it has the rest of; Range alone is ignored (RFC 9110 14.2 permits it always)."""
    NEVER = "never"
    """Told as ``Accept-Ranges: none`` (RFC 9110 14.3)."""


class Content(Protocol):
    """What a representation is made of; all parts lie inside of ``size_bytes``."""

    @property
    def size_bytes(self) -> int:
        """The whole."""

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        """Get ready for ``parts``, all that will be sent, in that order; once, before the head.

        What it raises is the answer.
        """

    async def read(self, part: ByteRange) -> bytes | bytearray:
        """A small part; raises SourceError or StorageError when it is not there any more."""

    async def send(self, writer: ResponseWriter, part: ByteRange) -> None:
        """Write a part; raises as ``read`` does, and ClientGone."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """A regular file that is open, and somebody else's to close."""

    fd: int
    size_bytes: int

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        """See Content; an open file is ready."""

    async def read(self, part: ByteRange) -> bytes | bytearray:
        """See Content."""
        return await read_file(self.fd, part.first, part.length)

    async def send(self, writer: ResponseWriter, part: ByteRange) -> None:
        """See Content."""
        await send_file(writer, self.fd, offset=part.first, count=part.length)


@dataclass(frozen=True, slots=True)
class Representation:
    """What there is to answer with. ``content`` is opened only when its bytes, or their number, are needed.

    ``headers`` are those of 200 and 206, and win over those made here.
    """

    media_type: str
    validators: Validators
    headers: Mapping[str, str]
    content: Callable[[], AbstractAsyncContextManager[Content]]
    ranges: RangeSupport = RangeSupport.ALWAYS

    def head(self) -> CIMultiDict[str]:
        """Headers of the whole, but for its length."""
        found = CIMultiDict(self.validators.headers())
        found[hdrs.ACCEPT_RANGES] = "none" if self.ranges is RangeSupport.NEVER else "bytes"
        found[hdrs.CONTENT_TYPE] = self.media_type
        found.update(self.headers)
        return found

    def asked(self, request: web.Request, size_bytes: int) -> list[ByteRange] | None:
        """The parts to answer with, None for the whole; raises RangeNotSatisfiable."""
        if self.ranges is RangeSupport.NEVER:
            return None
        if self.ranges is RangeSupport.WITH_IF_RANGE and hdrs.IF_RANGE not in request.headers:
            return None
        return parse_range(applicable_range(request.method, request.headers, self.validators), size_bytes)


def not_modified(request: web.Request, current: Validators, headers: Mapping[str, str]) -> web.Response | None:
    """The 304 for a GET or HEAD whose conditions say that the client has it, None where the bytes must be sent.

    It keeps of ``headers`` what caches need (RFC 9110 15.4.5). Raises PreconditionFailed.
    """
    if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
        return None
    verdict = evaluate(request.method, request.headers, current)
    if verdict is Verdict.PRECONDITION_FAILED:
        raise PreconditionFailed(headers=current.headers())
    if verdict is Verdict.NOT_MODIFIED:
        return web.Response(status=304, headers={name: headers[name] for name in _KEPT_BY_304 if name in headers})
    return None


async def send_representation(
    request: web.Request, representation: Representation, *, stall_s: float
) -> web.StreamResponse:
    """Answer GET and HEAD as RFC 9110 says, any other method with the whole.

    A client that takes nothing for ``stall_s`` is cut, and so is every client when the content fails once the head is
    out. Raises PreconditionFailed, RangeNotSatisfiable, ClientGone, Unavailable when the content cannot be read,
    SourceError when that shows after the head, StorageError, and what opening the content and preparing it raise.
    """
    shown = representation.head()
    known = not_modified(request, representation.validators, shown)
    if known is not None:
        return known
    async with representation.content() as content:
        size = content.size_bytes
        ranges = representation.asked(request, size)
        status = 200 if ranges is None else 206
        pieces, length = _whole(size) if ranges is None else _partial(ranges, size, shown)
        shown[hdrs.CONTENT_LENGTH] = str(length)
        if request.method == hdrs.METH_HEAD:
            return web.Response(status=status, headers=shown)
        await content.prepare([piece for piece in pieces if isinstance(piece, ByteRange)])
        if length <= SMALL_BYTES:
            return web.Response(status=status, headers=shown, body=await _read(content, pieces))
        response = web.StreamResponse(status=status, headers=shown)
        async with open_response(request, response, stall_s=stall_s) as writer:
            for piece in pieces:
                if isinstance(piece, bytes):
                    await writer.write(piece)
                else:
                    await content.send(writer, piece)
        return response


def _whole(size: int) -> tuple[list[_Piece], int]:
    """Body of a 200 and its length."""
    return [ByteRange(0, size - 1)] if size else [], size


def _partial(ranges: Sequence[ByteRange], size: int, headers: CIMultiDict[str]) -> tuple[list[_Piece], int]:
    """Body of a 206 and its length; ``headers`` get what tells of it."""
    if len(ranges) == 1:
        headers[hdrs.CONTENT_RANGE] = ranges[0].content_range(size)
        return [*ranges], ranges[0].length
    parts = MultipartRanges(ranges, size, headers[hdrs.CONTENT_TYPE])
    headers[hdrs.CONTENT_TYPE] = parts.content_type
    pieces: list[_Piece] = []
    for index, part in enumerate(ranges):
        pieces += parts.part_header(index), part
    return [*pieces, parts.closing], parts.length


async def _read(content: Content, pieces: Sequence[_Piece]) -> bytes | bytearray:
    """A whole body; raises Unavailable where the content does not have it any more."""
    try:
        found = [piece if isinstance(piece, bytes) else await content.read(piece) for piece in pieces]
    except SourceError as error:
        raise Unavailable(f"the content cannot be read: {error}") from error
    return found[0] if len(found) == 1 else b"".join(found)
