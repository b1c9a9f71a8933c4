"""What an upstream of the tests serves: content, a resource, and the right answer to a request for it (RFC 9110)."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from typing import Protocol

from multidict import CIMultiDict, CIMultiDictProxy

AUTO = "auto"
"""Value of ``Resource.etag`` for a strong ETag made of the content, so that other content has another one."""

_BLOCK_BYTES = 65_521
_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*", re.IGNORECASE)


class Content(Protocol):
    """Bytes of a known length that can be sliced; ``bytes`` is one, ``Generated`` another."""

    def __len__(self) -> int:
        """Size in bytes."""

    def __getitem__(self, key: slice, /) -> bytes:
        """The bytes of a slice without a step."""


@lru_cache(maxsize=64)
def _block(seed: str) -> bytes:
    return random.Random(seed).randbytes(_BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Generated:
    """Content of any size that takes no memory: incompressible bytes that depend on ``seed`` and on the position.

    They repeat after 65,521 bytes, a prime, so that no power of two hides a wrong offset.
    """

    size_bytes: int
    seed: str = ""

    def __len__(self) -> int:
        return self.size_bytes

    def __getitem__(self, key: slice, /) -> bytes:
        start, stop, _ = key.indices(self.size_bytes)
        length = max(0, stop - start)
        offset = start % _BLOCK_BYTES
        blocks = -(-(offset + length) // _BLOCK_BYTES)
        return (_block(self.seed) * blocks)[offset : offset + length]


class Framing(Enum):
    """How the end of a body is told (RFC 9112 6.3): by Content-Length, chunks, or the end of the connection."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


@dataclass(slots=True, kw_only=True)
class SeenRequest:
    """One request as it came, and what became of it.

    ``target`` is the path with its query, undecoded. ``connection`` counts connections from 1. ``sent_bytes`` are body
    bytes handed to the kernel, without chunk framing. ``fault`` is the name of the fault that was played, ``complete``
    whether the answer, faulty or not, was sent to its end.
    """

    method: str
    target: str
    version: str
    headers: CIMultiDictProxy[str]
    body: bytes = b""
    connection: int = 0
    status: int | None = None
    sent_bytes: int = 0
    fault: str | None = None
    complete: bool = False

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def wants_close(self) -> bool:
        """Whether the connection ends after the answer (RFC 9112 9.3); HTTP/1.0 is never kept alive here."""
        return self.version == "HTTP/1.0" or self.headers.get("Connection", "").lower() == "close"


@dataclass(slots=True, kw_only=True)
class Answer:
    """What is to be sent to ``request``, for ``resource``: ``content`` from ``start`` to ``stop``.

    Content-Length, Transfer-Encoding and Connection are added when sent, unless ``headers`` has them already.
    ``close`` ends the connection afterwards without announcing it.
    """

    request: SeenRequest
    resource: Resource
    status: int
    headers: CIMultiDict[str]
    content: Content
    start: int
    stop: int
    framing: Framing
    close: bool = False

    @property
    def size_bytes(self) -> int:
        """Length of the body, or of the body that HEAD leaves out."""
        return self.stop - self.start

    @property
    def has_body(self) -> bool:
        """Whether the body is sent (RFC 9110 9.3.2)."""
        return self.request.method != "HEAD"


@dataclass(frozen=True, slots=True)
class Resource:
    """Something with a URL, served by the rules.

    ``etag`` goes out as it stands, quotes included. ``modified`` is Unix seconds. None leaves out a validator.
    ``ranges`` tells whether Range is honoured, ``if_range`` whether If-Range is looked at when it is (a server that
    does not mixes versions). A ``status`` other than 200 is answered whole.
    """

    content: Content
    etag: str | None = field(default=AUTO, kw_only=True)
    modified: float | None = field(default=1_700_000_000.0, kw_only=True)
    media_type: str | None = field(default="application/octet-stream", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    status: int = field(default=200, kw_only=True)
    framing: Framing = field(default=Framing.LENGTH, kw_only=True)
    ranges: bool = field(default=True, kw_only=True)
    if_range: bool = field(default=True, kw_only=True)

    @property
    def sent_etag(self) -> str | None:
        """The ETag field, or None."""
        if self.etag != AUTO:
            return self.etag
        told_apart_by = self.content if isinstance(self.content, bytes) else repr(self.content).encode()
        return f'"{len(self.content):x}-{zlib.crc32(told_apart_by):08x}"'

    @property
    def sent_modified(self) -> str | None:
        """The Last-Modified field, or None."""
        return None if self.modified is None else formatdate(self.modified, usegmt=True)

    def whole(self, request: SeenRequest) -> Answer:
        """The answer to ``request`` as if it had no Range."""
        headers = CIMultiDict({"Date": formatdate(usegmt=True)})
        if self.media_type is not None:
            headers["Content-Type"] = self.media_type
        if self.sent_etag is not None:
            headers["ETag"] = self.sent_etag
        if self.sent_modified is not None:
            headers["Last-Modified"] = self.sent_modified
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        headers.update(self.headers)
        return Answer(
            request=request,
            resource=self,
            status=self.status,
            headers=headers,
            content=self.content,
            start=0,
            stop=len(self.content),
            framing=self.framing,
        )

    def answer(self, request: SeenRequest) -> Answer:
        """The right answer: 200, 206 or 416 (RFC 9110 14.2); several ranges are answered whole, as it allows."""
        answer = self.whole(request)
        wanted = _RANGE.fullmatch(request.headers.get("Range", ""))
        if request.method != "GET" or self.status != 200 or not self.ranges or wanted is None:
            return answer
        if not self._condition_holds(request.headers.get("If-Range")):
            return answer
        return self._part(answer, wanted[1], wanted[2])

    def _condition_holds(self, validator: str | None) -> bool:
        """RFC 9110 13.1.5: the same strong ETag or, byte for byte, the same date."""
        if validator is None or not self.if_range:
            return True
        if validator.startswith("W/"):
            return False
        return validator in (self.sent_etag, self.sent_modified)

    def _part(self, answer: Answer, first: str, last: str) -> Answer:
        """RFC 9110 14.1.2; a range that is no range at all is ignored (14.2)."""
        size = len(self.content)
        if first:
            start, stop = int(first), min(size, int(last) + 1) if last else size
            if last and int(last) < start:
                return answer
        elif last:
            start, stop = max(0, size - int(last)), size
        else:
            return answer
        if start >= stop:
            answer.status, answer.content, answer.stop = 416, b"", 0
            answer.headers["Content-Range"] = f"bytes */{size}"
            return answer
        answer.status, answer.start, answer.stop = 206, start, stop
        answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return answer
