"""How an HTTP exchange and a WebSocket go over a stream of ``Kind.APP``.

An exchange: the Opening has method, target ``NAME/rest?query`` and the request's headers; ``Transfer-Encoding:
chunked`` among them only says that a body of unknown length follows. The Head has the application's status and headers.

A WebSocket: the Opening has ``Upgrade: websocket`` and the subprotocols that the caller offers. The application accepts
with a Head of status 101 that names the one it chose; any other status is an ordinary answer. From there on both
directions carry messages: a header of ``!BI`` (type, length of the payload), then the payload. Types are the opcodes of
RFC 6455 5.2: 1 text (UTF-8), 2 binary, 8 close (``!H`` code, then the reason in UTF-8), which is the last. Pings belong
to each connection and are not carried.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from enum import IntEnum

from gateway_pipe.link.model import Headers, ProtocolViolation, header_of

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Of one WebSocket message, which is held whole at both ends."""

UPGRADE = ("Upgrade", "websocket")
CHUNKED = ("Transfer-Encoding", "chunked")
PROTOCOLS = "Sec-WebSocket-Protocol"

CLOSED_NORMALLY = 1000
NO_CLOSE_CODE = 1005
BAD_GATEWAY = 1014
"""Close codes of RFC 6455 7.4.1 and IANA's registry."""

_HEADER = struct.Struct("!BI")
_CODE = struct.Struct("!H")
_MAX_REASON_BYTES = 123  # RFC 6455 5.5: a control frame's payload has 125 bytes, 2 of them are the code
_NEVER_SENT = frozenset({1004, NO_CLOSE_CODE, 1006, 1015})


class Type(IntEnum):
    """What a message is."""

    TEXT = 1
    BINARY = 2
    CLOSE = 8


_TYPES = frozenset(Type)


@dataclass(frozen=True, slots=True)
class Message:
    """One WebSocket message; ``payload`` is as it stands on the stream."""

    type: Type
    payload: bytes

    @classmethod
    def close(cls, code: int | None, reason: str = "") -> Message:
        """The last message; without a code, and for one that no frame may hold, it says a normal end (1000)."""
        return cls(Type.CLOSE, _CODE.pack(_sendable_code(code)) + _sendable_reason(reason))

    def closing(self) -> tuple[int, bytes]:
        """Code and reason of a close, as a frame may hold them; raises ProtocolViolation where there is no code."""
        if len(self.payload) < _CODE.size:
            raise ProtocolViolation("a close without a code")
        reason = self.payload[_CODE.size : 2 * _MAX_REASON_BYTES].decode(errors="replace")
        return _sendable_code(_CODE.unpack_from(self.payload)[0]), _sendable_reason(reason)

    def encoded(self) -> bytes:
        """The message as it goes over the stream."""
        return _HEADER.pack(self.type, len(self.payload)) + self.payload


def _sendable_code(code: int | None) -> int:
    return code if code is not None and 1000 <= code < 5000 and code not in _NEVER_SENT else CLOSED_NORMALLY


def _sendable_reason(reason: str) -> bytes:
    return reason.encode(errors="replace")[:_MAX_REASON_BYTES].decode(errors="ignore").encode()


async def messages(chunks: AsyncIterable[bytes]) -> AsyncIterator[Message]:
    """Messages of one direction, from chunks of any size; ends with the stream.

    Raises ProtocolViolation for unknown types, for messages above MAX_MESSAGE_BYTES, after a close and where the stream
    ends inside of a message.
    """
    waiting, closed = bytearray(), False
    async for chunk in chunks:
        waiting += chunk
        while (message := _first(waiting)) is not None:
            if closed:
                raise ProtocolViolation("a message after the close")
            closed = message.type is Type.CLOSE
            yield message
    if waiting:
        raise ProtocolViolation("the stream ends inside of a message")


def _first(waiting: bytearray) -> Message | None:
    """Take the first message out of ``waiting``; None while it is not whole."""
    if len(waiting) < _HEADER.size:
        return None
    number, length = _HEADER.unpack_from(waiting)
    if number not in _TYPES or length > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(f"a message of type {number} and {length} bytes")
    end = _HEADER.size + length
    if len(waiting) < end:
        return None
    payload = bytes(memoryview(waiting)[_HEADER.size : end])
    del waiting[:end]
    return Message(Type(number), payload)


def is_websocket(method: str, headers: Headers) -> bool:
    """Whether a request asks for a WebSocket (RFC 6455 4.1)."""
    return method == "GET" and header_of(headers, UPGRADE[0]).strip().lower() == UPGRADE[1]


def subprotocols(headers: Headers) -> tuple[str, ...]:
    """What ``Sec-WebSocket-Protocol`` lists, in its order."""
    values = (value for name, value in headers if name.lower() == PROTOCOLS.lower())
    return tuple(name for value in values for part in value.split(",") if (name := part.strip()))


def has_body(headers: Headers) -> bool:
    """Whether a request has a body (RFC 9112 6), as its Opening tells."""
    length = header_of(headers, "Content-Length").strip()
    return header_of(headers, CHUNKED[0]).strip().lower() == CHUNKED[1] or length not in {"", "0"}
