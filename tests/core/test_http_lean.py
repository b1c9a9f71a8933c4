from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from aiohttp import ClientSession, ClientWebSocketResponse, web

from gateway_core.http.lean import BUSY_BYTES, IDLE_BYTES, LeanTlsSite

DATA = os.urandom(1_000_001)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def client_side(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    authority: trustme.CA,
    *,
    handshake_timeout_s: float = 10.0,
) -> AsyncIterator[int]:
    """The port of a server with one handler."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    app = web.Application(client_max_size=10 * len(DATA))
    app.router.add_route("*", "/", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        await LeanTlsSite(runner, sock, context, handshake_timeout_s=handshake_timeout_s).start()
        try:
            yield sock.getsockname()[1]
        finally:
            await runner.cleanup()


async def test_a_connection_with_a_small_buffer_carries_the_same_bytes(authority: trustme.CA) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with serving(echo, authority) as port, ClientSession() as session:
        async with session.post(f"https://127.0.0.1:{port}/", data=DATA, ssl=client_side(authority)) as answer:
            assert await answer.read() == DATA


@asynccontextmanager
async def reading(authority: trustme.CA) -> AsyncIterator[tuple[ClientWebSocketResponse, Callable[[], int]]]:
    """A WebSocket whose other end sends back the size of each message; and how large that end's buffer is."""
    protocols: list[Any] = []

    async def sizes(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        protocols.append(request.transport._ssl_protocol)
        async for message in socket:
            await socket.send_str(str(len(message.data)))
        return socket

    async with serving(sizes, authority) as port, ClientSession() as session:
        async with session.ws_connect(f"https://127.0.0.1:{port}/", ssl=client_side(authority)) as client:
            await told(client, b"hello")
            yield client, lambda: len(protocols[0].get_buffer(-1))


async def told(client: ClientWebSocketResponse, data: bytes) -> None:
    """Send ``data`` and wait until it has arrived."""
    await client.send_bytes(data)
    assert await client.receive_str() == str(len(data))


async def test_the_buffer_grows_with_what_comes_and_shrinks_again(authority: trustme.CA) -> None:
    async with reading(authority) as (client, size):
        assert size() == IDLE_BYTES
        for _ in range(20):
            await told(client, DATA)
        assert size() == BUSY_BYTES
        for _ in range(40):
            await told(client, b"beat")
        assert size() == IDLE_BYTES
        await told(client, DATA)


async def test_a_client_that_never_shakes_hands_is_let_go(authority: trustme.CA) -> None:
    async def nothing(request: web.Request) -> web.Response:
        return web.Response()

    async with serving(nothing, authority, handshake_timeout_s=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
