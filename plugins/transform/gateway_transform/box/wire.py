"""Messages between a worker, the zygote and its boxes: JSON objects after a length, with file descriptors beside.

Every message is one dict with the key ``type``. Both ends are ours, yet a box may have been taken over by what it
ran: the worker reads with limits and believes only what it checks.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

MAX_MESSAGE_BYTES = 1 << 20
MAX_FDS = 8
_LENGTH = struct.Struct("!I")
_INT_BYTES = array.array("i").itemsize


class WireError(Exception):
    """The other side closed in the middle of a message, or sent what is none."""


def encode(message: dict[str, Any]) -> bytes:
    """Length and JSON; raises WireError for a message that is too long."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data)} bytes")
    return _LENGTH.pack(len(data)) + data


def decode(data: bytes) -> dict[str, Any]:
    """The message in ``data``, without its length; raises WireError."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError("not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise WireError("not a message")
    return message


def length_of(head: bytes) -> int:
    """Length of the message after the 4 bytes ``head``; raises WireError when it is too long."""
    (length,) = _LENGTH.unpack(head)
    if length > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {length} bytes")
    return int(length)


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send on a blocking socket; the receiver gets copies of ``fds``. Raises OSError."""
    data = encode(message)
    sent = socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its descriptors (close-on-exec) from a blocking socket, None at a clean end.

    Raises WireError, OSError.
    """
    fds: list[int] = []
    head = _take(sock, _LENGTH.size, fds)
    if not head:
        return None
    body = _take(sock, length_of(head), fds)
    if len(head) < _LENGTH.size or len(body) < length_of(head):
        raise WireError("closed in the middle of a message")
    return decode(body), fds


def _take(sock: socket.socket, count: int, fds: list[int]) -> bytes:
    """``count`` bytes, fewer at the end; descriptors that come along are added to ``fds``."""
    parts = b""
    while len(parts) < count:
        data, ancillary, _, _ = sock.recvmsg(
            count - len(parts), socket.CMSG_SPACE(MAX_FDS * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(raw[: len(raw) - len(raw) % _INT_BYTES])
                fds.extend(numbers)
        if not data:
            break
        parts += data
    return parts
