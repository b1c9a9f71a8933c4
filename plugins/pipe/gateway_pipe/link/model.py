"""What two ends of a link tell each other: who they are, what a stream asks, how its answer begins, why it ends."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import ClassVar, Protocol

from gateway_core.errors import GatewayError

PROTOCOL = 1
SUBPROTOCOL = "pipe.v1"
MAX_MESSAGE_BYTES = 256 * 1024
"""Of one WebSocket message, which holds any number of frames."""

Headers = tuple[tuple[str, str], ...]
"""Names and values in their order; bytes that are no UTF-8 as surrogate escapes."""

Body = bytes | AsyncIterable[bytes]
"""What is sent on a stream: at once, or as it comes. Chunks may have any size; empty ones are left out."""

NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")
"""A node's whole name (use ``fullmatch``): safe in URLs, scopes, file names, logs, and as DNS name in a certificate."""


class Kind(StrEnum):
    """What a stream is for: a handler's method, a published web application, or the link itself (renewal)."""

    NOUN = "noun"
    APP = "app"
    CONTROL = "control"


class Reset(IntEnum):
    """Why one end broke a stream off."""

    CANCEL = 1
    REFUSED = 2
    DEADLINE = 3
    FLOW = 4
    INTERNAL = 5
    FORBIDDEN = 6
    GONE = 7


class Goodbye(IntEnum):
    """Why one end will close the link."""

    SHUTDOWN = 1
    REPLACED = 2
    REVOKED = 3
    OVERLOAD = 4
    PROTOCOL = 5
    EXPIRED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a stream asks.

    ``method`` is an HTTP method, ``target`` the raw path and query without a leading slash, as the caller wrote it:
    ``cat//hello%20/world?x=1``; for an app it begins with the app's name. ``node`` says on a link between gateways
    which node is meant. ``call`` is the id of a durable call, the same at each try, ``key`` a caller's own.
    ``timeout_ms`` is what is left of the caller's time, None without a limit.
    """

    kind: Kind
    method: str
    target: str
    headers: Headers = ()
    node: str = ""
    call: str = ""
    key: str = ""
    timeout_ms: int | None = None

    def header(self, name: str, default: str = "") -> str:
        """The first header of that name, in any case."""
        return header_of(self.headers, name, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How an answer begins.

    ``status`` is the real HTTP status: of a noun 200, or 404, 405, 502 and so on for what ``X-Pipe-Status: strict``
    shows; of an app its own. ``code`` is a noun's return code: 0, 255 (no such method), 251 (it raised), or its own.
    """

    status: int = 200
    code: int = 0
    headers: Headers = ()

    def header(self, name: str, default: str = "") -> str:
        """The first header of that name, in any case."""
        return header_of(self.headers, name, default)


def header_of(headers: Headers, name: str, default: str = "") -> str:
    """The first of ``headers`` of that name, in any case."""
    wanted = name.lower()
    return next((value for key, value in headers if key.lower() == wanted), default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who the other end says it is; its name is believed only where its credential allows it.

    ``instance`` is new with each process. ``nouns`` are those of its handlers, ``apps`` the names it publishes.
    ``window`` is the credit of a new stream in bytes, ``streams`` how many it bears at once, ``ping_s`` the
    heartbeat that the server asks for (0 from a node), ``epoch`` the server's number of this connection.
    """

    name: str
    instance: str
    version: str = ""
    tags: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    window: int = 64 * 1024
    streams: int = 256
    ping_s: float = 0.0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Farewell:
    """Why a link ended: ``code`` None when it broke. ``retry_after_s`` is the wait that the other end asks for."""

    code: Goodbye | None
    reason: str
    retry_after_s: float | None = None


class LinkError(GatewayError):
    """A stream could not be used to its end."""


class LinkLost(LinkError):
    """The link broke; ``started`` is False when nothing of the request can have reached the other end."""

    type, title = "link-lost", "Link lost"

    def __init__(self, detail: str = "", *, started: bool = True) -> None:
        super().__init__(detail)
        self.started = started


class StreamReset(LinkError):
    """The other end broke the stream off, or this one had to: ``code`` tells why."""

    type, title = "stream-reset", "Stream broken off"

    def __init__(self, code: Reset, reason: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(reason or code.name.lower())
        self.code = code
        self.retry_after_s = retry_after_s


class DeadlinePassed(LinkError):
    """The caller's time was up before the answer began, or ended where the caller set the time."""

    type, title = "deadline", "Deadline passed"


class ProtocolViolation(LinkError):
    """The other end sent what the protocol does not allow; its link is closed."""

    type, title = "protocol", "Protocol violated"


class Wire(Protocol):
    """What a link runs over: messages both ways, whole and in order."""

    async def send(self, message: bytes) -> None:
        """Send one message and wait while the other end is behind; raises ConnectionError."""

    async def receive(self) -> bytes | None:
        """The next message, None at the end, however it came; raises ProtocolViolation for one that is not binary."""

    async def close(self, reason: str) -> None:
        """Close properly, within seconds; never raises."""

    def abort(self) -> None:
        """Close at once."""


class Incoming(Protocol):
    """A stream that the other end opened, as the serving function gets it.

    Iterate it for the request's body; credit is given as chunks are taken. The serving function's task is cancelled
    when the caller gives up or the link breaks.
    """

    opening: Opening

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The request's body, chunk by chunk; raises LinkLost or StreamReset where it breaks."""

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body; raises TooLarge beyond the limit."""

    def time_left_s(self) -> float | None:
        """What is left of the caller's time, never below 0; None without a limit."""

    async def answer(self, head: Head, body: Body = b"") -> None:
        """Send the whole answer, once. An exception of ``body`` breaks the stream, so that nobody takes a part for all.

        Raises LinkLost or StreamReset where the caller no longer wants it.
        """

    async def refuse(self, code: Reset, reason: str, *, retry_after_s: float | None = None) -> None:
        """Break the stream off instead of an answer."""


Serve = Callable[[Incoming], Awaitable[None]]
"""Answers one incoming stream; an exception that leaves it breaks the stream (INTERNAL) and is logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one end bears: credit of a stream that it receives, streams at once, and how long a send may take."""

    window: int = 64 * 1024
    max_window: ClassVar[int] = 1024 * 1024
    streams: int = 256
    send_timeout_s: float = 10.0


@dataclass(slots=True)
class Traffic:
    """Figures of one link: bytes of messages both ways, streams opened here and there, round trip in seconds."""

    sent_bytes: int = 0
    received_bytes: int = 0
    opened: int = 0
    served: int = 0
    rtt_s: float | None = field(default=None)
