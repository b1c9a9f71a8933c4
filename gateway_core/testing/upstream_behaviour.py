"""The ways in which an upstream of the tests misbehaves: one small class a fault.

A resource has a list of faults. One with ``times`` is played that often and holds back those behind it until it is
used up; one without is a standing rule. ``(Status(503, times=2), Cut(1000, times=1), Changed(b"new"))`` refuses twice,
then breaks off, then has other content. A fault that does not touch a request (a cut behind the end of its body, a
fault of the body on HEAD, another ``method``) is neither played nor used up by it.

Another way to misbehave is a subclass of ``Fault`` in the test that needs it.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway_core.testing.upstream_answer import Answer, Content, Framing, Generated, Resource
from gateway_core.testing.upstream_exchange import CHUNK_BYTES, Exchange


@dataclass(frozen=True)
class Fault:
    """None yet: answers by the rules. ``times`` None is always, ``method`` None is any."""

    times: int | None = field(default=None, kw_only=True)
    method: str | None = field(default=None, kw_only=True)

    def touches(self, right: Answer) -> bool:
        """Whether it would make a difference to ``right``, the answer by the rules."""
        return self.method in (None, right.request.method)

    def answer(self, right: Answer) -> Answer:
        """The answer that is sent in place of ``right``, which may be changed."""
        return right

    async def play(self, exchange: Exchange) -> None:
        """Send the answer, by the rules or not."""
        await exchange.send()


def _reaches(after: int | None, right: Answer) -> bool:
    return after is None or (right.has_body and after < right.size_bytes)


@dataclass(frozen=True)
class Stall(Fault):
    """Silence before the head (None) or after so many body bytes, then the rest: for ``seconds`` or until released."""

    after: int | None = None
    seconds: float | None = None

    def touches(self, right: Answer) -> bool:
        """While there is something left to send."""
        return super().touches(right) and _reaches(self.after, right)

    async def play(self, exchange: Exchange) -> None:
        """Send, wait, send the rest."""
        await exchange.begin(self.after)
        await exchange.stall(self.seconds)
        if self.after is None:
            await exchange.head()
        await exchange.body(self.after or 0)
        await exchange.end()


@dataclass(frozen=True)
class Cut(Fault):
    """Close before the head (None) or after so many body bytes; with chunked framing inside a chunk."""

    after: int | None = None

    def touches(self, right: Answer) -> bool:
        """While something would be missing."""
        return super().touches(right) and _reaches(self.after, right)

    async def play(self, exchange: Exchange) -> None:
        """Send the beginning only."""
        await exchange.begin(self.after)
        exchange.answer.close = True


@dataclass(frozen=True)
class Reset(Cut):
    """As ``Cut``, with a TCP reset; the peer gets at most so many bytes, for a reset overtakes those on the way."""

    async def play(self, exchange: Exchange) -> None:
        """Send the beginning, then RST."""
        await exchange.begin(self.after)
        exchange.reset()
        exchange.answer.close = True


@dataclass(frozen=True)
class Length(Fault):
    """A Content-Length that is ``delta`` bytes off: too long (positive) or too short; closes after the body."""

    delta: int

    def answer(self, right: Answer) -> Answer:
        """The right body under a wrong length."""
        answer = replace(right.resource, framing=Framing.LENGTH).answer(right.request)
        answer.headers["Content-Length"] = str(answer.size_bytes + self.delta)
        answer.close = True
        return answer


@dataclass(frozen=True)
class BadChunk(Fault):
    """Chunked framing whose next size line, after about ``after`` body bytes, is no number (RFC 9112 7.1).

    The place is rounded down to a chunk's start; a body that fits before it is sent whole, with a bad last chunk.
    """

    after: int = 0

    def touches(self, right: Answer) -> bool:
        """Every body."""
        return super().touches(right) and right.has_body

    def answer(self, right: Answer) -> Answer:
        """The right answer, chunked."""
        return replace(right.resource, framing=Framing.CHUNKED).answer(right.request)

    async def play(self, exchange: Exchange) -> None:
        """Whole chunks, then the bad line."""
        await exchange.begin(self.after - self.after % CHUNK_BYTES)
        await exchange.write(b"xyz\r\n")
        exchange.answer.close = True


@dataclass(frozen=True)
class Encoded(Fault):
    """Content-Encoding gzip, although nobody asked for it; ranges are of the encoded bytes."""

    def answer(self, right: Answer) -> Answer:
        """The same resource, encoded."""
        encoded = gzip.compress(right.resource.content[:], mtime=0)
        headers = {**right.resource.headers, "Content-Encoding": "gzip"}
        return replace(right.resource, content=encoded, headers=headers).answer(right.request)


@dataclass(frozen=True)
class WrongRange(Fault):
    """206 of as many bytes from another place, ``shift`` away; Content-Range tells it when ``honest``, else it lies."""

    shift: int = -1
    honest: bool = True

    def _start(self, right: Answer) -> int:
        return min(max(right.start + self.shift, 0), len(right.content) - right.size_bytes)

    def touches(self, right: Answer) -> bool:
        """Partial answers that can be moved inside the content."""
        return super().touches(right) and right.status == 206 and self._start(right) != right.start

    def answer(self, right: Answer) -> Answer:
        """The right answer, moved."""
        start = self._start(right)
        right.start, right.stop = start, start + right.size_bytes
        if self.honest:
            right.headers["Content-Range"] = f"bytes {right.start}-{right.stop - 1}/{len(right.content)}"
        return right


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """200 with everything, although a range was asked for and Accept-Ranges promises it."""

    def touches(self, right: Answer) -> bool:
        """Where a range would be answered."""
        return super().touches(right) and right.status in (206, 416)

    def answer(self, right: Answer) -> Answer:
        """The whole."""
        return right.resource.whole(right.request)


@dataclass(frozen=True)
class Changed(Fault):
    """Other content under the same URL, with the validators that go with it, where the resource has any."""

    content: Content

    def answer(self, right: Answer) -> Answer:
        """The right answer of the new version, a day younger."""
        modified = right.resource.modified
        if modified is not None:
            modified += 86_400
        return replace(right.resource, content=self.content, modified=modified).answer(right.request)


@dataclass(frozen=True)
class Status(Fault):
    """An error, or any other status, with a short text where it may have one."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def answer(self, right: Answer) -> Answer:
        """Nothing of the resource."""
        text = b"" if self.code in (204, 304) else f"status {self.code}\n".encode()
        told = Resource(text, status=self.code, headers=self.headers, etag=None, modified=None, ranges=False)
        return told.whole(right.request)


@dataclass(frozen=True)
class Headers(Fault):
    """The right answer with some header fields replaced, or left out where the value is None."""

    fields: Mapping[str, str | None]

    def answer(self, right: Answer) -> Answer:
        """The fields changed, the body not."""
        for name, value in self.fields.items():
            right.headers.popall(name, None)
            if value is not None:
                right.headers[name] = value
        return right


@dataclass(frozen=True)
class Endless(Fault):
    """A body that ends when the peer has had enough."""

    framing: Framing = Framing.CHUNKED

    def answer(self, right: Answer) -> Answer:
        """An exbibyte."""
        return replace(right.resource, content=Generated(1 << 60), framing=self.framing).whole(right.request)


@dataclass(frozen=True)
class Drip(Fault):
    """``piece_bytes`` of the body each ``interval_s``: alive, and useless."""

    interval_s: float
    piece_bytes: int = 1

    def touches(self, right: Answer) -> bool:
        """Every body."""
        return super().touches(right) and _reaches(0, right)

    async def play(self, exchange: Exchange) -> None:
        """Piece by piece; a release sends the rest without pauses."""
        await exchange.begin(self.piece_bytes)
        for start in range(self.piece_bytes, exchange.answer.size_bytes, self.piece_bytes):
            await exchange.stall(self.interval_s)
            await exchange.body(start, start + self.piece_bytes)
        await exchange.end()


@dataclass(frozen=True)
class Garbage(Fault):
    """The right answer, then bytes that belong to nothing, until the peer closes."""

    def touches(self, right: Answer) -> bool:
        """Every body."""
        return super().touches(right) and right.has_body

    async def play(self, exchange: Exchange) -> None:
        """Send, and never stop."""
        await exchange.send()
        while True:
            await exchange.write(b"garbage " * (CHUNK_BYTES // 8))


@dataclass(frozen=True)
class Raw(Fault):
    """These bytes in place of an answer, then the end of the connection: another protocol, a broken head."""

    data: bytes

    async def play(self, exchange: Exchange) -> None:
        """As they stand."""
        await exchange.write(self.data)
        exchange.answer.close = True
