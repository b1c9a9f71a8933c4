from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme

from gateway_core.testing.curl import CurlExit, curl
from gateway_core.testing.upstream import Upstream, upstream_thread
from gateway_core.testing.upstream_answer import Framing, Generated, Resource
from gateway_core.testing.upstream_behaviour import Cut, Endless, Stall

SIZE = 200_000


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(10)) as session:
        yield session


async def test_content_arrives_with_its_validators_and_length(up: Upstream) -> None:
    got = await curl(up.add("/a.txt", Resource(b"hello", media_type="text/plain", headers={"X-Own": "1"})))
    assert (got.code, got.body) == (0, b"hello")
    for line in ("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Type: text/plain", 'ETag: "', "X-Own: 1"):
        assert line in got.head
    assert "Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT" in got.head


async def test_generated_content_is_the_same_whole_and_in_parts(up: Upstream) -> None:
    url = up.add("/big.bin", SIZE)
    whole = await curl(url)
    parts = [await curl("--range", span, url) for span in ("0-70000", "70001-131072", "131073-")]
    assert b"".join(part.body for part in parts) == whole.body == up.content("/big.bin")


async def test_generated_content_differs_by_path(up: Upstream) -> None:
    up.add("/a", 1000)
    up.add("/b", 1000)
    assert up.content("/a") != up.content("/b")


def test_generated_content_far_out_needs_no_memory() -> None:
    assert len(Generated(1 << 60)[(1 << 60) - 3 :]) == 3


async def test_head_sends_the_head_of_get(up: Upstream) -> None:
    url = up.add("/a", b"hello")
    got = await curl("--head", url)
    assert "Content-Length: 5" in got.head
    assert [(request.method, request.sent_bytes) for request in up.requests] == [("HEAD", 0)]


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=5-", 206, b"56789", "bytes 5-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=3-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
    ],
)
async def test_ranges_are_answered_by_the_rules(
    up: Upstream,
    session: aiohttp.ClientSession,
    wanted: str,
    status: int,
    body: bytes,
    content_range: str | None,
) -> None:
    async with session.get(up.add("/a", b"0123456789"), headers={"Range": wanted}) as answer:
        assert (answer.status, await answer.read()) == (status, body)
        assert answer.headers.get("Content-Range") == content_range


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        ('"v1"', 206),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 206),
        ('"v2"', 200),
        ('W/"v1"', 200),
        ("Tue, 14 Nov 2023 22:13:21 GMT", 200),
    ],
)
async def test_if_range_needs_the_same_strong_validator(
    up: Upstream, session: aiohttp.ClientSession, validator: str, status: int
) -> None:
    url = up.add("/a", Resource(b"0123456789", etag='"v1"'))
    async with session.get(url, headers={"Range": "bytes=5-", "If-Range": validator}) as answer:
        assert answer.status == status


async def test_if_range_is_ignored_where_the_resource_says_so(up: Upstream) -> None:
    url = up.add("/a", Resource(b"0123456789", if_range=False))
    assert (await curl("--range", "5-", "--header", 'If-Range: "other"', url)).body == b"56789"


async def test_validators_can_be_missing(up: Upstream) -> None:
    got = await curl(up.add("/a", Resource(b"x", etag=None, modified=None)))
    assert "ETag" not in got.head
    assert "Last-Modified" not in got.head


@pytest.mark.parametrize("framing", list(Framing))
async def test_every_framing_delivers_the_bytes(up: Upstream, session: aiohttp.ClientSession, framing: Framing) -> None:
    url = up.add("/a", Resource(Generated(SIZE), framing=framing))
    async with session.get(url) as answer:
        assert await answer.read() == up.content("/a")
        assert ("Content-Length" in answer.headers) == (framing is Framing.LENGTH)


async def test_http_1_0_gets_no_chunks(up: Upstream) -> None:
    url = up.add("/a", Resource(Generated(SIZE), framing=Framing.CHUNKED))
    got = await curl("--http1.0", url)
    assert got.body == up.content("/a")
    assert "Transfer-Encoding" not in got.head


async def test_connections_are_kept_alive_and_counted(up: Upstream, session: aiohttp.ClientSession) -> None:
    for path in ("/a", "/b", "/missing"):
        async with session.get(up.base_url + path) as answer:
            assert await answer.read() == b"status 404\n"
    assert (up.open_connections, up.total_connections, up.peak_connections) == (1, 1, 1)
    assert {request.connection for request in up.requests} == {1}
    await session.close()
    await up.wait_disconnected()


async def test_requests_are_recorded_with_what_they_carried(up: Upstream) -> None:
    up.add("/hook", b"thanks")
    await curl("--data", "payload", "--header", "X-Token: secret", up.base_url + "/hook?n=1")
    (request,) = up.seen("/hook")
    assert (request.method, request.target, request.body) == ("POST", "/hook?n=1", b"payload")
    assert (request.headers["x-token"], request.status, request.sent_bytes) == ("secret", 200, 6)
    assert request.complete


async def test_a_query_can_have_content_of_its_own(up: Upstream) -> None:
    up.add("/a", b"any")
    assert (await curl(up.add("/a?key=1", b"one"))).body == b"one"
    assert (await curl(up.base_url + "/a?key=2")).body == b"any"


async def test_redirects_go_where_they_are_told(up: Upstream) -> None:
    up.add("/there", b"arrived")
    assert (await curl("--location", up.redirect("/here", "/there", 307))).body == b"arrived"


async def test_redirects_can_loop(up: Upstream) -> None:
    got = await curl("--location", "--max-redirs", "4", up.redirect("/loop", "/loop"))
    assert got.code == CurlExit.TOO_MANY_REDIRECTS
    assert len(up.seen("/loop")) == 5


async def test_parallel_requests_have_a_peak(up: Upstream, session: aiohttp.ClientSession) -> None:
    url = up.add("/a", b"hello", Stall())
    asked = [asyncio.create_task(session.get(url)) for _ in range(3)]
    await up.wait_requests(3)
    up.release("/a")
    for answer in await asyncio.gather(*asked):
        answer.release()
    await up.wait_idle()
    assert (up.peak_requests, up.active_requests, up.peak_connections) == (3, 0, 3)


async def test_a_wait_in_vain_says_what_is_open(up: Upstream, session: aiohttp.ClientSession) -> None:
    asked = asyncio.create_task(session.get(up.add("/a", b"", Stall())))
    await up.wait_requests(1)
    with pytest.raises(TimeoutError, match="1 connections, 1 of 1 requests open"):
        await up.wait_idle(timeout_s=0.02)
    up.release("/a")
    (await asked).release()


async def test_stop_ends_what_is_stalled_and_start_takes_the_same_port() -> None:
    upstream = Upstream()
    await upstream.start()
    url = upstream.add("/a", b"hello", Stall(times=1))
    asked = asyncio.create_task(curl(url))
    await upstream.wait_requests(1)
    await upstream.stop()
    assert (await asked).code in (CurlExit.GOT_NOTHING, CurlExit.RECEIVE_ERROR)
    async with upstream:
        assert (await curl(url)).body == b"hello"


async def test_ipv6_has_brackets() -> None:
    async with Upstream("::1") as upstream:
        assert (await curl(upstream.add("/a", b"hello"))).body == b"hello"
        assert upstream.base_url.startswith("http://[::1]:")


async def test_https_is_served_under_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Upstream(ssl=context) as upstream:
        url = upstream.add("/a", SIZE, Cut(1000, times=1))
        got = await curl("--cacert", str(tmp_path / "ca.pem"), url)
        assert (url.startswith("https://"), len(got.body)) == (True, 1000)


def test_a_thread_serves_tests_that_are_not_async() -> None:
    with upstream_thread() as upstream:
        url = upstream.add("/a", SIZE)
        got = subprocess.run(("curl", "--silent", url), capture_output=True, check=True, timeout=10)
        upstream.sync(upstream.wait_disconnected())
        assert got.stdout == upstream.content("/a")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((upstream.host, upstream.port), timeout=5)


async def test_a_client_that_resets_hurts_nobody(up: Upstream) -> None:
    up.add("/a", b"", Endless())
    with socket.create_connection((up.host, up.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await up.wait_requests(1)
    await up.wait_disconnected()
    assert not up.requests[0].complete
