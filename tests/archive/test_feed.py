"""Fetching ahead: in order, within budgets, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import overload

import pytest

from gateway_archive.feed import SMALL_BYTES, Feed, FeedLimits, Whole
from gateway_archive.lanes import Lanes
from gateway_core import SourceFailed, SourceGone, SourceRequest
from gateway_core.sources.egress import EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Cut, Stall, Status
from tests.archive.stand import MIB

MANY = 100


@pytest.fixture
async def source() -> AsyncIterator[HttpSource]:
    async with GuardedClient(EgressPolicy(["127.0.0.0/8"])) as client:
        yield HttpSource(client)


def feed_of(source: HttpSource, *urls: str, lanes: Lanes | None = None, **limits: int) -> Feed:
    requests = [SourceRequest(url) for url in urls]
    return Feed(source, requests, lanes=lanes or Lanes(1000), limits=FeedLimits(**limits))


def files(upstream: Upstream, count: int = MANY, size: int = 1000) -> list[str]:
    return [upstream.add(f"/{n}", size) for n in range(count)]


async def take(feed: Feed, index: int) -> bytes:
    whole = await feed.take(index)
    assert isinstance(whole, Whole)
    return bytes(whole.data)


async def test_files_come_in_order_whatever_the_order_of_their_arrival(source: HttpSource, upstream: Upstream):
    urls = files(upstream, 10)
    for n in (0, 3, 4):
        upstream.add(f"/{n}", 1000, Stall())
    async with feed_of(source, *urls) as feed, asyncio.TaskGroup() as group:
        taking = group.create_task(asyncio.wait_for(take(feed, 0), 20))
        await upstream.wait_requests(10)
        for n in (4, 3, 0):
            upstream.release(f"/{n}")
        got = [await taking] + [await take(feed, n) for n in range(1, 10)]
    assert got == [upstream.content(f"/{n}") for n in range(10)]


async def test_files_are_asked_for_in_order(source: HttpSource, upstream: Upstream):
    async with feed_of(source, *files(upstream), ahead_items=1) as feed:
        for n in range(MANY):
            await take(feed, n)
    assert [request.path for request in upstream.requests] == [f"/{n}" for n in range(MANY)]


@pytest.mark.parametrize("ahead", [1, 2, 8])
async def test_no_more_requests_are_under_way_than_allowed(source: HttpSource, upstream: Upstream, ahead: int):
    async with feed_of(source, *files(upstream), ahead_items=ahead) as feed:
        for n in range(MANY):
            await take(feed, n)
    assert upstream.peak_requests == ahead
    assert len(upstream.requests) == MANY


@pytest.mark.parametrize("size", [100_000, SMALL_BYTES])
async def test_no_more_bytes_are_held_than_allowed(source: HttpSource, upstream: Upstream, size: int):
    urls = [upstream.add("/slow", size, Stall()), *files(upstream, MANY, size)]
    async with feed_of(source, *urls, ahead_bytes=4 * MIB) as feed:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed.take(0))
            await upstream.wait_for(lambda: upstream.active_requests == 1 and len(upstream.requests) > 2)
            for _ in range(5):
                await asyncio.sleep(0.05)
                assert sum(request.sent_bytes for request in upstream.requests) <= 4 * MIB
            upstream.release("/slow")
        assert [len(await take(feed, n)) for n in range(1, 20)] == [size] * 19


async def test_place_of_a_file_that_was_taken_is_free_for_others(source: HttpSource, upstream: Upstream):
    async with feed_of(source, *files(upstream, 10, SMALL_BYTES), ahead_bytes=2 * MIB) as feed:
        for n in range(10):
            assert len(await take(feed, n)) == SMALL_BYTES


@pytest.mark.parametrize("framing", Framing)
async def test_large_file_is_left_to_be_streamed(source: HttpSource, upstream: Upstream, framing: Framing):
    url = upstream.add("/large", Resource(b"x" * (SMALL_BYTES + 1), framing=framing))
    async with feed_of(source, url) as feed:
        assert await feed.take(0) is None
        async with feed.stream(0) as reader:
            assert sum([len(chunk) async for chunk in reader]) == SMALL_BYTES + 1


@pytest.mark.parametrize("framing", Framing)
async def test_file_of_just_the_size_is_small(source: HttpSource, upstream: Upstream, framing: Framing):
    url = upstream.add("/small", Resource(b"x" * SMALL_BYTES, framing=framing))
    async with feed_of(source, url) as feed:
        assert len(await take(feed, 0)) == SMALL_BYTES


async def test_what_is_known_of_a_file_comes_with_it(source: HttpSource, upstream: Upstream):
    url = upstream.add("/a", Resource(b"", modified=1_600_000_000.0, media_type="text/csv"))
    async with feed_of(source, url) as feed:
        whole = await feed.take(0)
    assert whole is not None
    assert (whole.data, whole.info.modified, whole.info.media_type) == (b"", 1_600_000_000.0, "text/csv")


async def test_file_that_fails_fails_alone(source: HttpSource, upstream: Upstream):
    urls = files(upstream, 5)
    upstream.add("/1", b"", Status(404))
    upstream.add("/3", Resource(b"x" * 1000, etag=None, modified=None), Cut(10))
    async with feed_of(source, *urls) as feed:
        outcomes = []
        for n in range(5):
            try:
                outcomes.append(await take(feed, n) == upstream.content(f"/{n}"))
            except (SourceGone, SourceFailed) as error:
                outcomes.append(error.reason)
    assert outcomes == [True, "gone", True, "failed", True]


async def test_ready_tells_whether_a_file_is_there(source: HttpSource, upstream: Upstream):
    first, second = upstream.add("/1", 10), upstream.add("/2", 10, Stall())
    async with feed_of(source, first, second) as feed:
        assert not feed.ready(0)
        await feed.take(0)
        await upstream.wait_requests(2)
        assert not feed.ready(1)
        upstream.release("/2")
        await feed.take(1)


async def test_leaving_early_closes_every_connection_and_begins_nothing(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", 100_000, Stall(1000)) for n in range(MANY)]
    before = asyncio.all_tasks()
    async with feed_of(source, *urls, ahead_items=8) as feed:
        taking = asyncio.create_task(feed.take(0))
        await upstream.wait_requests(8)
        taking.cancel()
        await asyncio.wait({taking})
    await upstream.wait_disconnected()
    left = {task for task in asyncio.all_tasks() - before if "Upstream" not in repr(task)}
    assert left == set()
    assert len(upstream.requests) <= 9  # the one that the cancelled file made room for


async def test_leaving_with_an_error_closes_every_connection(source: HttpSource, upstream: Upstream):
    urls = [upstream.add("/first", 10), *(upstream.add(f"/{n}", 10, Stall()) for n in range(MANY))]
    with contextlib.suppress(ZeroDivisionError):
        async with feed_of(source, *urls) as feed:
            await feed.take(0)
            await upstream.wait_requests(9)
            raise ZeroDivisionError
    await upstream.wait_disconnected()
    assert len(upstream.requests) == 9


async def test_failures_that_nobody_took_are_not_reported_by_the_loop(
    source: HttpSource, upstream: Upstream, caplog: pytest.LogCaptureFixture
):
    urls = [upstream.add("/first", 10), *(upstream.add(f"/{n}", b"", Status(404)) for n in range(7))]
    async with feed_of(source, *urls) as feed:
        await feed.take(0)
        async with asyncio.timeout(10):
            while not all(feed.ready(n) for n in range(1, 8)):
                await asyncio.sleep(0.001)
    del feed
    assert [record for record in caplog.records if "never retrieved" in record.getMessage()] == []


# Sizes that are known


class Numbered(Sequence[SourceRequest]):
    """A hundred thousand requests, made when they are looked at."""

    def __init__(self, url: str) -> None:
        self.url, self.made = url, 0

    def __len__(self) -> int:
        return 100_000

    @overload
    def __getitem__(self, index: int) -> SourceRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SourceRequest]: ...
    def __getitem__(self, index: int | slice) -> SourceRequest | Sequence[SourceRequest]:
        assert isinstance(index, int)
        self.made += 1
        return SourceRequest(f"{self.url}?{index}")


def sized_feed(source: HttpSource, requests: Sequence[SourceRequest], large: Callable[[int], bool]) -> Feed:
    return Feed(source, requests, lanes=Lanes(1000), limits=FeedLimits(), large=large)


async def test_file_known_to_be_large_is_not_opened_to_learn_it(source: HttpSource, upstream: Upstream):
    urls = [upstream.add("/large", 2 * MIB), upstream.add("/small", 10)]
    async with sized_feed(source, [SourceRequest(url) for url in urls], lambda index: index == 0) as feed:
        assert await feed.take(0) is None
        assert not feed.ready(0)
        assert await take(feed, 1) == upstream.content("/small")
        assert [request.path for request in upstream.requests] == ["/small"]
        async with feed.stream(0) as reader:
            assert sum([len(chunk) async for chunk in reader]) == 2 * MIB


async def test_small_files_behind_large_ones_are_fetched_while_those_are_streamed(
    source: HttpSource, upstream: Upstream
):
    urls = [upstream.add(f"/{n}", 2 * MIB if n % 2 == 0 else 10) for n in range(8)]
    async with sized_feed(source, [SourceRequest(url) for url in urls], lambda index: index % 2 == 0) as feed:
        assert await feed.take(0) is None
        await upstream.wait_requests(4)
        assert sorted(request.path for request in upstream.requests) == ["/1", "/3", "/5", "/7"]


async def test_requests_are_made_when_their_turn_is_near(source: HttpSource, upstream: Upstream):
    requests = Numbered(upstream.add("/a", 10))
    async with sized_feed(source, requests, lambda index: index != 2000) as feed:
        assert await feed.take(0) is None
        await asyncio.sleep(0)
        assert requests.made == 0
        assert await feed.take(1000) is None
        await upstream.wait_requests(1)
    assert [request.target for request in upstream.requests] == ["/a?2000"]


async def test_small_part_of_a_large_file_is_fetched_whole(source: HttpSource, upstream: Upstream):
    url = upstream.add("/large", Resource(b"x" * 3 * MIB, etag='"1"'))
    requests = [SourceRequest(url, offset=MIB, length=1000, validator='"1"')]
    async with sized_feed(source, requests, lambda _: False) as feed:
        assert len(await take(feed, 0)) == 1000


# Lanes


async def test_lane_is_shared_by_feeds(source: HttpSource, upstream: Upstream):
    lanes = Lanes(2)
    urls = files(upstream)

    async def read_all() -> None:
        async with feed_of(source, *urls, lanes=lanes) as feed:
            for n in range(MANY):
                await take(feed, n)

    await asyncio.gather(*(read_all() for _ in range(4)))
    assert upstream.peak_requests == 2


async def test_lane_is_held_while_a_large_file_is_streamed(source: HttpSource, upstream: Upstream):
    large, small = upstream.add("/large", 2 * MIB), upstream.add("/small", 10)
    lanes = Lanes(1)
    async with feed_of(source, large, lanes=lanes) as one, feed_of(source, small, lanes=lanes) as other:
        assert await one.take(0) is None
        async with one.stream(0):
            waiting = asyncio.create_task(other.take(0))
            await asyncio.wait({waiting}, timeout=0.2)
            assert not upstream.seen("/small")
        assert await waiting is not None


async def test_large_file_and_what_is_fetched_ahead_share_one_connection(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", 2 * MIB if n % 3 == 0 else 1000) for n in range(12)]
    async with feed_of(source, *urls, lanes=Lanes(1)) as feed, asyncio.timeout(20):
        for n in range(12):
            if await feed.take(n) is None:
                async with feed.stream(n) as reader:
                    assert sum([len(chunk) async for chunk in reader]) == 2 * MIB


async def test_lanes_are_forgotten_when_nobody_uses_them():
    lanes = Lanes(1)
    for n in range(100):
        async with lanes.enter(f"http://{n}.example:80"):
            pass
    waiting = asyncio.create_task(_enter(lanes, "a"))
    async with lanes.enter("a"):
        await asyncio.wait({waiting}, timeout=0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
    assert lanes._lanes == {}


async def _enter(lanes: Lanes, key: str) -> None:
    async with lanes.enter(key):
        pass
