from __future__ import annotations

import asyncio
import ctypes
import logging
import mmap
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientSession, StreamReader, web

from gateway_core.errors import SourceChanged, SourceFailed
from gateway_core.http.file_body import read_file, send_file
from gateway_core.http.gone import ClientGone
from gateway_core.http.stream import ResponseWriter, open_response
from tests.core.certificates import Certificates
from tests.core.http_serving import Handler, read_all, serving

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
GET_AND_CLOSE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
HEAD_AND_CLOSE = b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
OLD_GET = b"GET / HTTP/1.0\r\n\r\n"
DATA = random.Random(5).randbytes(5_000_011)
STALL_S = 1.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    with opened(path) as found:
        yield found


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    found = os.open(path, flags)
    try:
        yield found
    finally:
        os.close(found)


def sending(
    fd: int,
    *parts: bytes | tuple[int, int],
    length: int | None = None,
    send_buffer: int | None = None,
    stall_s: float = 30.0,
) -> Handler:
    """A handler whose body is ``parts``: bytes, or offset and count of the file."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if send_buffer is not None:
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        response = web.StreamResponse()
        response.content_length = length
        async with open_response(request, response, stall_s=stall_s) as writer:
            for part in parts:
                await (writer.write(part) if isinstance(part, bytes) else send_part(writer, fd, part))
        return response

    return handler


async def send_part(writer: ResponseWriter, fd: int, part: tuple[int, int]) -> None:
    await send_file(writer, fd, offset=part[0], count=part[1])


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


WHOLE = (0, len(DATA))


@pytest.mark.parametrize("length", [None, len(DATA)], ids=["chunked", "plain"])
async def test_a_file_arrives_and_the_connection_can_be_used_again(fd: int, length: int | None) -> None:
    async with serving(sending(fd, WHOLE, length=length)) as server, ClientSession() as session:
        ports = set()
        for _ in range(2):
            async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
                ports.add(answer.connection.transport.get_extra_info("sockname"))
                assert await answer.read() == DATA
            assert await server.end() is None
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("offset", "count"), [(0, 0), (0, 1), (4095, 2), (1, 131_072), (4_999_999, 12), (2_500_000, 2_097_153)]
)
async def test_a_part_of_a_file_is_exactly_that_part(fd: int, offset: int, count: int) -> None:
    async with serving(sending(fd, (offset, count), length=count)) as server:
        assert body_of(await server.exchange(GET_AND_CLOSE)) == DATA[offset : offset + count]


@pytest.mark.parametrize("send_buffer", [None, 4096])
async def test_files_and_bytes_keep_their_order_whatever_the_socket_takes(fd: int, send_buffer: int | None) -> None:
    parts = [b"first", WHOLE, b"-" * 200_000, (7, 70_000), b"x", b"y", (4_000_000, 1_000_000), (0, 1), b"last"]
    expected = b"".join(part if isinstance(part, bytes) else DATA[part[0] : sum(part)] for part in parts)
    async with serving(sending(fd, *parts, length=len(expected), send_buffer=send_buffer)) as server:
        assert body_of(await server.exchange(GET_AND_CLOSE)) == expected


async def test_http_1_0_without_a_length_gets_the_file_and_the_close(fd: int) -> None:
    async with serving(sending(fd, WHOLE)) as server:
        assert body_of(await server.exchange(OLD_GET)) == DATA


async def test_a_file_arrives_over_tls(fd: int, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    listener = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    listener.load_cert_chain(certificates.listener)
    handler = sending(fd, WHOLE, length=len(DATA))
    async with serving(handler, ssl_context=listener) as server, ClientSession() as session:
        async with session.get(f"https://127.0.0.1:{server.port}/", ssl=certificates.client(None)) as answer:
            assert await answer.read() == DATA


async def test_a_file_arrives_over_a_unix_socket(fd: int, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with serving(sending(fd, WHOLE, length=len(DATA)), unix_path=path):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET_AND_CLOSE)
        assert body_of(await read_all(reader)) == DATA
        writer.close()
        await writer.wait_closed()


async def test_head_reads_nothing_of_the_file() -> None:
    async with serving(sending(-1, WHOLE, length=len(DATA))) as server:
        answer = await server.exchange(HEAD_AND_CLOSE)
        assert await server.end() is None
    assert f"Content-Length: {len(DATA)}".encode() in answer
    assert body_of(answer) == b""


async def test_the_bytes_sent_are_counted_for_the_log_and_for_the_writer(fd: int) -> None:
    counts: list[tuple[int, int]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 3 + len(DATA)
        async with open_response(request, response) as writer:
            head_bytes = request.writer.output_size
            await writer.write(b"abc")
            await send_part(writer, fd, WHOLE)
            counts.append((writer.sent_bytes, request.writer.output_size - head_bytes))
        return response

    async with serving(handler) as server:
        await server.exchange(GET_AND_CLOSE)
    assert counts == [(3 + len(DATA), 3 + len(DATA))]


async def test_more_of_a_file_than_promised_is_an_error_and_never_sent(fd: int) -> None:
    async with serving(sending(fd, (0, 100), (100, 101), length=200)) as server:
        answer = await server.exchange(GET)
        assert isinstance(await server.end(), RuntimeError)
    assert body_of(answer) == DATA[:100]


async def test_bytes_may_go_straight_from_a_file_only_where_the_body_is_sent_as_it_is(fd: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        async with open_response(request, response) as writer:
            assert not writer.direct
            with pytest.raises(RuntimeError, match="as they are"):
                await writer.write_from(fd, 0, 1)
        return response

    async with serving(handler) as server:
        await server.exchange(GET_AND_CLOSE)
        assert await server.end() is None


@pytest.mark.parametrize("length", [None, len(DATA)], ids=["chunked", "plain"])
async def test_a_file_that_ends_too_early_cuts_the_answer(path: Path, fd: int, length: int | None) -> None:
    os.truncate(path, 1_000_000)
    async with serving(sending(fd, WHOLE, length=length)) as server, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            with pytest.raises(ClientPayloadError):
                await answer.read()
        error = await server.end()
    assert isinstance(error, SourceChanged)
    assert error.detail == "the file ends at or before byte 1000000"


async def test_a_file_truncated_while_it_is_sent_cuts_the_answer(path: Path, fd: int) -> None:
    handler = sending(fd, *[WHOLE] * 20, length=20 * len(DATA))
    async with serving(handler) as server, server.connection() as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(100_000)
        os.truncate(path, 10)
        rest = await read_all(reader)
        assert isinstance(await server.end(), SourceChanged)
    assert len(rest) < 20 * len(DATA) - 100_000


async def test_a_file_that_cannot_be_read_is_a_failure_of_its_own(path: Path) -> None:
    with opened(path, os.O_WRONLY) as unreadable:
        async with serving(sending(unreadable, WHOLE, length=len(DATA))) as server:
            assert body_of(await server.exchange(GET)) == b""
            error = await server.end()
    assert isinstance(error, SourceFailed)
    assert error.detail == "the file cannot be read: Bad file descriptor"


async def drained(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 65536):
        pass


async def test_a_client_that_takes_nothing_of_a_file_is_cut(fd: int) -> None:
    handler = sending(fd, *[WHOLE] * 20, length=20 * len(DATA), stall_s=STALL_S)
    async with serving(handler) as server, server.idle(GET) as client:
        error = await server.end()
        with pytest.raises(ConnectionResetError):
            await drained(client)
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 1 s"


async def test_a_client_that_takes_little_of_a_file_but_steadily_is_served(fd: int) -> None:
    handler = sending(fd, *[WHOLE] * 20, length=20 * len(DATA), stall_s=STALL_S)
    async with serving(handler) as server, server.idle(GET, receive_buffer=65536) as client:
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * STALL_S
        while loop.time() < until:
            assert await loop.sock_recv(client, 32768)
            await asyncio.sleep(0.05)
        assert server.ends.empty()


async def test_a_client_that_takes_nothing_of_a_file_costs_little_memory(fd: int) -> None:
    found: list[int] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 20 * len(DATA)

        async def send(writer: ResponseWriter) -> None:
            for _ in range(20):
                await send_part(writer, fd, WHOLE)

        async with open_response(request, response, stall_s=STALL_S) as writer:
            step = asyncio.ensure_future(send(writer))
            while not step.done():
                found.append(request.transport.get_write_buffer_size() if request.transport else 0)
                await asyncio.wait([step], timeout=0.05)
            await step
        return response

    async with serving(handler) as server, server.idle(GET):
        assert isinstance(await server.end(), ClientGone)
    assert 0 < max(found) <= 64 * 1024


async def test_a_client_that_leaves_amid_a_file_is_gone_and_nobody_logs_an_error(
    fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with serving(sending(fd, *[WHOLE] * 20, length=20 * len(DATA))) as server:
            async with server.idle(GET) as client:
                await asyncio.get_running_loop().sock_recv(client, 1)
            error = await server.end()
    assert isinstance(error, ClientGone)
    assert error.detail == "closed the connection"
    assert caplog.records == []


def drop_from_memory(fd: int) -> None:
    """Make the next read of the file one of the disk; a file system that lives in memory knows no other anyway.

    A busy kernel keeps pages that it has not yet put into its lists: asked again, it lets go of them.
    """
    os.fsync(fd)
    for _ in range(50):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if not is_in_memory(fd):
            return
        time.sleep(0.02)


def is_in_memory(fd: int) -> bool:
    """Whether any page of the file is; mincore(2) asks without reading ahead."""
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, size, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        asked = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages)
        del start
    return asked == 0 and any(page & 1 for page in pages)


async def collect(content: StreamReader, into: bytearray) -> None:
    async for piece in content.iter_any():
        into += piece


@pytest.mark.parametrize("known_bytes", [0, 300_000])
async def test_what_is_not_in_memory_is_read_in_threads_while_the_loop_goes_on(fd: int, known_bytes: int) -> None:
    pool = ThreadPoolExecutor(2)
    asyncio.get_running_loop().set_default_executor(pool)
    free = threading.Event()
    for _ in range(2):
        pool.submit(free.wait, 60)
    drop_from_memory(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # reads nothing ahead
    os.pread(fd, known_bytes, 0)
    try:
        async with serving(sending(fd, WHOLE, length=len(DATA))) as server, ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
                arrived = bytearray()
                reading = asyncio.ensure_future(collect(answer.content, arrived))
                async with session.head(f"http://127.0.0.1:{server.port}/") as other:
                    assert other.status == 200
                await asyncio.wait([reading], timeout=0.3)
                assert len(arrived) <= known_bytes + 128 * 1024
                free.set()
                await reading
                assert arrived == DATA
    finally:
        free.set()


@pytest.mark.parametrize("length", [None, len(DATA)], ids=["chunked", "plain"])
async def test_a_file_of_which_only_pieces_are_in_memory_arrives(fd: int, length: int | None) -> None:
    drop_from_memory(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # reads nothing ahead
    for at in range(0, len(DATA), 700_000):
        os.pread(fd, 100_000, at)
    async with serving(sending(fd, WHOLE, length=length)) as server, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            assert await answer.read() == DATA


@pytest.mark.parametrize(("offset", "count"), [(0, 0), (10, 20), (0, 300_000), (len(DATA) - 1, 1)])
async def test_bytes_are_read_exactly(fd: int, offset: int, count: int) -> None:
    drop_from_memory(fd)
    assert await read_file(fd, offset, count) == DATA[offset : offset + count]


async def test_bytes_beyond_the_end_are_not_made_up(fd: int) -> None:
    with pytest.raises(SourceChanged):
        await read_file(fd, len(DATA) - 10, 11)
