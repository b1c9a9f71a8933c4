"""What may hide a second request, or hold a connection for ever: raw bytes against a running gateway."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio
from aiohttp import web

from gateway_core import Body, Route, hookimpl
from gateway_core.http.body import read_body
from gateway_core.testing.harness import RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEEPALIVE_S = 1.0
PATIENCE_S = 20.0
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


def get(*fields: bytes) -> bytes:
    return b"\r\n".join((b"GET /x HTTP/1.1", *fields, b"", b""))


def post(*fields: bytes, body: bytes = b"hello") -> bytes:
    return b"\r\n".join((b"POST /x HTTP/1.1", b"Host: a", *fields, b"", b"")) + body


SMUGGLING = {
    "length and chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "two hosts": get(b"Host: a", b"Host: b"),
    "bare line feeds": b"GET /x HTTP/1.1\nHost: a\n\n",
    "bare line feed between fields": b"GET /x HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "space before the colon": get(b"Host : a"),
    "no host": get(),
    "no field name": get(b"Host: a", b": x"),
    "field name that is no token": get(b"Host: a", b"X(A): x"),
    "folded field": get(b"Host: a", b"X-A: b", b" c"),
    "folded first field": get(b" X-A: b", b"Host: a"),
    "unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked before another": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "two codings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 5", b"Content-Length: 6"),
    "list of lengths": post(b"Content-Length: 5, 5"),
    "length with a plus": post(b"Content-Length: +5"),
    "negative length": post(b"Content-Length: -5"),
    "length with an underscore": post(b"Content-Length: 1_0", body=b"0123456789"),
    "length in full-width digits": post("Content-Length: \uff15".encode()),
    "empty length": post(b"Content-Length: "),
    "line feed in a chunk extension": CHUNKED + b"\r\n5;a\nhello\r\n0\r\n\r\n",
    "length in a trailer": CHUNKED + b"\r\n5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "chunk size in full-width digits": CHUNKED + "\r\n\uff15\r\nhello\r\n0\r\n\r\n".encode(),
    "chunk size with a prefix": CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"\r\n4\r\nhello\r\n0\r\n\r\n",
    "NUL in a value": get(b"Host: a", b"X-A: b\x00c"),
    "CR in a value": get(b"Host: a", b"X-A: b\rc"),
    "tab after the method": b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the path": b"GET /x y HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes in the path": b"GET /\xff\xc3( HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "line over 8 KiB": b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "field over 8 KiB": get(b"Host: a", b"X: " + b"a" * 8200),
    "over 100 fields": get(b"Host: a", *(b"X%d: a" % n for n in range(101))),
}


class Counter:
    """Which paths were answered."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        """Read the body and count."""
        await read_body(request)
        self.seen.append(request.path)
        return web.Response(text="answered")

    @hookimpl
    def gateway_routes(self) -> list[Route]:
        public = {"handler": self.handle, "public": True, "body": Body.RAW}
        return [
            Route(method=("GET", "POST"), path="/x", name="x", **public),
            Route(method="GET", path="/hidden", name="hidden", **public),
        ]


COUNTER = Counter()


@pytest.fixture
def counter() -> Counter:
    """The one of the gateway, with nothing counted."""
    COUNTER.seen.clear()
    return COUNTER


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("raw")
    async with running_gateway(folder, settings={"plugins": "counter"}, plugins={"counter": COUNTER}) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """One that closes what is idle so soon that a busy machine may see it closed before it has written."""
    settings = {"plugins": "counter", "keepalive_timeout_s": KEEPALIVE_S}
    folder = tmp_path_factory.mktemp("hasty")
    async with running_gateway(folder, settings=settings, plugins={"counter": COUNTER}) as gateway:
        yield gateway


async def connect(running: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = running.address().rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(running: RunningGateway, request: bytes) -> bytes:
    """Send ``request``; all that comes back until the gateway closes."""
    reader, writer = await connect(running)
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/\d\.\d (\d{3}) ", answer)]


async def test_an_ordinary_pair_of_requests_is_answered(running: RunningGateway, counter: Counter) -> None:
    last = HIDDEN.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"
    answer = await exchange(running, post(b"Content-Length: 5") + last)
    assert (statuses(answer), counter.seen) == ([200, 200], ["/x", "/hidden"])


@pytest.mark.parametrize("form", SMUGGLING)
async def test_a_form_that_two_parsers_may_read_differently_is_refused_with_all_that_follows(
    running: RunningGateway, counter: Counter, form: str
) -> None:
    answer = await exchange(running, SMUGGLING[form] + HIDDEN)
    assert statuses(answer) == [400]
    assert counter.seen == []


@pytest.mark.parametrize("form", ["HTTP/2.0", "HTTP/0.9"])
async def test_another_version_alone_is_told_so(running: RunningGateway, counter: Counter, form: str) -> None:
    assert statuses(await exchange(running, SMUGGLING[form])) == [505]
    assert counter.seen == []


async def test_a_request_that_asks_for_another_protocol_is_answered_as_it_is(
    running: RunningGateway, counter: Counter
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"
    answer = await exchange(running, get(b"Host: a", *upgrade))
    assert (statuses(answer), counter.seen) == ([200], ["/x"])


async def test_unreadable_requests_are_counted_and_told_in_a_line_without_their_bytes(
    running: RunningGateway, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = await unreadable(running)
    await exchange(running, get(b"Host: a", b"Authorization : canary-in-a-field"))
    await exchange(running, b"GET /canary-in-the-path y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await unreadable(running) == before + 2
    logged = "".join((*capfd.readouterr(), caplog.text))
    assert logged.count("unreadable request") == 2
    assert "canary" not in logged
    assert "Traceback" not in logged


async def unreadable(running: RunningGateway) -> float:
    """How many requests could not be read, by the metrics."""
    async with running.session() as session, session.get("/metrics") as response:
        text = await response.text()
    found = re.findall(r'^gateway_requests_total\{.*route="unreadable".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


async def closed_after(hasty: RunningGateway, *parts: bytes, pause_s: float = 0.0) -> tuple[float, bytes]:
    """Seconds until the gateway closes a connection on which ``parts`` were sent, and what it said."""
    began = time.monotonic()
    reader, writer = await connect(hasty)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause_s)

    sending = asyncio.ensure_future(send())
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    finally:
        sending.cancel()
        writer.close()
    return time.monotonic() - began, answer


@pytest.mark.parametrize(
    ("parts", "pause_s"),
    [
        ((), 0.0),
        ((b"GET /x HT",), 0.0),
        ((b"GET /x HTTP/1.1\r\nHost: a\r\n",), 0.0),
        (tuple(bytes([byte]) for byte in get(b"Host: a", b"X: " + b"a" * 200)), 0.05),
        ((b"\r\n",) * 200, 0.05),
    ],
    ids=["silence", "half a line", "half a head", "a byte at a time", "empty lines"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    hasty: RunningGateway, parts: tuple[bytes, ...], pause_s: float
) -> None:
    seconds, answer = await closed_after(hasty, *parts, pause_s=pause_s)
    assert answer == b""
    assert KEEPALIVE_S * 0.9 <= seconds < PATIENCE_S / 2


async def test_an_idle_connection_is_closed_after_its_last_answer(hasty: RunningGateway) -> None:
    seconds, answer = await closed_after(hasty, get(b"Host: a"))
    assert statuses(answer) == [200]
    assert KEEPALIVE_S * 0.9 <= seconds < PATIENCE_S / 2


async def test_slow_heads_do_not_slow_others_down(hasty: RunningGateway) -> None:
    slow = []
    for _ in range(200):
        slow.append(await connect(hasty))
        slow[-1][1].write(b"GET /x HTTP/1.1\r\nHo")
    began = time.monotonic()
    assert statuses(await exchange(hasty, get(b"Host: a", b"Connection: close"))) == [200]
    assert time.monotonic() - began < 5.0
    assert set(await asyncio.gather(*(until_closed(reader) for reader, _ in slow))) == {b""}
    for _, writer in slow:
        writer.close()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """What comes before the end; bytes that meet a connection the gateway has closed are answered by a reset."""
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionResetError):
            return await reader.read()
    return b""
