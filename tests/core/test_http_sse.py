from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.errors import SourceFailed
from gateway_core.http.gone import ClientGone
from gateway_core.http.sse import ServerEvent, send_events
from tests.core.http_serving import serving

GET = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
OLD_GET = b"GET / HTTP/1.0\r\n\r\n"


class Feed:
    """A source of events that a test fills, and that notices how it ends."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[ServerEvent | BaseException | None] = asyncio.Queue()
        self.asked = 0
        self.closed = asyncio.Event()

    async def events(self) -> AsyncGenerator[ServerEvent, None]:
        try:
            while True:
                self.asked += 1
                item = await self.waiting.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed.set()


def relaying(feed: Feed, draining: asyncio.Event | None = None, keepalive_s: float = 30):
    async def handler(request: web.Request) -> web.StreamResponse:
        return await send_events(request, feed.events(), draining=draining or asyncio.Event(), keepalive_s=keepalive_s)

    return handler


def parsed(text: str) -> list[dict[str, str]]:
    """Events as a browser dispatches them (HTML standard 9.2.6)."""
    events, fields = [], {}
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if "data" in fields:
                events.append(fields)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = fields[name] + "\n" + value if name == "data" and "data" in fields else value
    return events


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_browser_reads_the_data_that_was_sent(data: str) -> None:
    events = parsed(ServerEvent(data).encode().decode())
    assert events == [{"data": data.replace("\r\n", "\n").replace("\r", "\n")}]


def test_all_fields_are_told() -> None:
    event = ServerEvent("a\nb", event="progress", id="7", retry_ms=2000)
    assert event.encode() == b"event: progress\nid: 7\nretry: 2000\ndata: a\ndata: b\n\n"


@pytest.mark.parametrize("fields", [{"event": "a\nb"}, {"id": "a\rb"}, {"id": "a\0b"}, {"event": "a\r\nb"}])
def test_names_and_ids_cannot_inject_lines(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="one line"):
        ServerEvent("x", **fields)


async def test_events_are_sent_until_they_end() -> None:
    feed = Feed()
    for item in (ServerEvent("one"), ServerEvent("two"), None):
        feed.waiting.put_nowait(item)
    async with serving(relaying(feed)) as server:
        head, _, body = (await server.exchange(OLD_GET)).partition(b"\r\n\r\n")
        assert await server.end() is None
    assert body == b"data: one\n\ndata: two\n\n"
    assert b"Content-Type: text/event-stream; charset=utf-8" in head
    assert b"Cache-Control: no-store" in head
    assert feed.closed.is_set()


async def test_an_event_is_sent_at_once() -> None:
    feed = Feed()
    async with serving(relaying(feed)) as server, server.connection() as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        feed.waiting.put_nowait(ServerEvent("now"))
        async with asyncio.timeout(10):  # far less than until the next sign of life
            assert await reader.readuntil(b"data: now\n\n\r\n")


async def test_a_quiet_stream_is_kept_alive_and_goes_on() -> None:
    feed = Feed()
    async with serving(relaying(feed, keepalive_s=0.05)) as server, server.connection() as (reader, writer):
        writer.write(GET)
        for _ in range(3):
            await reader.readuntil(b": keep-alive\n\n\r\n")
        feed.waiting.put_nowait(ServerEvent("x"))
        assert await reader.readuntil(b"data: x\n\n")


async def test_the_drain_ends_the_stream_cleanly() -> None:
    feed, draining = Feed(), asyncio.Event()
    async with serving(relaying(feed, draining)) as server, server.connection() as (reader, writer):
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        draining.set()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        assert await server.end() is None
    assert feed.closed.is_set()


async def test_a_stream_opened_while_draining_is_empty() -> None:
    feed, draining = Feed(), asyncio.Event()
    draining.set()
    feed.waiting.put_nowait(ServerEvent("x"))
    async with serving(relaying(feed, draining)) as server:
        assert (await server.exchange(GET)).endswith(b"\r\n\r\n0\r\n\r\n")


async def test_a_client_that_leaves_closes_the_source() -> None:
    feed = Feed()
    async with serving(relaying(feed, keepalive_s=0.05)) as server:
        async with server.connection() as (reader, writer):
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
        assert isinstance(await server.end(), ClientGone)
    assert feed.closed.is_set()


async def test_the_source_is_closed_before_the_handler_ends_even_between_two_events() -> None:
    feed, closed = Feed(), []
    for _ in range(1000):
        feed.waiting.put_nowait(ServerEvent("x" * 100_000))

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await relaying(feed)(request)
        finally:
            closed.append(feed.closed.is_set())

    async with serving(handler) as server:
        async with server.idle(GET) as client:
            await asyncio.get_running_loop().sock_recv(client, 1)
        assert isinstance(await server.end(), ClientGone)
    assert closed == [True]


async def test_a_failing_source_cuts_the_stream() -> None:
    feed = Feed()
    feed.waiting.put_nowait(ServerEvent("one"))
    feed.waiting.put_nowait(SourceFailed("broke"))
    async with serving(relaying(feed)) as server:
        answer = await server.exchange(GET)
        assert isinstance(await server.end(), SourceFailed)
    assert answer.endswith(b"data: one\n\n\r\n")
    assert feed.closed.is_set()


async def test_a_client_that_does_not_read_is_not_queued_for() -> None:
    feed, requests = Feed(), asyncio.Queue[web.Request]()
    for number in range(1000):
        feed.waiting.put_nowait(ServerEvent("x" * 100_000, id=str(number)))

    async def handler(request: web.Request) -> web.StreamResponse:
        requests.put_nowait(request)
        return await relaying(feed)(request)

    async with serving(handler) as server, server.idle(GET):
        request = await requests.get()
        while not request.protocol.writing_paused:
            await asyncio.sleep(0)
        assert feed.asked < 500


async def test_head_asks_for_no_event() -> None:
    feed = Feed()
    async with serving(relaying(feed)) as server:
        assert (await server.exchange(GET.replace(b"GET", b"HEAD"))).endswith(b"\r\n\r\n")
        assert await server.end() is None
    assert feed.asked == 0
