"""Nodes for the tests of the HTTP side: a real link over a real WebSocket, and an answering function of the test's."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import ClientSession

from gateway_core import StateKey
from gateway_core.testing.harness import RunningGateway
from gateway_pipe.link.handshake import greet
from gateway_pipe.link.model import MAX_MESSAGE_BYTES, SUBPROTOCOL, Head, Hello, Incoming
from gateway_pipe.link.session import Link
from gateway_pipe.wires.websocket import WebSocketWire

PATIENCE_S = 20.0
LISTENER = "pipe.nodes"
NODES = StateKey("tests.nodes", str)
Serve = Callable[[Incoming], Awaitable[None]]


async def told(incoming: Incoming) -> None:
    """Answers with what arrived, as JSON."""
    opening = incoming.opening
    body = await incoming.read(1 << 20)
    seen = {
        "kind": opening.kind.value,
        "method": opening.method,
        "target": opening.target,
        "headers": [list(pair) for pair in opening.headers],
        "timeout_ms": opening.timeout_ms,
        "body": body.decode(),
    }
    await incoming.answer(Head(headers=(("Content-Type", "application/json"),)), json.dumps(seen).encode())


async def answering_nothing(incoming: Incoming) -> None:
    """Never answers."""
    await asyncio.Event().wait()


def answering(head: Head, body: bytes = b"") -> Serve:
    """A node's function that always answers so."""

    async def serve(incoming: Incoming) -> None:
        await incoming.answer(head, body)

    return serve


@asynccontextmanager
async def wire_to(url: str, headers: Mapping[str, str], context: ssl.SSLContext | None = None):
    """An open WebSocket at the place where nodes connect; nothing was said yet."""
    async with ClientSession() as session:
        async with session.ws_connect(
            url,
            protocols=(SUBPROTOCOL,),
            headers=headers,
            max_msg_size=MAX_MESSAGE_BYTES,
            ssl=True if context is None else context,
        ) as socket:
            connection = socket._response.connection
            yield WebSocketWire(socket, connection and connection.transport)


async def nodes_secret(gateway: RunningGateway) -> str:
    """Of a client that may be any node; the same for all of a gateway."""
    if NODES not in gateway.core.state:
        gateway.core.state[NODES] = await gateway.secret("pipe:connect:*")
    return gateway.core.state[NODES]


@asynccontextmanager
async def node(
    gateway: RunningGateway,
    name: str,
    serve: Serve = told,
    *,
    tags: tuple[str, ...] = (),
    nouns: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Link]:
    """A connected node until the end of the block, in which its link is broken off.

    By a client's secret unless ``headers`` or a ``context`` with a certificate are given.
    """
    if headers is None:
        headers = {} if context is not None else {"Authorization": await nodes_secret(gateway)}
    base = gateway.url if context is None else f"https://{gateway.address(LISTENER)}"
    async with wire_to(f"{base}/pipe/link/{name}", headers, context) as wire:
        hello = Hello(name=name, instance=uuid.uuid4().hex, version="1.2.3", tags=tags, nouns=nouns)
        link = Link(wire, opens="node", serve=serve, peer=await greet(wire, hello))
        running = asyncio.create_task(link.run())
        try:
            yield link
        finally:
            link.drop("the test is over")
            await running


async def gone(gateway: RunningGateway, name: str) -> None:
    """Wait until the gateway has noticed that the node left."""
    async with asyncio.timeout(PATIENCE_S), gateway.session() as session:
        headers = {"Authorization": await gateway.secret("admin")}
        while True:
            async with session.get("/pipe/nodes", headers=headers) as answer:
                if name not in {each["name"] for each in await answer.json()}:
                    return


async def exchange(gateway: RunningGateway, head: str) -> bytes:
    """What comes back for a request that is written by hand."""
    reader, writer = await asyncio.open_connection(*gateway.address().split(":"))
    try:
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
