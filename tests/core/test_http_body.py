from __future__ import annotations

import asyncio
import hashlib
import hmac

import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.errors import BadRequest, Forbidden, RequestTimeout, TooLarge
from gateway_core.http.body import BODY_CHECK, BODY_LIMITS, BodyLimits, _Pace, body, read_body
from gateway_core.http.gone import ClientGone
from tests.core.http_serving import serving

QUICK = BodyLimits(grace_s=0.1, window_s=0.3, min_bytes_per_s=1000)


class HmacCheck:
    """A body check as an authenticator makes it."""

    def __init__(self, expected: str) -> None:
        self._mac = hmac.new(b"key", digestmod=hashlib.sha256)
        self._expected = expected

    def update(self, chunk: bytes) -> None:
        self._mac.update(chunk)

    def finish(self) -> None:
        if not hmac.compare_digest(self._mac.hexdigest(), self._expected):
            raise Forbidden("the body is not what was signed")


def head(**fields: str | int) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join(["POST / HTTP/1.1", "Host: h", *lines, "", ""]).encode()


def reading(limits: BodyLimits | None = None, got: list[bytes] | None = None):
    """A handler that reads the body into ``got``."""

    async def handler(request: web.Request) -> web.Response:
        async for chunk in body(request, limits):
            if got is not None:
                got.append(chunk)
        return web.Response()

    return handler


async def test_the_chunks_are_the_body_and_none_is_empty() -> None:
    data, got = b"0123456789" * 100_000, []
    async with serving(reading(BodyLimits(max_bytes=None), got)) as server, ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{server.port}/", data=data):
            assert await server.end() is None
    assert b"".join(got) == data
    assert all(got)


async def test_a_request_without_a_body_has_no_chunks() -> None:
    got: list[bytes] = []
    async with serving(reading(got=got)) as server, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/"):
            assert await server.end() is None
    assert got == []


async def test_a_body_announced_too_large_is_refused_before_a_byte_of_it() -> None:
    got: list[bytes] = []
    async with serving(reading(BodyLimits(max_bytes=10), got)) as server, server.connection() as (reader, writer):
        writer.write(head(Content_Length=11))
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        error = await server.end()
    assert isinstance(error, TooLarge)
    assert error.detail == "the body has 11 bytes or more, max_body_bytes is 10"
    assert got == []


async def test_a_body_of_unknown_size_is_refused_at_the_limit() -> None:
    async with serving(reading(BodyLimits(max_bytes=10))) as server:
        chunks = b"a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n"
        answer = await server.exchange(head(Transfer_Encoding="chunked", Connection="close") + chunks)
        assert answer.startswith(b"HTTP/1.1 413")
        assert isinstance(await server.end(), TooLarge)


async def test_a_body_as_large_as_the_limit_is_read() -> None:
    async with serving(reading(BodyLimits(max_bytes=10))) as server:
        answer = await server.exchange(head(Content_Length=10, Connection="close") + b"0123456789")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_the_route_s_limits_hold_where_the_handler_gives_none() -> None:
    async def handler(request: web.Request) -> web.Response:
        request[BODY_LIMITS] = BodyLimits(max_bytes=3)
        return web.Response(body=await read_body(request))

    async with serving(handler) as server:
        assert (await server.exchange(head(Content_Length=3, Connection="close") + b"abc")).endswith(b"abc")
        await server.end()
        await server.exchange(head(Content_Length=4, Connection="close") + b"abcd")
        assert isinstance(await server.end(), TooLarge)


async def test_a_silent_client_is_timed_out_after_grace_and_window() -> None:
    clock = asyncio.get_running_loop().time
    async with serving(reading(QUICK)) as server, server.connection() as (reader, writer):
        started = clock()
        writer.write(head(Content_Length=1000))
        error = await server.end()
        took = clock() - started
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    assert isinstance(error, RequestTimeout)
    assert QUICK.grace_s + QUICK.window_s <= took < 5


async def test_a_client_below_the_pace_is_timed_out_although_it_never_stops() -> None:
    async with serving(reading(QUICK)) as server, server.connection() as (_, writer):
        writer.write(head(Content_Length=100_000))
        dripping = asyncio.create_task(drip(writer, b"x", 0.02))
        error = await server.end()
        dripping.cancel()
    assert isinstance(error, RequestTimeout)


async def test_a_slow_client_above_the_pace_is_served() -> None:
    limits = BodyLimits(grace_s=0.05, window_s=1, min_bytes_per_s=500)
    async with serving(reading(limits)) as server, server.connection() as (reader, writer):
        writer.write(head(Content_Length=8000))
        await drip(writer, b"x" * 100, 0.02, times=80)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert await server.end() is None


async def test_time_in_which_the_gateway_is_busy_does_not_count() -> None:
    async def handler(request: web.Request) -> web.Response:
        async for _ in body(request, QUICK):
            await asyncio.sleep(QUICK.grace_s + QUICK.window_s + 0.1)  # the disk, say
        return web.Response()

    async with serving(handler) as server, server.connection() as (reader, writer):
        writer.write(head(Content_Length=2) + b"a")
        await drip(writer, b"b", 0.1, times=1)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def drip(writer: asyncio.StreamWriter, piece: bytes, every_s: float, *, times: int = 10**6) -> None:
    for _ in range(times):
        await asyncio.sleep(every_s)
        writer.write(piece)


@pytest.mark.parametrize("announced", [{"Content_Length": 10}, {"Transfer_Encoding": "chunked"}])
async def test_a_client_that_leaves_in_the_middle_is_gone(announced: dict[str, str | int]) -> None:
    async with serving(reading()) as server:
        async with server.connection() as (_, writer):
            writer.write(head(**announced) + b"5\r\nabcde\r\n"[: 5 if "Content_Length" in announced else None])
            await writer.drain()
        assert isinstance(await server.end(), ClientGone)


async def test_a_client_that_leaves_before_the_handler_reads_is_gone() -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        while request.transport is not None:
            await asyncio.sleep(0)
        left.set()
        return await reading()(request)

    async with serving(handler) as server:
        async with server.connection() as (_, writer):
            writer.write(head(Content_Length=10))
            await writer.drain()
        assert isinstance(await server.end(), ClientGone)
        assert left.is_set()


async def test_a_body_that_cannot_be_decoded_is_a_bad_request() -> None:
    async with serving(reading()) as server:
        encoded = head(Content_Encoding="gzip", Content_Length=5, Connection="close") + b"hello"
        assert (await server.exchange(encoded)).startswith(b"HTTP/1.1 400")
        assert isinstance(await server.end(), BadRequest)


async def test_broken_chunked_coding_that_the_parser_keeps_to_itself_is_timed_out() -> None:
    first = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        async for _ in body(request, QUICK):
            first.set()
        return web.Response()

    async with serving(handler) as server, server.connection() as (_, writer):
        writer.write(head(Transfer_Encoding="chunked") + b"5\r\nabcde\r\n")
        await first.wait()
        writer.write(b"zz\r\n")
        assert isinstance(await server.end(), RequestTimeout)


async def test_a_body_is_read_once() -> None:
    async def handler(request: web.Request) -> web.Response:
        await read_body(request)
        with pytest.raises(RuntimeError, match="already"):
            await read_body(request)
        return web.Response()

    async with serving(handler) as server:
        await server.exchange(head(Content_Length=3, Connection="close") + b"abc")
        assert await server.end() is None


def signed(expected: str, steps: list[str]):
    async def handler(request: web.Request) -> web.Response:
        request[BODY_CHECK] = HmacCheck(expected)
        async for _ in body(request):
            steps.append("chunk")
        steps.append("end")
        return web.Response()

    return handler


async def test_a_body_that_agrees_with_its_check_ends_normally() -> None:
    steps: list[str] = []
    good = hmac.new(b"key", b"hello", hashlib.sha256).hexdigest()
    async with serving(signed(good, steps)) as server:
        await server.exchange(head(Content_Length=5, Connection="close") + b"hello")
        assert await server.end() is None
    assert steps == ["chunk", "end"]


@pytest.mark.parametrize("sent", [b"hallo", b"hell"])
async def test_a_body_that_fails_its_check_never_ends_normally(sent: bytes) -> None:
    steps: list[str] = []
    good = hmac.new(b"key", b"hello", hashlib.sha256).hexdigest()
    async with serving(signed(good, steps)) as server:
        answer = await server.exchange(head(Content_Length=len(sent), Connection="close") + sent)
        assert isinstance(await server.end(), Forbidden)
    assert answer.startswith(b"HTTP/1.1 403")
    assert steps == ["chunk"]


async def test_an_empty_body_is_checked_too() -> None:
    steps: list[str] = []
    async with serving(signed("0" * 64, steps)) as server:
        await server.exchange(head(Content_Length=0, Connection="close"))
        assert isinstance(await server.end(), Forbidden)
    assert steps == []


async def test_the_check_sees_every_byte_before_the_consumer_does() -> None:
    seen: list[bytes] = []

    class Recording:
        def update(self, chunk: bytes) -> None:
            seen.append(chunk)

        def finish(self) -> None:
            seen.append(b"finished")

    async def handler(request: web.Request) -> web.Response:
        request[BODY_CHECK] = Recording()
        async for chunk in body(request):
            assert seen[-1] == chunk
        assert seen[-1] == b"finished"
        return web.Response()

    async with serving(handler) as server:
        await server.exchange(head(Content_Length=3, Connection="close") + b"abc")
        assert await server.end() is None
    assert b"".join(seen) == b"abcfinished"


def reference_deadline(arrivals: list[tuple[float, int]], limits: BodyLimits) -> float:
    """The end of the first window, opened at or after the grace, that brings too little, looking at every instant."""
    instants = sorted({limits.grace_s, *(at for at, _ in arrivals if at >= limits.grace_s)})
    for opened in instants:
        closes = opened + limits.window_s
        got = sum(count for at, count in arrivals if opened < at <= closes)
        if got < limits.min_bytes_per_s * limits.window_s:
            return closes
    raise AssertionError("the window after the last arrival is always empty")


def gaps() -> st.SearchStrategy[list[tuple[float, int]]]:
    return st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), max_size=30)


@given(gaps())
def test_the_pace_fails_exactly_the_windows_that_bring_too_little(steps: list[tuple[int, int]]) -> None:
    limits = BodyLimits(grace_s=10, window_s=30, min_bytes_per_s=2)
    pace, arrivals, now = _Pace(limits), [], 0.0
    for gap, count in steps:
        patience = pace._patience_s()
        expected = reference_deadline(arrivals, limits)
        assert patience is not None
        assert now + patience == expected
        if gap > patience:
            return
        now += gap
        pace._waited_s = now
        pace.arrived(count)
        arrivals.append((now, count))


def test_a_fast_body_is_remembered_in_a_few_numbers() -> None:
    pace = _Pace(BodyLimits())
    for millisecond in range(100_000):
        pace._waited_s = millisecond / 1000
        pace.arrived(2)
    assert len(pace._arrivals) < 40


def test_no_pace_is_asked_for_where_the_rate_is_zero() -> None:
    assert _Pace(BodyLimits(min_bytes_per_s=0))._patience_s() is None
