"""A file as an answer: whole or in ranges, if the conditions hold (RFC 9110 13 to 15)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway_blocks.files.media import is_active
from gateway_blocks.files.root import OpenFile
from gateway_core import SourceError, Unavailable
from gateway_core.errors import HttpError
from gateway_core.http.conditional import Validators, Verdict, applicable_range, evaluate, format_http_date
from gateway_core.http.file_body import read_file, send_file
from gateway_core.http.ranges import ByteRange, MultipartRanges, parse_range
from gateway_core.http.stream import open_response

SMALL_BYTES = 64 * 1024
"""Bodies up to this are read first and go out together with their head."""

_KEPT_BY_304 = (hdrs.ETAG, hdrs.LAST_MODIFIED, hdrs.CACHE_CONTROL, hdrs.CONTENT_LOCATION, hdrs.EXPIRES, hdrs.VARY)

_http_date = lru_cache(1024)(format_http_date)  # 3 of the 20 microseconds of a small file

_Piece = bytes | ByteRange
"""Part of a body: framing, or bytes of the file."""


class PreconditionFailed(HttpError):
    """412: the file is not the version that the request is about; the headers tell which it is."""

    status, type, title = 412, "precondition-failed", "Precondition failed"


async def answer_file(
    request: web.Request, file: OpenFile, *, headers: Mapping[str, str], stall_s: float, media_type: str
) -> web.StreamResponse:
    """Answer a GET or HEAD with ``file``, which stays the caller's to close.

    ``headers`` go on 200 and 206, before those made here; a 304 keeps of them what caches need (RFC 9110 15.4.5). The
    bytes are those of the file, never of a compressed neighbour, and no cache may transform them: what is checked by
    hash must arrive as it is. A client that takes nothing for ``stall_s`` is cut, and so is every client when the file
    turns out too short once the head is out. Raises PreconditionFailed, RangeNotSatisfiable, ClientGone, Unavailable
    when the file cannot be read, SourceError when that shows after the head.
    """
    current = current_validators(file)
    shown = file_headers(current, media_type, headers)
    verdict = evaluate(request.method, request.headers, current)
    if verdict is Verdict.PRECONDITION_FAILED:
        raise PreconditionFailed(headers=current.headers())
    if verdict is Verdict.NOT_MODIFIED:
        return web.Response(status=304, headers={name: shown[name] for name in _KEPT_BY_304 if name in shown})
    size = file.stat.st_size
    ranges = parse_range(applicable_range(request.method, request.headers, current), size)
    status = 200 if ranges is None else 206
    pieces, length = _whole(size) if ranges is None else _partial(ranges, size, shown)
    shown[hdrs.CONTENT_LENGTH] = str(length)
    if request.method == hdrs.METH_HEAD:
        return web.Response(status=status, headers=shown)
    if length <= SMALL_BYTES:
        return web.Response(status=status, headers=shown, body=await _read(file, pieces))
    response = web.StreamResponse(status=status, headers=shown)
    async with open_response(request, response, stall_s=stall_s) as writer:
        for piece in pieces:
            if isinstance(piece, bytes):
                await writer.write(piece)
            else:
                await send_file(writer, file.fd, offset=piece.first, count=piece.length)
    return response


def current_validators(file: OpenFile) -> Validators:
    """Those of the file; one from the future is told as modified now (RFC 9110 8.8.2.1)."""
    current, now = file.identity.validators(), time.time()
    return current if current.modified is None or current.modified <= now else replace(current, modified=now)


def file_headers(current: Validators, media_type: str, given: Mapping[str, str]) -> CIMultiDict[str]:
    """Headers of the whole file."""
    headers = CIMultiDict(
        {
            hdrs.ETAG: str(current.etag),
            hdrs.LAST_MODIFIED: _http_date(current.last_modified_s),
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CACHE_CONTROL: "no-transform",
            hdrs.CONTENT_TYPE: media_type,
        }
    )
    if is_active(media_type):
        headers["Content-Security-Policy"] = "sandbox"
    headers.update(given)
    return headers


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


async def _read(file: OpenFile, pieces: Sequence[_Piece]) -> bytes | bytearray:
    """A whole body; raises Unavailable where the file does not have it any more."""
    try:
        found = [
            piece if isinstance(piece, bytes) else await read_file(file.fd, piece.first, piece.length)
            for piece in pieces
        ]
    except SourceError as error:
        raise Unavailable(f"the file cannot be read: {error}") from error
    return found[0] if len(found) == 1 else b"".join(found)
