"""The first messages of a link: a node says HELLO, the server WELCOME or GOAWAY."""

from __future__ import annotations

import asyncio

from gateway_pipe.link import messages
from gateway_pipe.link.frames import Type, frame, parse
from gateway_pipe.link.model import Farewell, Hello, LinkError, ProtocolViolation, Wire

HANDSHAKE_S = 10.0
"""Each side waits so long for the other's first message."""


class Refused(LinkError):
    """The server does not take the node; ``farewell`` tells why and when to come again."""

    type, title = "link-refused", "Link refused"

    def __init__(self, farewell: Farewell) -> None:
        super().__init__(farewell.reason)
        self.farewell = farewell


async def greet(wire: Wire, hello: Hello, *, timeout_s: float = HANDSHAKE_S) -> Hello:
    """Say who this node is; returns what the server says. Raises Refused, ProtocolViolation, OSError (TimeoutError)."""
    async with asyncio.timeout(timeout_s):
        await wire.send(frame(Type.HELLO, 0, messages.hello_payload(hello)))
        kind, payload = await _first(wire)
    if kind is Type.GOAWAY:
        raise Refused(messages.parse_farewell(payload))
    if kind is not Type.WELCOME:
        raise ProtocolViolation(f"{kind.name} instead of WELCOME")
    return messages.parse_hello(payload)


async def expect(wire: Wire, *, timeout_s: float = HANDSHAKE_S) -> Hello:
    """Wait for a node's HELLO; raises ProtocolViolation, OSError (TimeoutError)."""
    async with asyncio.timeout(timeout_s):
        kind, payload = await _first(wire)
    if kind is not Type.HELLO:
        raise ProtocolViolation(f"{kind.name} instead of HELLO")
    return messages.parse_hello(payload)


async def welcome(wire: Wire, hello: Hello, *, timeout_s: float = HANDSHAKE_S) -> None:
    """Take the node: the link begins with the next message. Raises OSError."""
    async with asyncio.timeout(timeout_s):
        await wire.send(frame(Type.WELCOME, 0, messages.hello_payload(hello)))


async def turn_away(wire: Wire, farewell: Farewell, *, timeout_s: float = HANDSHAKE_S) -> None:
    """Refuse the node after its HELLO, and close; raises OSError."""
    async with asyncio.timeout(timeout_s):
        await wire.send(frame(Type.GOAWAY, 0, messages.farewell_payload(farewell)))
        await wire.close(farewell.reason)


async def _first(wire: Wire) -> tuple[Type, bytes]:
    message = await wire.receive()
    if message is None:
        raise ConnectionResetError("closed before the first message")
    frames = list(parse(message))
    if len(frames) != 1:
        raise ProtocolViolation("more than one frame in the first message")
    kind, _, _, payload = frames[0]
    return kind, payload
