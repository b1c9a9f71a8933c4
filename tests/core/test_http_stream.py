from __future__ import annotations

import asyncio
import logging
import socket
import ssl

import pytest
import trustme
from aiohttp import ClientPayloadError, ClientSession, web

from gateway_core.errors import SourceFailed
from gateway_core.http.gone import ClientGone
from gateway_core.http.stream import Buffer, open_response
from tests.core.http_serving import read_all, serving

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
OLD_GET = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
BLOCK = bytes(range(256)) * 1024
QUICK_S = 0.4


def sending(
    *writes: tuple[Buffer, ...], length: int | None = None, then: BaseException | None = None, status: int = 200
):
    """A handler that makes ``writes`` and may fail after them."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        response.content_length = length
        async with open_response(request, response) as writer:
            for buffers in writes:
                await writer.write(*buffers)
            if then is not None:
                raise then
        return response

    return handler


def endless(stall_s: float = QUICK_S):
    """A handler that sends as long as it is let."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response, stall_s=stall_s) as writer:
            while True:
                await writer.write(BLOCK)
        return response

    return handler


PIECES = [
    (b"a",),
    (b"bc", bytearray(b"de"), memoryview(b"fgh")[1:]),
    (b"head", BLOCK, memoryview(BLOCK)[1000:200_000], bytearray(b"tail")),
    (),
    (b"",),
    (BLOCK,) * 5,
]
WHOLE = b"".join(bytes(piece) for buffers in PIECES for piece in buffers)


@pytest.mark.parametrize("length", [None, len(WHOLE)])
async def test_buffers_arrive_in_order_and_the_connection_can_be_used_again(length: int | None) -> None:
    async with serving(sending(*PIECES, length=length)) as server, ClientSession() as session:
        ports = set()
        for _ in range(2):
            async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
                ports.add(answer.connection.transport.get_extra_info("sockname"))
                assert answer.headers.get("Transfer-Encoding") == (None if length else "chunked")
                assert await answer.read() == WHOLE
            assert await server.end() is None
    assert len(ports) == 1


@pytest.mark.parametrize(
    "pieces", [[bytes([n % 251]) * 20 for n in range(1500)], [BLOCK[: n * 777] for n in range(60)]]
)
async def test_many_pieces_survive_a_socket_that_takes_a_few_bytes_at_a_time(pieces: list[bytes]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        response = web.StreamResponse()
        response.content_length = 2 * sum(map(len, pieces))
        async with open_response(request, response) as writer:
            await writer.write(*pieces)
            await writer.write(*pieces)
        return response

    async with serving(handler) as server:
        answer = await server.exchange(GET_AND_CLOSE)
    assert answer.partition(b"\r\n\r\n")[2] == b"".join(pieces) * 2


async def test_http_1_0_bodies_end_with_the_connection_even_if_it_was_to_be_kept() -> None:
    async with serving(sending(*PIECES)) as server:
        head, _, body = (await server.exchange(OLD_GET)).partition(b"\r\n\r\n")
    assert body == WHOLE
    assert b"chunked" not in head


async def test_http_1_0_with_a_length_keeps_the_connection() -> None:
    async with serving(sending((b"abc",), length=3)) as server, server.connection() as (reader, writer):
        for _ in range(2):
            writer.write(OLD_GET)
            assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.0 200")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_a_body_have_none(method: str, status: int) -> None:
    async with serving(sending((b"abc",), length=3, status=status)) as server:
        answer = await server.exchange(GET_AND_CLOSE.replace(b"GET", method.encode()))
        assert await server.end() is None
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("length", [None, 10**9])
async def test_a_failure_after_the_head_is_an_incomplete_body(length: int | None) -> None:
    async with (
        serving(sending((BLOCK,), length=length, then=SourceFailed("upstream broke"))) as server,
        ClientSession() as session,
    ):
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            assert answer.status == 200
            with pytest.raises(ClientPayloadError):
                await answer.read()
        assert isinstance(await server.end(), SourceFailed)


async def test_a_failure_sends_no_last_chunk() -> None:
    async with serving(sending((b"abc",), then=SourceFailed("upstream broke"))) as server:
        answer = await server.exchange(GET)
    assert answer.endswith(b"\r\n\r\n3\r\nabc\r\n")


async def test_a_failure_resets_a_connection_whose_end_would_be_the_body_s() -> None:
    async with serving(sending((b"abc",), then=SourceFailed("upstream broke"))) as server:
        with pytest.raises(ConnectionResetError):
            await server.exchange(OLD_GET)


async def test_fewer_bytes_than_promised_are_an_error_and_an_incomplete_body() -> None:
    async with serving(sending((b"abc",), length=4)) as server:
        answer = await server.exchange(GET)
        error = await server.end()
    assert answer.endswith(b"\r\n\r\nabc")
    assert isinstance(error, RuntimeError)
    assert str(error) == "Content-Length is 4, 3 bytes were sent"


async def test_more_bytes_than_promised_are_an_error_and_never_sent() -> None:
    async with serving(sending((b"abc",), (b"de",), length=4)) as server:
        answer = await server.exchange(GET)
        error = await server.end()
    assert answer.endswith(b"\r\n\r\nabc")
    assert isinstance(error, RuntimeError)


async def test_a_cancelled_handler_leaves_an_incomplete_body() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response) as writer:
            await writer.write(b"abc")
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        return response

    async with serving(handler) as server:
        answer = await server.exchange(GET)
        assert isinstance(await server.end(), asyncio.CancelledError)
    assert answer.endswith(b"\r\n\r\n3\r\nabc\r\n")


async def test_an_answer_cut_by_hand_is_incomplete_and_takes_no_more() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response) as writer:
            await writer.write(b"abc")
            writer.abort()
            with pytest.raises(RuntimeError, match="has ended"):
                await writer.write(b"def")
        return response

    async with serving(handler) as server:
        assert (await server.exchange(GET)).endswith(b"\r\n\r\n3\r\nabc\r\n")
        assert await server.end() is None


async def test_nothing_can_be_written_after_the_end() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response) as writer:
            await writer.write(b"abc")
            await writer.finish()
            assert writer.sent_bytes == 3
            with pytest.raises(RuntimeError, match="has ended"):
                await writer.write(b"def")
        return response

    async with serving(handler) as server:
        assert (await server.exchange(GET_AND_CLOSE)).endswith(b"3\r\nabc\r\n0\r\n\r\n")
        assert await server.end() is None


async def test_a_compressed_response_is_refused_before_its_head() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_compression()
        with pytest.raises(ValueError, match="compressed"):
            async with open_response(request, response):
                pass
        return web.Response(text="refused")

    async with serving(handler) as server:
        assert (await server.exchange(GET_AND_CLOSE)).endswith(b"refused")


async def test_a_client_that_leaves_is_gone_and_nobody_logs_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(endless(stall_s=30)) as server:
            async with server.idle(GET) as client:
                await asyncio.get_running_loop().sock_recv(client, 1)
            error = await server.end()
    assert isinstance(error, ClientGone)
    assert error.detail == "closed the connection"
    assert caplog.records == []


async def test_a_client_that_left_before_the_head_is_gone() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        while request.transport is not None:
            await asyncio.sleep(0)
        return await sending((b"abc",))(request)

    async with serving(handler) as server:
        async with server.idle(GET):
            pass
        assert isinstance(await server.end(), ClientGone)


async def drained(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 65536):
        pass


async def test_a_client_that_takes_nothing_is_cut() -> None:
    async with serving(endless()) as server, server.idle(GET) as client:
        error = await server.end()
        with pytest.raises(ConnectionResetError):
            await drained(client)
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 0.4 s"


async def test_a_client_that_takes_little_but_steadily_is_served() -> None:
    async with serving(endless(stall_s=1)) as server, server.idle(GET, receive_buffer=65536) as client:
        loop = asyncio.get_running_loop()
        until = loop.time() + 2
        while loop.time() < until:
            assert await loop.sock_recv(client, 32768)
            await asyncio.sleep(0.05)
        assert server.ends.empty()


async def test_a_slow_source_is_no_slow_client() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response, stall_s=0.1) as writer:
            await writer.write(b"abc")
            await asyncio.sleep(0.5)
            await writer.write(b"def")
        return response

    async with serving(handler) as server:
        assert (await server.exchange(GET_AND_CLOSE)).endswith(b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")


async def test_the_last_bytes_of_an_answer_are_under_the_stall_limit_too() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        response = web.StreamResponse()
        response.content_length = 60_000
        async with open_response(request, response, stall_s=QUICK_S) as writer:
            await writer.write(bytes(60_000))
        return response

    async with serving(handler) as server, server.idle(GET):
        error = await server.end()
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 0.4 s"


async def test_a_client_that_takes_nothing_costs_little_memory() -> None:
    waiting: asyncio.Queue[int] = asyncio.Queue()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response, stall_s=QUICK_S) as writer:
            while True:
                step = asyncio.ensure_future(writer.write(BLOCK))
                await asyncio.sleep(0)
                if not step.done():
                    waiting.put_nowait(request.transport.get_write_buffer_size())
                await step
        return response

    async with serving(handler) as server, server.idle(GET):
        assert isinstance(await server.end(), ClientGone)
    sizes = [waiting.get_nowait() for _ in range(waiting.qsize())]
    assert sizes
    assert max(sizes) <= 64 * 1024 + len(BLOCK) + 64


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_whole_and_broken_answers_are_told_apart_over_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serving(sending(*PIECES), ssl_context=server_tls) as server, ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{server.port}/", ssl=client_tls) as answer:
            assert await answer.read() == WHOLE
    broken = sending((BLOCK,), then=SourceFailed("upstream broke"))
    async with serving(broken, ssl_context=server_tls) as server, ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{server.port}/", ssl=client_tls) as answer:
            with pytest.raises(ClientPayloadError):
                await answer.read()


async def test_a_client_that_takes_nothing_is_cut_over_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        serving(endless(), ssl_context=server_tls) as server,
        server.connection(ssl=client_tls, limit=1024) as (_, writer),
    ):
        writer.write(GET)
        error = await server.end()
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 0.4 s"


async def test_unix_sockets_are_served_and_guarded(tmp_path) -> None:
    path = str(tmp_path / "s")
    async with serving(endless(), unix_path=path) as server:
        reader, writer = await asyncio.open_unix_connection(path, limit=1024)
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        error = await server.end()
        writer.transport.abort()
    assert isinstance(error, ClientGone)
    async with serving(sending(*PIECES), unix_path=path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET_AND_CLOSE)
        assert (await read_all(reader)).endswith(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
