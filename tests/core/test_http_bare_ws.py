"""WebSockets that look after themselves."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError, web

from gateway_core.errors import BadRequest, Forbidden
from gateway_core.http.gone import ClientGone
from gateway_core.http.ws import open_bare_websocket
from tests.core.http_serving import PATIENCE_S, serving


async def echo(request: web.Request) -> web.StreamResponse:
    async with open_bare_websocket(request, protocol="test.v1") as socket:
        async for message in socket:
            await socket.send_str(f"{message.type.name} {message.data!r}")
    return socket


async def test_it_speaks_its_subprotocol_uncompressed() -> None:
    async with serving(echo) as server, ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/"
        async with session.ws_connect(url, protocols=("other", "test.v1"), compress=15) as client:
            assert (client.protocol, client.compress) == ("test.v1", 0)
            await client.send_str("hello")
            assert await client.receive_str() == "TEXT 'hello'"
        assert client.close_code == 1000
        assert await server.end() is None


async def test_pings_are_the_blocks() -> None:
    async with serving(echo) as server, ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/"
        async with session.ws_connect(url, protocols=("test.v1",), autoping=False) as client:
            await client.ping(b"x")
            message = await client.receive()
            assert (message.type, message.data) == (WSMsgType.TEXT, "PING bytearray(b'x')")


async def test_nothing_runs_beside_the_block() -> None:
    async def count(request: web.Request) -> web.StreamResponse:
        before = asyncio.all_tasks()
        async with open_bare_websocket(request, protocol="test.v1") as socket:
            await socket.send_str(str(len(asyncio.all_tasks() - before)))
        return socket

    async with serving(count) as server, ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{server.port}/", protocols=("test.v1",)) as client:
            assert await client.receive_str() == "0"


@pytest.mark.parametrize("protocols", [(), ("other",), ("test.v10", "test")])
async def test_another_subprotocol_is_a_bad_request(protocols: tuple[str, ...]) -> None:
    async with serving(echo) as server, ClientSession() as session:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://127.0.0.1:{server.port}/", protocols=protocols)
        assert refused.value.status == 400
        assert isinstance(await server.end(), BadRequest)


async def test_a_request_that_is_no_handshake_is_a_bad_request() -> None:
    async with serving(echo) as server, ClientSession() as session:
        headers = {"Sec-WebSocket-Protocol": "test.v1"}
        async with session.get(f"http://127.0.0.1:{server.port}/", headers=headers) as answer:
            assert (answer.status, answer.headers["Upgrade"]) == (400, "websocket")


@pytest.mark.parametrize("origin", ["https://page.example", "null", "http://127.0.0.1"])
async def test_no_page_may_connect(origin: str) -> None:
    async with serving(echo) as server, ClientSession() as session:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://127.0.0.1:{server.port}/", protocols=("test.v1",), origin=origin)
        assert refused.value.status == 403
        assert isinstance(await server.end(), Forbidden)


async def test_a_cancelled_block_cuts_the_connection() -> None:
    async def stopped(request: web.Request) -> web.StreamResponse:
        async with open_bare_websocket(request, protocol="test.v1"):
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(PATIENCE_S)
        raise AssertionError

    async with serving(stopped) as server, ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{server.port}/", protocols=("test.v1",)) as client:
            async with asyncio.timeout(PATIENCE_S):
                message = await client.receive()
            assert message.type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        assert isinstance(await server.end(), asyncio.CancelledError)


async def test_a_peer_that_leaves_during_the_handshake_is_gone() -> None:
    begun = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        begun.set()
        while request.transport is not None:
            await asyncio.sleep(0)
        async with open_bare_websocket(request, protocol="test.v1"):
            raise AssertionError
        raise AssertionError

    async with serving(late) as server:
        async with server.connection() as (_, writer):
            writer.write(
                b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: test.v1\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await begun.wait()
        assert isinstance(await server.end(), ClientGone)
