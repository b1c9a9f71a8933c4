"""Asking many sources at once: all of them, soon, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from gateway_archive.lanes import Lanes
from gateway_archive.probing import PARALLEL, Prober, lasting
from gateway_core import (
    Client,
    Source,
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceGone,
    SourceInfo,
    SourceRefused,
    SourceRequest,
    SourceStalled,
    SourceStream,
    StorageError,
)
from gateway_core.sources.egress import EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Resource
from gateway_core.testing.upstream_behaviour import Raw, Stall, Status


@pytest.fixture
async def source() -> AsyncIterator[HttpSource]:
    async with GuardedClient(EgressPolicy(["127.0.0.0/8"])) as client:
        yield HttpSource(client)


def prober_of(source: Source, *, places: int = 1000, timeout_s: float = 20) -> Prober:
    return Prober(source, Lanes(places), timeout_s=timeout_s)


def requests(*urls: str) -> list[SourceRequest]:
    return [SourceRequest(url) for url in urls]


def tasks_left(before: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() - before if "Upstream" not in repr(task)}


async def test_answers_stand_in_the_order_of_the_requests(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", n, *([Stall(seconds=0.05)] if n % 7 == 1 else [])) for n in range(100)]
    answers = await prober_of(source).ask(requests(*urls))
    assert [isinstance(answer, SourceInfo) and answer.size_bytes for answer in answers] == list(range(100))


async def test_no_requests_have_no_answers(source: HttpSource):
    assert await prober_of(source).ask([]) == []


async def test_errors_stand_among_the_answers(source: HttpSource, upstream: Upstream):
    urls = [upstream.add("/gone", b"", Status(404)), upstream.add("/a", 5), "ftp://x/", "http://10.1.2.3/"]
    kinds = [type(answer) for answer in await prober_of(source).ask(requests(*urls))]
    assert kinds == [SourceGone, SourceInfo, SourceRefused, SourceRefused]


async def test_what_broke_once_is_asked_again(source: HttpSource, upstream: Upstream):
    (answer,) = await prober_of(source).ask(requests(upstream.add("/a", 5, Raw(b"nonsense", times=1))))
    assert isinstance(answer, SourceInfo)
    assert answer.size_bytes == 5


async def test_what_broke_twice_has_failed(source: HttpSource, upstream: Upstream):
    (answer,) = await prober_of(source).ask(requests(upstream.add("/a", 5, Raw(b"nonsense"))))
    assert isinstance(answer, SourceFailed)
    assert len(upstream.requests) == 2


async def test_no_more_are_asked_at_once_than_bounds_allow(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", 1, Stall()) for n in range(PARALLEL + 20)]
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(prober_of(source).ask(requests(*urls)))
        await upstream.wait_requests(PARALLEL)
        for n in range(len(urls)):
            upstream.release(f"/{n}")
    assert all(isinstance(answer, SourceInfo) for answer in asking.result())
    assert upstream.peak_requests == PARALLEL


async def test_host_that_is_silent_holds_up_no_other(source: HttpSource, upstream: Upstream):
    async with Upstream() as silent:
        stuck = [silent.add(f"/{n}", 1, Stall()) for n in range(2 * PARALLEL)]
        urls = [upstream.add(f"/{n}", 1) for n in range(100)]
        answers = await prober_of(source, places=8, timeout_s=1).ask(requests(*stuck, *urls))
        assert len(silent.requests) == 8
    assert answers[: len(stuck)] == [None] * len(stuck)
    assert all(isinstance(answer, SourceInfo) for answer in answers[len(stuck) :])


async def test_compact_answers_tell_what_an_archive_needs(source: HttpSource, upstream: Upstream):
    strong = upstream.add("/strong", Resource(b"12345", etag='"1"', modified=1_600_000_000.0))
    weak = upstream.add("/weak", Resource(b"12345", etag='W/"1"', modified=None))
    urls = [strong, weak, upstream.add("/gone", b"", Status(404)), upstream.add("/silent", 5, Stall())]
    told, poor, gone, silent = await prober_of(source, timeout_s=0.5).ask(requests(*urls), compact=True)
    assert told == SourceInfo(5, '"1"', strong=True, modified=1_600_000_000.0)
    assert poor == SourceInfo(5)
    assert isinstance(gone, SourceGone)
    assert gone.upstream_status == 404
    assert silent is None


async def test_those_that_do_not_answer_in_time_have_no_answer(source: HttpSource, upstream: Upstream):
    before = asyncio.all_tasks()
    urls = [upstream.add("/silent", 5, Stall()), upstream.add("/a", 5)]
    silent, answered = await prober_of(source, timeout_s=0.3).ask(requests(*urls))
    assert silent is None
    assert isinstance(answered, SourceInfo)
    await upstream.wait_idle()
    assert tasks_left(before) == set()


async def test_pace_that_is_too_slow_ends_it_early(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", 1, Stall(seconds=0.2)) for n in range(250)]
    began = time.monotonic()
    asking = prober_of(source, places=2, timeout_s=20)
    answers = await asking.ask(requests(*urls), needed=lambda _, answer: answer is not None)
    assert time.monotonic() - began < 5
    assert answers[-1] is None


async def test_pace_does_not_matter_where_each_answer_counts(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", 1, Stall(seconds=0.2)) for n in range(100)]
    began = time.monotonic()
    answers = await prober_of(source, places=1, timeout_s=1.2).ask(requests(*urls))
    assert time.monotonic() - began >= 1.15
    assert isinstance(answers[0], SourceInfo)


async def test_slow_start_of_few_is_waited_for(source: HttpSource, upstream: Upstream):
    urls = [upstream.add(f"/{n}", 1, Stall(seconds=1.2)) for n in range(20)]
    answers = await prober_of(source).ask(requests(*urls), needed=lambda _, answer: answer is not None)
    assert all(isinstance(answer, SourceInfo) for answer in answers)


async def test_answer_that_will_not_do_ends_it_at_once(source: HttpSource, upstream: Upstream):
    urls = [upstream.add("/bad", b"", Status(503)), *(upstream.add(f"/{n}", 1, Stall()) for n in range(100))]
    asking = prober_of(source).ask(requests(*urls), needed=lambda _, answer: isinstance(answer, SourceInfo))
    answers = await asyncio.wait_for(asking, 5)
    assert isinstance(answers[0], SourceGone)
    assert set(answers[1:]) == {None}
    await upstream.wait_idle()


async def test_cancelling_leaves_no_connection_and_no_task(source: HttpSource, upstream: Upstream):
    before = asyncio.all_tasks()
    urls = [upstream.add(f"/{n}", 1, Stall()) for n in range(100)]
    asking = asyncio.create_task(prober_of(source).ask(requests(*urls)))
    await upstream.wait_requests(PARALLEL)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await upstream.wait_disconnected()
    assert tasks_left(before) == set()


class Members:
    """A source of one owner whose storage may be broken; counts who was let in."""

    def __init__(self, owner: Client, *, broken: bool = False) -> None:
        self.owner, self.broken, self.probed = owner, broken, 0

    async def check(self, url: str, client: Client) -> None:
        if client != self.owner:
            raise SourceRefused(f"{url} is not yours")

    async def probe(self, request: SourceRequest) -> SourceInfo:
        if self.broken:
            raise StorageError("no disk")
        self.probed += 1
        return SourceInfo(size_bytes=len(request.url))

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[SourceStream]:
        raise SourceFailed(f"nothing of {request.url} is read")

    def lane(self, url: str) -> str:
        return url.partition(":")[0]


async def test_owner_is_checked_before_anything_is_asked():
    owner = Client.ANONYMOUS
    members = Members(owner)
    stranger = Client(id="f" * 32, name="stranger")
    asked = [SourceRequest("own:a", client=stranger), SourceRequest("own:abc", client=owner)]
    refused, answered = await prober_of(members).ask(asked)
    assert isinstance(refused, SourceRefused)
    assert answered == SourceInfo(size_bytes=7)
    assert members.probed == 1


async def test_what_is_no_fault_of_a_source_is_raised():
    broken = Members(Client.ANONYMOUS, broken=True)
    with pytest.raises(StorageError):
        await prober_of(broken).ask(requests(*["own:a"] * 100))


@pytest.mark.parametrize(
    "error",
    [
        SourceGone("status 404", upstream_status=404),
        SourceGone("status 403", upstream_status=403),
        SourceGone("no such job"),
        SourceRefused(),
        SourceFailed(),
        SourceStalled(),
        SourceChanged(),
    ],
)
def test_what_lasts_is_not_worth_asking_again(error: SourceError):
    assert lasting(error)


@pytest.mark.parametrize("status", [301, 408, 425, 429, 500, 502, 503, 504])
def test_refusal_for_now_does_not_last(status: int):
    assert not lasting(SourceGone(f"status {status}", upstream_status=status))
