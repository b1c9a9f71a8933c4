from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway_core.testing.curl import CurlExit, curl
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_answer import Framing, Generated, Resource
from gateway_core.testing.upstream_behaviour import (
    BadChunk,
    Changed,
    Cut,
    Drip,
    Encoded,
    Endless,
    Fault,
    Garbage,
    Headers,
    IgnoreRange,
    Length,
    Raw,
    Reset,
    Stall,
    Status,
    WrongRange,
)
from gateway_core.testing.upstream_exchange import Exchange

SIZE = 200_000


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(10)) as session:
        yield session


async def test_cut_before_the_head_sends_nothing(up: Upstream) -> None:
    assert (await curl(up.add("/a", SIZE, Cut()))).code == CurlExit.GOT_NOTHING


@pytest.mark.parametrize("framing", [Framing.LENGTH, Framing.CHUNKED])
async def test_cut_is_exact_and_a_resume_gets_the_rest(up: Upstream, framing: Framing) -> None:
    url = up.add("/a", Resource(Generated(SIZE), framing=framing), Cut(100_001, times=1))
    first = await curl(url)
    rest = await curl("--range", f"{len(first.body)}-", url)
    assert (first.code, len(first.body)) == (CurlExit.PARTIAL_FILE, 100_001)
    assert first.body + rest.body == up.content("/a")
    assert [(request.fault, request.sent_bytes) for request in up.requests] == [("Cut", 100_001), (None, 99_999)]


async def test_cut_without_a_length_looks_whole(up: Upstream) -> None:
    got = await curl(up.add("/a", Resource(Generated(SIZE), framing=Framing.CLOSE), Cut(1000)))
    assert (got.code, len(got.body)) == (0, 1000)


async def test_reset_is_a_reset(up: Upstream, session: aiohttp.ClientSession) -> None:
    with pytest.raises((aiohttp.ClientOSError, ConnectionResetError)):
        async with session.get(up.add("/a", SIZE, Reset())):
            raise AssertionError("no answer was sent")
    assert (await curl(up.add("/b", SIZE, Reset(1000)))).code == CurlExit.RECEIVE_ERROR


async def test_too_long_a_length_leaves_the_client_waiting_for_bytes(up: Upstream) -> None:
    got = await curl(up.add("/a", b"hello", Length(+3)))
    assert (got.code, got.body) == (CurlExit.PARTIAL_FILE, b"hello")
    assert "Content-Length: 8" in got.head


async def test_too_short_a_length_is_followed_by_the_rest(up: Upstream) -> None:
    got = await curl("--ignore-content-length", up.add("/a", b"hello", Length(-3)))
    assert "Content-Length: 2" in got.head
    assert got.body == b"hello"


async def test_length_can_lie_on_head_only(up: Upstream) -> None:
    url = up.add("/a", b"hello", Length(+3, method="HEAD"))
    assert "Content-Length: 8" in (await curl("--head", url)).head
    assert "Content-Length: 5" in (await curl(url)).head


async def test_bad_chunk_is_an_error_after_the_good_ones(up: Upstream) -> None:
    got = await curl(up.add("/a", SIZE, BadChunk(after=70_000)))
    assert (got.code, got.body) == (CurlExit.RECEIVE_ERROR, up.content("/a")[:65_536])


async def test_encoded_although_identity_was_asked_for(up: Upstream) -> None:
    got = await curl("--header", "Accept-Encoding: identity", up.add("/a", b"hello" * 100, Encoded()))
    assert "Content-Encoding: gzip" in got.head
    assert gzip.decompress(got.body) == b"hello" * 100


@pytest.mark.parametrize(("honest", "content_range"), [(True, "bytes 4-8/10"), (False, "bytes 5-9/10")])
async def test_wrong_range_has_other_bytes(up: Upstream, honest: bool, content_range: str) -> None:
    got = await curl("--range", "5-", up.add("/a", b"0123456789", WrongRange(-1, honest)))
    assert got.body == b"45678"
    assert f"Content-Range: {content_range}" in got.head


async def test_ignored_range_gets_everything(up: Upstream) -> None:
    got = await curl("--header", "Range: bytes=5-", up.add("/a", b"0123456789", IgnoreRange()))
    assert got.body == b"0123456789"
    assert "Accept-Ranges: bytes" in got.head


async def test_changed_content_has_other_validators_and_fails_if_range(
    up: Upstream, session: aiohttp.ClientSession
) -> None:
    url = up.add("/a", b"old" * 100, Cut(100, times=1), Changed(b"new" * 100))
    async with session.head(url) as before:
        etag, modified = before.headers["ETag"], before.headers["Last-Modified"]
    await curl(url)
    async with session.get(url, headers={"Range": "bytes=100-", "If-Range": etag}) as after:
        assert (after.status, await after.read()) == (200, b"new" * 100)
        assert after.headers["ETag"] != etag
        assert after.headers["Last-Modified"] != modified


async def test_error_status_first_then_good(up: Upstream) -> None:
    url = up.add("/a", b"hello", Status(503, {"Retry-After": "7"}, times=2))
    answers = [await curl(url) for _ in range(3)]
    assert "Retry-After: 7" in answers[0].head
    assert [answer.body for answer in answers] == [b"status 503\n", b"status 503\n", b"hello"]


async def test_a_fault_can_be_for_one_method(up: Upstream) -> None:
    url = up.add("/a", b"hello", Status(403, method="HEAD"))
    assert "HTTP/1.1 403 Forbidden" in (await curl("--head", url)).head
    assert (await curl(url)).body == b"hello"


async def test_fields_can_be_replaced_and_left_out(up: Upstream) -> None:
    url = up.add("/a", b"hello", Headers({"Content-Range": None, "ETag": 'W/"weak"'}))
    got = await curl("--range", "1-", url)
    assert "HTTP/1.1 206" in got.head
    assert "Content-Range" not in got.head
    assert 'ETag: W/"weak"' in got.head


async def test_stall_before_the_head_sends_nothing_until_released(up: Upstream, session: aiohttp.ClientSession) -> None:
    url = up.add("/a", b"hello", Stall())
    asked = asyncio.create_task(session.get(url))
    await up.wait_requests(1, path="/a")
    assert up.requests[0].status is None
    up.release("/a")
    async with await asked as answer:
        assert await answer.read() == b"hello"


async def test_stall_in_the_body_ends_when_the_client_leaves(up: Upstream, session: aiohttp.ClientSession) -> None:
    async with session.get(up.add("/a", SIZE, Stall(1000))) as answer:
        assert len(await answer.content.readexactly(1000)) == 1000
        assert up.active_requests == 1
        answer.close()
    await up.wait_idle()
    assert (up.requests[0].sent_bytes, up.requests[0].complete) == (1000, False)
    await up.wait_disconnected()


async def test_stall_for_a_time_goes_on(up: Upstream) -> None:
    assert (await curl(up.add("/a", SIZE, Stall(1000, seconds=0.02)))).body == up.content("/a")


async def test_drip_comes_piece_by_piece(up: Upstream, session: aiohttp.ClientSession) -> None:
    async with session.get(up.add("/a", b"hello", Drip(60))) as answer:
        assert await answer.content.readexactly(1) == b"h"
        assert up.requests[0].sent_bytes == 1
        up.release("/a")
        assert await answer.read() == b"ello"


@pytest.mark.parametrize("framing", list(Framing))
async def test_endless_ends_when_the_client_leaves(
    up: Upstream, session: aiohttp.ClientSession, framing: Framing
) -> None:
    async with session.get(up.add("/a", b"", Endless(framing))) as answer:
        await answer.content.readexactly(1_000_000)
        answer.close()
    await up.wait_disconnected()
    assert not up.requests[0].complete


async def test_garbage_follows_the_right_body(up: Upstream) -> None:
    url = up.add("/a", b"hello", Garbage())
    assert (await curl(url)).body == b"hello"
    reader, writer = await asyncio.open_connection(up.host, up.port)
    writer.write(b"GET /a HTTP/1.1\r\nHost: up\r\n\r\n")
    assert b"Content-Length: 5\r\n" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(21) == b"hellogarbage garbage "
    writer.close()
    await up.wait_disconnected()


async def test_raw_bytes_need_not_be_http(up: Upstream, session: aiohttp.ClientSession) -> None:
    with pytest.raises(aiohttp.ClientResponseError):
        await session.get(up.add("/a", b"", Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")))


async def test_standing_rules_let_later_faults_pass_and_counted_ones_hold_them_back(up: Upstream) -> None:
    url = up.add("/a", b"0123456789", Status(403, method="HEAD"), Cut(4, times=1), Changed(b"new"))
    await curl("--head", url)
    assert (await curl("--range", "0-2", url)).body == b"012"
    assert [(await curl(url)).body for _ in range(2)] == [b"0123", b"new"]
    assert [request.fault for request in up.requests] == ["Status", None, "Cut", "Changed"]


async def test_a_fault_of_the_tests_own_plays(up: Upstream) -> None:
    class Shout(Fault):
        async def play(self, exchange: Exchange) -> None:
            await exchange.head()
            await exchange.write(b"HELLO")

    assert (await curl(up.add("/a", b"hello", Shout()))).body == b"HELLO"
    assert up.requests[0].fault == "Shout"


async def test_a_failure_inside_the_upstream_fails_the_test() -> None:
    class Broken(Fault):
        async def play(self, exchange: Exchange) -> None:
            raise KeyError("broken")

    upstream = Upstream()
    await upstream.start()
    assert (await curl(upstream.add("/a", b"", Broken()))).code == CurlExit.GOT_NOTHING
    with pytest.raises(ExceptionGroup) as raised:
        await upstream.stop()
    assert raised.group_contains(KeyError)
