"""The source for ``http`` and ``https`` URLs."""

from __future__ import annotations

import binascii
import re
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from aiohttp import ClientError, ClientOSError, ClientResponse

from gateway_core.auth.client import Client
from gateway_core.errors import SourceChanged, SourceFailed, SourceGone
from gateway_core.sources.base import SourceInfo, SourceRequest
from gateway_core.sources.egress import GuardedClient, OutgoingRequest, source_error
from gateway_core.sources.urls import parse_url

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.IGNORECASE)  # RFC 9110 14.4
_FILENAME = re.compile(r""";\s*filename(\*?)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"][^\s;]*)""", re.IGNORECASE)  # RFC 6266 4.1
# The source's own; a caller's would change what is answered.
_OWN_HEADERS = frozenset(
    {"range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"},
)
_CLOCK_SLACK_S = 60
_Headers = Mapping[str, str]


class HttpSource:
    """Bytes of http(s) URLs through the guarded client.

    Success is 200 and nothing else (206 for an offset or a length): any other status is SourceGone. Bodies with a
    content coding are refused, not decoded: their end could not be told from a cut. A body without any length (neither
    Content-Length nor chunked, as HTTP/1.0 servers send) is accepted with ``size_bytes`` None; whether such a body is
    complete nobody can know.

    An offset needs a validator, or a caller who does without. A server that does not do ranges is read from the start
    and up to ``skip_limit_bytes`` are thrown away, if its version is the right one; beyond that the offset is
    SourceChanged. What such a server sends after a length is not read. Where there is no byte to be had, a length is
    SourceChanged.
    """

    def __init__(
        self, client: GuardedClient, *, stall_s: float | None = None, skip_limit_bytes: int = 64 * 1024 * 1024
    ) -> None:
        self._client = client
        self._stall_s = stall_s
        self._skip_limit_bytes = skip_limit_bytes

    async def check(self, url: str, client: Client) -> None:
        """Whether ``url`` is one, and not of a forbidden address; raises SourceRefused. Looks up no names."""
        del client  # the policy is the same for all
        self._client.check(url)

    def lane(self, url: str) -> str:
        """``https://host:443``; raises SourceRefused for what is no http(s) URL."""
        return parse_url(url).server.origin

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """Ask with HEAD, then, where that is refused or tells no size, with GET for one byte.

        HEAD is often forbidden where GET is not (presigned URLs), and often says ``Content-Length: 0`` wrongly.
        """
        async with self._client.request(self._outgoing(request, "HEAD", {})) as response:
            if response.status == 200 and not _encoded(response) and (size := _length(response)):
                return _info(response.headers, size)
        async with self._client.request(self._outgoing(request, "GET", {"Range": "bytes=0-0"})) as response:
            size = _probed_size(response)
            _refuse_encoded(response)
            info = _info(response.headers, size, ranges=response.status == 206)
            if response.status == 206:
                await anext(HttpStream(response, info, None), b"")  # so that the connection can be used again
            return info

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[HttpStream]:
        """GET the rest from the offset, of the version asked for; see ``Source.open``."""
        return _Opening(self._start, request, self._client.request(self._get(request)))

    def _get(self, request: SourceRequest) -> OutgoingRequest:
        first, validator = request.offset, request.validator
        if not _is_part(request):
            return self._outgoing(request, "GET", {})
        if first and validator is None and not request.unproven:
            raise SourceChanged("no validator to continue with")
        last = "" if request.length is None else first + request.length - 1
        headers = {"Range": f"bytes={first}-{last}"}
        if validator is not None:
            # RFC 9110 13.1.5 forbids a date in If-Range when the server has given an entity tag, even a weak one.
            headers["If-Range" if validator.startswith('"') else "If-Unmodified-Since"] = validator
        return self._outgoing(request, "GET", headers)

    def _outgoing(self, request: SourceRequest, method: str, common: _Headers) -> OutgoingRequest:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        return OutgoingRequest(request.url, method, headers, common, stall_s=request.stall_s or self._stall_s)

    async def _start(self, request: SourceRequest, response: ClientResponse) -> HttpStream:
        status, offset, length = response.status, request.offset, request.length
        part = _is_part(request)
        if part and status in {412, 416}:
            raise SourceChanged(f"status {status}")
        if status != 200 and not (status == 206 and part):
            raise _gone(response)
        _refuse_encoded(response)
        if request.validator is not None and not _is_version(response.headers, request.validator):
            raise SourceChanged("another version")
        if status == 206:
            size = _partial_size(response, request)
            rest = size and size - offset
            expected = rest if rest is None or length is None else min(rest, length)
            return HttpStream(response, _info(response.headers, size, ranges=True), expected, wanted_bytes=length)
        size = _length(response)
        wanted = None if length is None else offset + length
        stream = HttpStream(response, _info(response.headers, size), size, wanted_bytes=wanted)
        if offset:
            await self._skip(stream, offset)
        return stream

    async def _skip(self, stream: HttpStream, offset: int) -> None:
        if offset > self._skip_limit_bytes:
            raise SourceChanged("no ranges")
        await stream.skip(offset)


class _Opening(AbstractAsyncContextManager["HttpStream"]):
    """What ``open`` returns: the exchange, and the stream made of its answer."""

    def __init__(
        self,
        start: Callable[[SourceRequest, ClientResponse], Awaitable[HttpStream]],
        request: SourceRequest,
        exchange: AbstractAsyncContextManager[ClientResponse],
    ) -> None:
        self._start, self._request, self._exchange = start, request, exchange

    async def __aenter__(self) -> HttpStream:
        response = await self._exchange.__aenter__()
        try:
            return await self._start(self._request, response)
        except BaseException:
            await self._exchange.__aexit__(*sys.exc_info())
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)


class HttpStream:
    """The body of one response; ends only when all that was announced has come, or the first ``wanted_bytes`` of it."""

    def __init__(
        self,
        response: ClientResponse,
        info: SourceInfo,
        expected_bytes: int | None,
        *,
        wanted_bytes: int | None = None,
    ) -> None:
        self._info = info
        self._missing = expected_bytes
        self._wanted = wanted_bytes
        self._read = response.content.readany
        self._ahead = b""
        # The response forgets its connection at the end of the body, which is where it is needed.
        self._protocol = response.connection.protocol if response.connection else None
        self._until_close = "Content-Length" not in response.headers and "Transfer-Encoding" not in response.headers

    @property
    def info(self) -> SourceInfo:
        """What the response's headers say of the whole."""
        return self._info

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._ahead:
            chunk, self._ahead = self._ahead, b""
            return chunk
        if self._wanted == 0:
            raise StopAsyncIteration
        try:
            chunk = await self._read()
        except (ClientError, OSError) as error:
            raise source_error(error) from error
        except RuntimeError as error:
            # aiohttp's word for a lost connection, until a later turn of the loop tells the body of it
            if self._protocol is not None and self._protocol.connected:
                raise
            raise SourceFailed("broke off") from error
        if not chunk:
            self._check_end()
            raise StopAsyncIteration
        if self._missing is not None:
            self._missing -= len(chunk)
            if self._missing < 0:
                raise SourceFailed("longer than announced")
        if self._wanted is not None:
            chunk = chunk[: self._wanted]
            self._wanted -= len(chunk)
        return chunk

    async def skip(self, count: int) -> None:
        """Throw away ``count`` bytes; raises SourceChanged when there are no more than that."""
        async for chunk in self:
            if len(chunk) >= count:
                self._ahead = chunk[count:]
                return
            count -= len(chunk)
        raise SourceChanged("shorter than the offset")

    def _check_end(self) -> None:
        if self._missing:
            raise SourceFailed(f"ended {self._missing} bytes early")
        # To the parser a reset is as good an end as any for a body that lasts until the connection closes.
        if self._until_close and self._protocol is not None and isinstance(self._protocol.exception(), ClientOSError):
            raise SourceFailed("broke off")


def _is_part(request: SourceRequest) -> bool:
    return request.offset > 0 or request.length is not None


def _gone(response: ClientResponse) -> SourceGone:
    return SourceGone(f"status {response.status}", upstream_status=response.status)


def _info(headers: _Headers, size: int | None, *, ranges: bool = False) -> SourceInfo:
    etag, modified = headers.get("ETag", ""), _seconds(headers.get("Last-Modified"))
    validator, strong = None, False
    if etag.startswith('"'):
        validator, strong = etag, True
    elif modified is not None:
        # RFC 9110 8.8.2.2: a file may change twice within a second, and clocks differ
        validator, date = headers["Last-Modified"], _seconds(headers.get("Date"))
        strong = date is not None and date - modified >= _CLOCK_SLACK_S
    return SourceInfo(
        size_bytes=size,
        validator=validator,
        strong=strong,
        modified=modified,
        media_type=headers.get("Content-Type"),
        name=_disposition_name(headers.get("Content-Disposition", "")),
        crc32=_crc32(headers),
        ranges=ranges or headers.get("Accept-Ranges", "").strip().lower() == "bytes",
    )


def _is_version(headers: _Headers, validator: str) -> bool:
    """A server that ignores conditions answers 206 of another version; one that shows no validator proves nothing."""
    return headers.get("ETag" if validator.startswith('"') else "Last-Modified") == validator


def _length(response: ClientResponse) -> int | None:
    return None if "Transfer-Encoding" in response.headers else response.content_length  # RFC 9112 6.3


def _encoded(response: ClientResponse) -> bool:
    codings = response.headers.getall("Content-Encoding", [])
    transfer = response.headers.getall("Transfer-Encoding", [])
    return any(c.strip().lower() not in {"", "identity"} for c in codings) or any(
        c.strip().lower() != "chunked" for c in transfer
    )


def _refuse_encoded(response: ClientResponse) -> None:
    if _encoded(response):
        raise SourceFailed("sent encoded although identity was asked for")


def _partial_size(response: ClientResponse, request: SourceRequest) -> int | None:
    """Size of the whole from a 206 of the range asked for; None where the server does not know it yet."""
    offset, length = request.offset, request.length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or match[1] is None or int(match[1]) != offset or int(match[2]) < offset:
        raise SourceFailed("another range than the one asked for")
    beyond = None if length is None else offset + length
    size = None if match[3] == "*" else int(match[3])
    if any(end is not None and int(match[2]) >= end for end in (beyond, size)):
        raise SourceFailed("another range than the one asked for")
    return size


def _probed_size(response: ClientResponse) -> int | None:
    if response.status == 200:
        return _length(response)
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and match is not None:
        return None if match[3] == "*" else int(match[3])
    if response.status == 416 and match is not None and match[3] == "0":
        return 0  # no byte to ask for in an empty file
    raise _gone(response)


@lru_cache(maxsize=256)  # files of one upload often share it
def _seconds(text: str | None) -> float | None:
    try:
        when = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _crc32(headers: _Headers) -> int | None:
    """S3's checksum, which is of the object unless it was uploaded in parts (type COMPOSITE)."""
    if headers.get("x-amz-checksum-type", "").upper() != "FULL_OBJECT":
        return None
    try:
        raw = b64decode(headers.get("x-amz-checksum-crc32", ""), validate=True)
    except binascii.Error:
        return None
    return int.from_bytes(raw) if len(raw) == 4 else None


def _disposition_name(text: str) -> str | None:
    """The file name of Content-Disposition, the extended form first (RFC 6266 4.3), without folders."""
    found = {match[1]: match[2] for match in _FILENAME.finditer(text)}
    name = _extended(found.get("*", ""))
    if name is None and (plain := found.get("")) is not None:
        name = re.sub(r"\\(.)", r"\1", plain[1:-1]) if plain.startswith('"') else plain
        if not name.isprintable():  # bytes that are not UTF-8 arrive as surrogates
            name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    return re.split(r"[/\\]", name)[-1].strip() or None if name else None


def _extended(text: str) -> str | None:
    """``UTF-8''na%C3%AFve.txt`` (RFC 8187 3.2)."""
    charset, _, rest = text.partition("'")
    if charset.lower() not in {"utf-8", "iso-8859-1"} or "'" not in rest:
        return None
    return unquote(rest.partition("'")[2], encoding=charset, errors="replace")
