"""One call of a node, wherever its link is, over the newest link there is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypedDict

from gateway_core.errors import NotFound, Unavailable
from gateway_pipe.hub import metrics
from gateway_pipe.hub.nodes import Connected, Elsewhere, Reached
from gateway_pipe.link.model import Body, DeadlinePassed, LinkError, LinkLost, Opening, Reset, StreamReset

if TYPE_CHECKING:
    from gateway_pipe.link.calling import Answer, Call


class Finder(Protocol):
    """Who knows the nodes: the hub."""

    def node(self, name: str) -> Connected | None:
        """The newest connection, if this process holds it."""

    async def find(self, name: str, *, wait_s: float, past: int = 0) -> Reached:
        """The newest connection anywhere, of a higher epoch than ``past``."""

    def answered(self, seconds: float) -> None:
        """An answer has begun, so long after the call."""


class Patience(NamedTuple):
    """Seconds until the answer must have begun, ``whole``: have ended; and how many of them for a node that is away."""

    timeout_s: float
    wait_s: float
    whole: bool


class Timings(TypedDict):
    """Milliseconds until there was a link, and from then on until the answer began."""

    wait: float
    link: float


class Called:
    """``async with hub.call(...) as called``: the answer has begun; leaving early has the node stop.

    ``via`` is the gateway that holds the node's link, empty for this process; ``timings`` are for Server-Timing.

    A try that cannot have begun at the node, because its link broke or was about to end, is made once more over the
    node's next link, unless some of the body is gone already.
    """

    __slots__ = ("_began", "_body", "_call", "_finder", "_name", "_opening", "_patience", "answer", "timings", "via")

    answer: Answer
    timings: Timings
    via: str

    def __init__(self, finder: Finder, name: str, opening: Opening, *, body: Body, patience: Patience) -> None:
        self._finder = finder
        self._name = name
        self._opening = opening
        self._body = body if isinstance(body, bytes) else _Watched(body)
        self._patience = patience

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        finder, name = self._finder, self._name
        try:
            reached = finder.node(name) or await finder.find(name, wait_s=self._patience.wait_s)
            try:
                await self._open(reached)
            except (LinkLost, StreamReset) as error:
                if not self._repeatable or not _unbegun(error, reached):
                    raise
                await self._open(await self._next(reached, error))
        except BaseException as error:
            metrics.calls_of(_outcome(error)).inc()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        metrics.calls_of("answered" if error is None else _outcome(error)).inc()
        await self._call.__aexit__(kind, error, trace)

    @property
    def _repeatable(self) -> bool:
        return not isinstance(self._body, _Watched) or not self._body.begun

    async def _open(self, reached: Reached) -> None:
        linked = time.monotonic()
        waited_s = linked - self._began
        opening = self._opening
        if reached.gateway or waited_s > _NOTHING_S:
            opening = _adapted(opening, self._name if reached.gateway else "", waited_s)
        patience = self._patience
        left_s = max(0.0, patience.timeout_s - waited_s)
        call = reached.link.call(opening, self._body, timeout_s=left_s, whole=patience.whole)
        self.answer = await call.__aenter__()
        self._call: Call = call
        self.via = reached.gateway
        answered = time.monotonic()
        self.timings = {"wait": waited_s * 1000, "link": (answered - linked) * 1000}
        self._finder.answered(answered - self._began)

    async def _next(self, failed: Reached, error: LinkError) -> Reached:
        """The node's next link. When only the way to its gateway broke, that is the same one."""
        past = failed.epoch
        if isinstance(failed, Elsewhere) and isinstance(error, LinkLost):
            past -= 1
        left_s = self._patience.wait_s - (time.monotonic() - self._began)
        return await self._finder.find(self._name, wait_s=max(0.0, left_s), past=past)


_NOTHING_S = 0.01


class _Watched:
    """A body that knows whether somebody has begun to take it."""

    __slots__ = ("_body", "_chunks", "begun")

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body
        self.begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._body)
        return self

    def __anext__(self) -> Awaitable[bytes]:
        self.begun = True
        return anext(self._chunks)


def _adapted(opening: Opening, node: str, waited_s: float) -> Opening:
    """For the gateway that is to pass it on to ``node``, empty for none; with what is left of the caller's time."""
    left_ms = opening.timeout_ms
    if left_ms is not None:
        left_ms = max(1, left_ms - round(waited_s * 1000))
    return replace(opening, node=node, timeout_ms=left_ms)


def _unbegun(error: LinkError, reached: Reached) -> bool:
    """Whether the node has nothing of the call, and another link of it may take it.

    A node with too many calls refuses too, over a link that stays; so does a gateway for it, which then says when to
    come again, and says nothing when it does not have the node any more.
    """
    if isinstance(error, LinkLost):
        return not error.started
    if not isinstance(error, StreamReset) or error.code is not Reset.REFUSED:
        return False
    return error.retry_after_s is None if isinstance(reached, Elsewhere) else not reached.link.alive


def _outcome(error: BaseException) -> str:
    match error:
        case NotFound():
            return "unknown"
        case Unavailable():
            return "away"
        case LinkLost():
            return "lost"
        case StreamReset(code=Reset.REFUSED):
            return "refused"
        case DeadlinePassed() | StreamReset(code=Reset.DEADLINE):
            return "deadline"
        case StreamReset():
            return "broken"
        case _:
            return "left"
