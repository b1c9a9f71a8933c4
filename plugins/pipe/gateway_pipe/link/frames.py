"""Frames of ``pipe.v1``: a header of 12 bytes and a payload; a message of the wire holds one or more of them.

Header, big endian: type (8 bits), flags (8), zero (16), stream (32), length of the payload (32). Stream 0 is the link
itself; nodes open odd streams and servers even ones, each time with a higher number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from gateway_pipe.link.model import MAX_MESSAGE_BYTES, ProtocolViolation

FIN = 1
"""Flag: the sender's side of the stream ends with this frame."""

HEADER_BYTES = 12
MAX_STREAM = 2**32 - 1
_HEADER = struct.Struct("!BBHII")
_WINDOW = struct.Struct("!I")
_PING = struct.Struct("!QI")


class Type(IntEnum):
    """What a frame is; the payload of 1 to 4, 7 and 10 is JSON."""

    HELLO = 1
    WELCOME = 2
    OPEN = 3
    HEAD = 4
    DATA = 5
    WINDOW = 6
    RESET = 7
    PING = 8
    PONG = 9
    GOAWAY = 10


_TYPES = {int(kind): kind for kind in Type}
Frame = tuple[Type, bool, int, bytes]
"""Type, whether it ends the sender's side, stream, payload."""


def frame(kind: Type, stream: int = 0, payload: bytes = b"", *, fin: bool = False) -> bytes:
    """One frame as bytes."""
    return _HEADER.pack(kind, fin, 0, stream, len(payload)) + payload


def data_header(stream: int, size: int, *, fin: bool) -> bytes:
    """The header of a DATA frame whose payload of ``size`` bytes follows."""
    return _HEADER.pack(Type.DATA, fin, 0, stream, size)


def window(stream: int, credit: int) -> bytes:
    """A WINDOW frame: the other end may send ``credit`` bytes more on that stream."""
    return frame(Type.WINDOW, stream, _WINDOW.pack(credit))


def credit_of(payload: bytes) -> int:
    """The credit that a WINDOW frame gives, at least 1; raises ProtocolViolation."""
    if len(payload) != _WINDOW.size:
        raise ProtocolViolation("a WINDOW frame of the wrong size")
    credit = int(_WINDOW.unpack(payload)[0])
    if not credit:
        raise ProtocolViolation("a WINDOW frame without credit")
    return credit


def ping(kind: Type, nonce: int, rtt_us: int) -> bytes:
    """A PING or PONG: a number that comes back, and the last round trip as its sender measured it (0: unknown)."""
    return frame(kind, 0, _PING.pack(nonce, min(rtt_us, MAX_STREAM)))


def ping_of(payload: bytes) -> tuple[int, int]:
    """(nonce, round trip in microseconds); raises ProtocolViolation."""
    if len(payload) != _PING.size:
        raise ProtocolViolation("a PING frame of the wrong size")
    nonce, rtt_us = _PING.unpack(payload)
    return nonce, rtt_us


def parse(message: bytes) -> Iterator[Frame]:
    """The frames of one message; raises ProtocolViolation for anything that is not whole frames of known types."""
    end = len(message)
    if not end or end > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(f"a message of {end} bytes")
    at = 0
    while at < end:
        if end - at < HEADER_BYTES:
            raise ProtocolViolation("a frame is cut")
        number, flags, zero, stream, size = _HEADER.unpack_from(message, at)
        at += HEADER_BYTES
        kind = _TYPES.get(number)
        if kind is None or flags > FIN or zero or size > end - at:
            raise ProtocolViolation(f"not a frame: type {number}, flags {flags}, {size} bytes")
        yield kind, bool(flags), stream, message[at : at + size]
        at += size
