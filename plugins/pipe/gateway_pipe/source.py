"""``pipe:<node>/<noun>``: what a node's handler answers as a source, for those who may call the node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from gateway_core import (
    BadRequest,
    Client,
    Gateway,
    NotFound,
    SourceChanged,
    SourceFailed,
    SourceGone,
    SourceInfo,
    SourceRefused,
    SourceRequest,
    SourceStalled,
    SourceStream,
    Unavailable,
)
from gateway_core.errors import DatabaseError
from gateway_pipe.handlers.failure import NO_SUCH_METHOD, RAISED
from gateway_pipe.link.http import OWN_REQUEST_HEADERS, strip_headers
from gateway_pipe.link.model import NODE_NAME, DeadlinePassed, Head, Kind, LinkError, Opening, Reset, StreamReset
from gateway_pipe.settings import CALL_SCOPE, PipeSettings

if TYPE_CHECKING:
    from gateway_pipe.hub.hub import Hub
    from gateway_pipe.link.calling import Answer

SCHEME = "pipe"
_URL = re.compile(r"pipe:([^/]*)/((?:[!$&-;=?-Z_a-z~]|%[0-9a-f]{2})+)", re.ASCII | re.IGNORECASE)
_LONGEST_URL = 8192
_STALL_S = 60.0
_SIZE = re.compile(r"[0-9]{1,18}", re.ASCII)


class PipeSource:
    """What GET of a noun gives: ``pipe:node1/file//report.pdf?version=2``, percent-encoded as in a URL.

    The client needs the scope ``pipe:call:<node>``; where calls need no client neither do these. Only code 0 is
    content. Handlers' answers have no versions, so that a broken one is begun anew and never resumed; they come whole.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def check(self, url: str, client: Client) -> None:
        """See Source: form and scope are looked at, not whether the node is there."""
        self._permitted(url, client)

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """See Source. It asks with HEAD, which handlers answer as GET, and tells a size where they return bytes."""
        async with self._called(request, "HEAD") as answer:
            return _info(answer.head)

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[SourceStream]:
        """See Source."""
        return self._opened(request)

    def lane(self, url: str) -> str:
        """One for each node."""
        return f"{SCHEME}:{url.partition(':')[2].partition('/')[0]}"

    @asynccontextmanager
    async def _opened(self, request: SourceRequest) -> AsyncIterator[SourceStream]:
        async with self._called(request, "GET") as answer:
            stall_s = _STALL_S if request.stall_s is None else request.stall_s
            yield _AnswerStream(answer, _info(answer.head), stall_s)

    @asynccontextmanager
    async def _called(self, request: SourceRequest, method: str) -> AsyncIterator[Answer]:
        """The node's answer, which is content."""
        named = self._permitted(request.url, request.client)
        if request.offset or request.validator is not None:
            raise SourceChanged("a handler's answer has no versions; it can only be had from its start")
        headers = strip_headers(request.headers.items(), OWN_REQUEST_HEADERS)
        opening = Opening(kind=Kind.NOUN, method=method, target=named.target, headers=headers)
        async with AsyncExitStack() as stack:
            with _as_source_errors():
                called = await stack.enter_async_context(self._hub.call(named.node, opening, timeout_s=request.stall_s))
            _judge(called.answer.head)
            yield called.answer

    def _permitted(self, url: str, client: Client) -> _Named:
        """What ``url`` names; raises SourceRefused."""
        match = _URL.fullmatch(url) if len(url) <= _LONGEST_URL else None
        if match is None or not NODE_NAME.fullmatch(match[1]):
            raise SourceRefused("what a node answers is named as pipe:<node>/<noun>")
        scope = CALL_SCOPE.format(node=match[1])
        if self._gateway.section(PipeSettings).call_auth and not client.allows(scope):
            raise SourceRefused(f"the client lacks scope {scope}")
        return _Named(match[1], match[2])

    @property
    def _hub(self) -> Hub:
        from gateway_pipe.service import SERVICE_KEY

        if SERVICE_KEY not in self._gateway.state:
            raise SourceFailed("only a serving gateway has nodes")
        return self._gateway.state[SERVICE_KEY].hub


class _Named(NamedTuple):
    node: str
    target: str


class _AnswerStream:
    """The body of an answer that has begun."""

    def __init__(self, answer: Answer, info: SourceInfo, stall_s: float) -> None:
        self.info = info
        self._answer = answer
        self._stall_s = stall_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks, promised, size = aiter(self._answer), self.info.size_bytes, 0
        while chunk := await self._next(chunks):
            size += len(chunk)
            if promised is not None and size > promised:
                break
            yield chunk
        if promised not in {None, size}:
            raise SourceFailed(f"the answer does not have the {promised} bytes it promised")

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Empty at the end."""
        try:
            with _as_source_errors():
                async with asyncio.timeout(self._stall_s):
                    return await anext(chunks, b"")
        except TimeoutError as exc:
            raise SourceStalled(f"the node sent nothing for {self._stall_s:g} s") from exc


def _judge(head: Head) -> None:
    """Raise SourceGone and SourceFailed for an answer that is not the content."""
    if head.code == NO_SUCH_METHOD or head.status in {404, 410}:
        raise SourceGone("the node has no such noun")
    if head.code == RAISED:
        raise SourceFailed("the node's handler failed")
    if head.code:
        raise SourceFailed(f"the node's handler returned the code {head.code}")


def _info(head: Head) -> SourceInfo:
    size = head.header("Content-Length")
    return SourceInfo(
        size_bytes=int(size) if _SIZE.fullmatch(size) else None, media_type=head.header("Content-Type") or None
    )


@contextmanager
def _as_source_errors() -> Iterator[None]:
    """What calling a node raises, in the words of sources."""
    try:
        yield
    except BadRequest as exc:
        raise SourceRefused(f"no node can be asked so: {exc.detail}") from exc
    except NotFound as exc:
        raise SourceGone("there is no such node") from exc
    except Unavailable as exc:
        raise SourceFailed("the node is away") from exc
    except DatabaseError as exc:
        raise SourceFailed("the database cannot answer now") from exc
    except DeadlinePassed as exc:
        raise SourceStalled("the node does not answer") from exc
    except StreamReset as exc:
        told = SourceStalled if exc.code is Reset.DEADLINE else SourceFailed
        raise told("the node broke its answer off") from exc
    except LinkError as exc:
        raise SourceFailed("the link to the node broke") from exc
