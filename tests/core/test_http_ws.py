from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError, web

from gateway_core.errors import BadRequest, Forbidden, SourceFailed, Unavailable
from gateway_core.http.gone import ClientGone
from gateway_core.http.ws import SUBPROTOCOLS, open_websocket
from tests.core.http_serving import PATIENCE_S, Serving, serving

PAGE = "https://page.example"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n\r\n"
)


@pytest.fixture
def draining() -> asyncio.Event:
    return asyncio.Event()


def echoing(draining: asyncio.Event, **options):
    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining, **options) as socket:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
        return socket

    return handler


def connected(session: ClientSession, server: Serving, **options):
    return session.ws_connect(f"http://127.0.0.1:{server.port}/", **options)


async def closed_with(client: ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(PATIENCE_S):
        while not client.closed:
            await client.receive()
    return client.close_code


async def test_messages_go_both_ways_uncompressed(draining: asyncio.Event) -> None:
    async with serving(echoing(draining)) as server, ClientSession() as session:
        async with connected(session, server, compress=15) as client:
            await client.send_str("hello")
            assert await client.receive_str() == "hello"
            assert not client.compress
        assert client.close_code == 1000
        assert await server.end() is None


async def test_the_end_of_the_block_closes_with_1000(draining: asyncio.Event) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining) as socket:
            await socket.send_str("bye")
        return socket

    async with serving(handler) as server, ClientSession() as session, connected(session, server) as client:
        assert await client.receive_str() == "bye"
        assert await closed_with(client) == 1000
        assert await server.end() is None


async def test_the_drain_closes_with_1001_and_ends_receiving(draining: asyncio.Event) -> None:
    async with serving(echoing(draining)) as server, ClientSession() as session, connected(session, server) as client:
        draining.set()
        assert await closed_with(client) == 1001
        assert await server.end() is None


async def test_a_block_that_ends_during_the_drain_leaves_the_peer_time_to_answer(draining: asyncio.Event) -> None:
    told = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining) as answer:
            await told.wait()
        return answer

    async with serving(handler) as server, server.connection() as (reader, writer):
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        draining.set()
        await reader.readuntil(b"draining")
        told.set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert server.ends.empty()
        writer.write(b"\x88\x82" + bytes(4) + (1001).to_bytes(2, "big"))
        assert await server.end() is None
        assert await reader.read() == b""


async def test_the_drain_is_told_before_the_block_is_done(draining: asyncio.Event) -> None:
    told = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining) as socket:
            await told.wait()  # busy elsewhere
        return socket

    async with serving(handler) as server, ClientSession() as session, connected(session, server) as client:
        draining.set()
        assert await closed_with(client) == 1001
        told.set()
        assert await server.end() is None


async def test_a_failing_block_closes_with_1011(draining: asyncio.Event) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining) as socket:
            await socket.receive()
            raise SourceFailed("broke")

    async with serving(handler) as server, ClientSession() as session, connected(session, server) as client:
        await client.send_str("x")
        assert await closed_with(client) == 1011
        assert isinstance(await server.end(), SourceFailed)


async def test_a_message_over_the_limit_closes_with_1009(draining: asyncio.Event) -> None:
    async with (
        serving(echoing(draining, max_msg_size=1000)) as server,
        ClientSession() as session,
        connected(session, server) as client,
    ):
        await client.send_str("x" * 1001)
        assert await closed_with(client) == 1009
        await server.end()


async def test_a_request_that_is_no_handshake_is_a_bad_request(draining: asyncio.Event) -> None:
    async with serving(echoing(draining)) as server, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            assert answer.status == 400
            assert answer.headers["Upgrade"] == "websocket"
        assert isinstance(await server.end(), BadRequest)


async def test_nobody_may_connect_while_draining(draining: asyncio.Event) -> None:
    draining.set()
    async with serving(echoing(draining)) as server, ClientSession() as session:
        with pytest.raises(WSServerHandshakeError) as caught:
            await connected(session, server)
        assert caught.value.status == 503
        assert isinstance(await server.end(), Unavailable)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (None, "https://evil", True),
        ([PAGE], PAGE, True),
        ([PAGE], None, True),
        ([PAGE], "https://evil", False),
        ([PAGE], PAGE + ".evil", False),
        ([PAGE], "null", False),
    ],
)
async def test_only_pages_of_the_listed_origins_may_connect(
    draining: asyncio.Event, origins: list[str] | None, origin: str | None, *, allowed: bool
) -> None:
    async with serving(echoing(draining, origins=origins)) as server, ClientSession() as session:
        if allowed:
            async with connected(session, server, origin=origin) as client:
                await client.send_str("hello")
                assert await client.receive_str() == "hello"
            return
        with pytest.raises(WSServerHandshakeError) as caught:
            await connected(session, server, origin=origin)
        assert caught.value.status == 403
        assert isinstance(await server.end(), Forbidden)


async def test_a_protocol_that_the_handler_speaks_and_the_peer_offers_is_chosen(draining: asyncio.Event) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        request[SUBPROTOCOLS] = ("v2", "v1")
        return await echoing(draining)(request)

    async with serving(handler) as server, ClientSession() as session:
        async with connected(session, server, protocols=("v0", "v1")) as client:
            assert client.protocol == "v1"


async def test_a_silent_peer_is_taken_for_dead(draining: asyncio.Event) -> None:
    async with serving(echoing(draining, heartbeat=0.2)) as server, server.idle(HANDSHAKE, receive_buffer=65536):
        assert await server.end() is None


def flooding(draining: asyncio.Event, **options):
    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining, **options) as socket:
            while True:
                await socket.send_bytes(bytes(100_000))
        return socket

    return handler


async def test_a_peer_that_takes_nothing_is_cut(draining: asyncio.Event) -> None:
    async with serving(flooding(draining, send_timeout_s=0.4)) as server, server.idle(HANDSHAKE):
        error = await server.end()
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 0.4 s"


async def test_a_peer_that_leaves_while_it_is_sent_to_is_gone(
    draining: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(flooding(draining)) as server:
            async with server.idle(HANDSHAKE) as client:
                await asyncio.get_running_loop().sock_recv(client, 1)
            assert isinstance(await server.end(), ClientGone)
    assert caplog.records == []


async def test_a_peer_that_only_pings_and_never_reads_is_cut(draining: asyncio.Event) -> None:
    async with serving(echoing(draining, send_timeout_s=0.4)) as server, server.idle(HANDSHAKE) as client:
        flood = asyncio.create_task(ping_for_ever(client))
        end = await server.end()
        await asyncio.wait({flood})
    assert end is None or isinstance(end, ClientGone)
    assert isinstance(flood.exception(), OSError)


async def ping_for_ever(client: socket.socket) -> None:
    ping = (b"\x89\xfd" + bytes(4) + bytes(125)) * 1000
    while True:
        await asyncio.get_running_loop().sock_sendall(client, ping)


async def test_the_drain_does_not_wait_for_a_peer_that_never_answers(draining: asyncio.Event) -> None:
    async with serving(echoing(draining, send_timeout_s=0.4)) as server, server.idle(HANDSHAKE) as client:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(client, 12)
        began = loop.time()
        draining.set()
        assert await server.end() is None
        assert loop.time() - began < 5


async def test_a_closed_peer_that_takes_nothing_does_not_keep_its_connection(draining: asyncio.Event) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with open_websocket(request, draining=draining, send_timeout_s=0.4) as answer:
            await answer.send_bytes(bytes(60_000))
        return answer

    async with serving(handler) as server, server.idle(HANDSHAKE) as client:
        assert await server.end() is None
        with pytest.raises(ConnectionResetError):
            await taken(client)


async def taken(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 65536):
        pass


async def test_errors_of_other_connections_are_not_the_peer_s(draining: asyncio.Event) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining):
            raise ConnectionRefusedError("upstream")

    async with serving(handler) as server, ClientSession() as session, connected(session, server) as client:
        assert await closed_with(client) == 1011
        assert isinstance(await server.end(), ConnectionRefusedError)


async def test_a_cancelled_block_cuts_the_connection(draining: asyncio.Event) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        async with open_websocket(request, draining=draining) as socket:
            asyncio.current_task().cancel()
            await socket.receive()
        return socket

    async with serving(handler) as server, ClientSession() as session, connected(session, server) as client:
        assert (await client.receive()).type in {WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSING}
        assert client.close_code == 1006
        assert isinstance(await server.end(), asyncio.CancelledError)
