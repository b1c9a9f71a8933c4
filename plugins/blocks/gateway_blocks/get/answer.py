"""An answer whose head has come, and its body, which ends where it was told to end or not at all."""

from __future__ import annotations

import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import BadStatusLine, HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from gateway_blocks.get.model import Unreachable
from gateway_blocks.get.urls import host_and_port

_PIECE_BYTES = 1 << 16
_DISCARD_BYTES = 1 << 16
_NUMBER = re.compile(r"[0-9]{1,18}")
_GZIP = frozenset({"gzip", "x-gzip"})
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ssl.SSLCertVerificationError, "has a certificate that is not trusted: {0.verify_message}"),
    (ssl.SSLError, "failed in TLS: {0}"),
    (socket.gaierror, "is not found: {0.strerror}"),
    (RemoteDisconnected, "closed the connection without an answer"),
    (TimeoutError, "did not answer in time"),
    (ConnectionRefusedError, "refused the connection"),
    (ConnectionError, "broke the connection off"),
    (OSError, "cannot be reached: {0.strerror}"),
    (IncompleteRead, "broke the body off"),
    (BadStatusLine, "does not answer in HTTP"),
    (Exception, "sent what is no HTTP: {0}"),
)


class Busy(Unreachable):
    """429 or 5xx: later perhaps. ``retry_after_s`` is what the server asks for, None where it does not say."""

    type, title = "busy", "Server is busy"

    def __init__(self, detail: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Answer:
    """An answer whose head has come. Close it (or leave its ``with``): a body read to its end keeps the connection.

    ``headers`` are found in any case: ``headers.get("ETag")``. ``url`` is where it came from after redirects,
    ``length`` the told size of the body (of the one that HEAD leaves out, too), None where it was not told. All reads
    raise Unreachable when the body breaks off, stalls or lies about its length, and Stopped within half a second of the
    stop.
    """

    def __init__(
        self, response: HTTPResponse, url: str, release: Callable[[bool], None], *, takes_gzip: bool = False
    ) -> None:
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.url = url
        self.length = _told_length(response)
        self._response = response
        self._takes_gzip = takes_gzip
        self._release: Callable[[bool], None] | None = release
        self._left = response.length
        self._ended = (
            self._left == 0
        )  # http.client tells a length of chunked bodies only where there is none: HEAD, 204, 304
        self._host = host_and_port(urlsplit(url))

    @property
    def retry_after_s(self) -> float | None:
        """Retry-After in seconds from now (RFC 9110 10.2.3), None without one."""
        told = self.headers.get("Retry-After", "").strip()
        if _NUMBER.fullmatch(told):
            return float(told)
        when, now = _unix_s(told), _unix_s(self.headers.get("Date"))
        return None if when is None else max(0.0, when - (time.time() if now is None else now))

    @property
    def coding(self) -> str:
        """The content and transfer codings of the body other than chunked, empty for none."""
        codings = [
            word.strip().lower()
            for name in ("Content-Encoding", "Transfer-Encoding")
            for value in self.headers.get_all(name, [])
            for word in value.split(",")
        ]
        return ", ".join(word for word in codings if word not in {"", "identity", "chunked"})

    def readinto(self, buffer: memoryview) -> int:
        """Whatever is there, at most one receive; 0 only at the true end of the body. Undecoded bytes."""
        if self._ended or not buffer:
            return 0
        try:
            count = self._received(buffer if self._left is None else buffer[: max(1, self._left)])
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{self._host} {network_reason(error)}") from error
        if not count:
            self._end()
        elif self._left is not None:
            self._left -= count
            if self._left < 0:
                raise Unreachable(f"{self._host} sent more than it had told")
            # the end of a chunked body is still to come: it is read by whoever asks for more
            self._ended = not self._left and not self._response.chunked
        return count

    def require(self, count_bytes: int) -> None:
        """The body must have exactly so many bytes; raises Unreachable at once where another length was told."""
        if self.length not in {None, count_bytes}:
            raise Unreachable(f"{self._host} sends {self.length} bytes where {count_bytes} were asked for")
        if self._left is None:
            self._left = count_bytes

    def pieces(self, limit_bytes: int) -> Iterator[bytes]:
        """The rest of the body, decoded where it is gzip; raises Unreachable beyond ``limit_bytes`` decoded."""
        if not self.coding:
            yield from self._raw_pieces(limit_bytes)
        elif self._takes_gzip and self.coding in _GZIP:
            yield from self._decoded(limit_bytes)
        else:
            raise Unreachable(f"{self._host} sends its answer encoded, which it was not asked for: {self.coding[:40]}")

    def read_all(self, limit_bytes: int) -> bytes:
        """``pieces`` as one."""
        return b"".join(self.pieces(limit_bytes))

    def discard(self) -> None:
        """Read the rest where it is short, so that the connection can be kept; raises Stopped only."""
        if self._response.chunked if self._left is None else self._left <= _DISCARD_BYTES:
            with suppress(Unreachable):
                for _ in self._raw_pieces(_DISCARD_BYTES):
                    pass

    def close(self) -> None:
        """Give the connection back, or close it where the body has not been read; any number of times."""
        if self._release is not None:
            release, self._release = self._release, None
            release(self._ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _received(self, buffer: memoryview) -> int:
        if not self._response.chunked:
            return self._response.readinto(buffer)
        data = self._response.read1(len(buffer))  # http.client fills whole buffers from chunks otherwise
        if len(data) > len(buffer):
            raise HTTPException("broken chunks")
        buffer[: len(data)] = data
        return len(data)

    def _end(self) -> None:
        if self._left:
            raise Unreachable(f"{self._host} ended the body {self._left} bytes early")
        self._ended = True

    def _raw_pieces(self, limit_bytes: int) -> Iterator[bytes]:
        buffer = memoryview(bytearray(_PIECE_BYTES))
        left = limit_bytes
        if self.length is not None and not self._ended and self.length > limit_bytes:
            left = -1
        while left >= 0 and (count := self.readinto(buffer)):
            left -= count
            if left >= 0:
                yield bytes(buffer[:count])
        if left < 0:
            raise Unreachable(f"{self._host} sends more than the {limit_bytes} bytes that such an answer may have")

    def _decoded(self, limit_bytes: int) -> Iterator[bytes]:
        decoder = zlib.decompressobj(wbits=31)
        left = limit_bytes
        try:
            for raw in self._raw_pieces(limit_bytes):
                data, full = raw, True
                while full and not decoder.eof:
                    piece = decoder.decompress(data, _PIECE_BYTES)
                    data, full = decoder.unconsumed_tail, len(piece) == _PIECE_BYTES
                    left -= len(piece)
                    if left < 0:
                        raise Unreachable(
                            f"{self._host} sends more than the {limit_bytes} bytes that such an answer may have"
                        )
                    yield piece
        except zlib.error as error:
            raise Unreachable(f"{self._host} sends what is no gzip") from error
        if not decoder.eof:
            raise Unreachable(f"{self._host} ended the gzip early")


def network_reason(error: OSError | HTTPException) -> str:
    """What happened, in words that go on from the name of the host."""
    return next(text for kind, text in _REASONS if isinstance(error, kind)).format(error)


def _told_length(response: HTTPResponse) -> int | None:
    told = response.headers.get("Content-Length", "").strip()
    return int(told) if _NUMBER.fullmatch(told) and not response.chunked else None


def _unix_s(date: str | None) -> float | None:
    """An HTTP date; a time zone that is not told is UTC, which is what HTTP dates are in."""
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return None
