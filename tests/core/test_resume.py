"""Resuming over any source: a made one that breaks where it is told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_core.auth.client import Client
from gateway_core.errors import SourceChanged, SourceError, SourceFailed, SourceGone, SourceRefused, SourceStalled
from gateway_core.sources.base import Source, SourceInfo, SourceRequest, SourceStream
from gateway_core.sources.resume import ResumePolicy, ResumingReader

DATA = random.Random(1).randbytes(1000)
FAST = ResumePolicy(tries=3, first_s=0.001, longest_s=0.001)
INFO = SourceInfo(size_bytes=len(DATA), validator='"v"', strong=True, ranges=True)


@dataclass
class Breaking:
    """A source of ``DATA``; each opening does the next of ``plan``: an error at once, or bytes and then an error."""

    plan: list[SourceError | tuple[int, SourceError]]
    infos: list[SourceInfo] = field(default_factory=lambda: [INFO])
    opened: list[SourceRequest] = field(default_factory=list)
    running: int = 0

    async def check(self, url: str, client: Client) -> None:
        """Everybody may."""

    def lane(self, url: str) -> str:
        return "made:"

    async def probe(self, request: SourceRequest) -> SourceInfo:
        return self.infos[0]

    @asynccontextmanager
    async def open(self, request: SourceRequest) -> AsyncIterator[SourceStream]:
        self.opened.append(request)
        step = self.plan.pop(0) if self.plan else (len(DATA), None)
        if isinstance(step, SourceError):
            raise step
        self.running += 1
        try:
            yield Stream(self.infos[min(len(self.opened), len(self.infos)) - 1], request.offset, *step)
        finally:
            self.running -= 1


@dataclass
class Stream:
    info: SourceInfo
    offset: int
    count: int
    error: SourceError | None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        part = DATA[self.offset : self.offset + self.count]
        for at in range(0, len(part), 7):
            yield part[at : at + 7]
        if self.error is not None:
            raise self.error


async def read(source: Source, request: SourceRequest | None = None) -> tuple[bytes, ResumingReader]:
    async with ResumingReader(source, request or SourceRequest("made:x"), policy=FAST) as reader:
        return b"".join([chunk async for chunk in reader]), reader


async def test_unbroken_stream_is_opened_once() -> None:
    source = Breaking([])
    data, reader = await read(source)
    assert (data, reader.info, reader.resumed, len(source.opened)) == (DATA, INFO, 0, 1)


async def test_break_is_resumed_at_the_missing_byte_of_the_same_version() -> None:
    source = Breaking([(100, SourceFailed("reset")), (50, SourceStalled("silent"))])
    data, reader = await read(source, SourceRequest("made:x", offset=10))
    assert (data, reader.resumed) == (DATA[10:], 2)
    assert [(request.offset, request.validator) for request in source.opened] == [
        (10, None),
        (110, '"v"'),
        (160, '"v"'),
    ]


async def test_what_a_source_sends_beyond_the_length_is_cut() -> None:
    source = Breaking([])
    data, reader = await read(source, SourceRequest("made:x", offset=10, length=24))
    assert (data, reader.info.size_bytes, len(source.opened)) == (DATA[10:34], len(DATA), 1)


async def test_break_is_resumed_with_what_is_missing_of_the_length() -> None:
    source = Breaking([(100, SourceFailed("reset")), (50, SourceStalled("silent"))])
    data, reader = await read(source, SourceRequest("made:x", offset=10, length=200))
    assert (data, reader.resumed) == (DATA[10:210], 2)
    assert [(request.offset, request.length) for request in source.opened] == [(10, 200), (110, 100), (160, 50)]


async def test_break_after_the_length_is_nobodys_concern() -> None:
    source = Breaking([(49, SourceFailed("reset"))])
    data, reader = await read(source, SourceRequest("made:x", length=49))
    assert (data, reader.resumed) == (DATA[:49], 0)


async def test_client_and_headers_are_the_same_on_each_opening() -> None:
    source = Breaking([(100, SourceFailed("reset"))])
    request = SourceRequest("made:x", client=Client("1" * 32, "a"), headers={"X": "1"})
    await read(source, request)
    assert [(again.client, again.headers) for again in source.opened] == [(request.client, request.headers)] * 2


async def test_failing_openings_between_count_as_tries() -> None:
    source = Breaking([(100, SourceFailed("reset")), SourceGone("status 503"), SourceFailed("connection failed")])
    data, reader = await read(source)
    assert (data, reader.resumed, len(source.opened)) == (DATA, 1, 4)


async def test_last_error_is_raised_when_the_tries_are_used_up() -> None:
    source = Breaking([(100, SourceFailed("first")), (1, SourceFailed("2")), SourceGone("3"), SourceStalled("last")])
    with pytest.raises(SourceStalled, match="last"):
        await read(source)
    assert (len(source.opened), source.running) == (4, 0)


async def test_tries_are_counted_over_the_whole_stream() -> None:
    source = Breaking([(10, SourceFailed(str(number))) for number in range(9)])
    with pytest.raises(SourceFailed, match="3"):
        await read(source)
    assert len(source.opened) == 4


@pytest.mark.parametrize("final", [SourceChanged("another version"), SourceRefused("no")])
@pytest.mark.parametrize("when", ["reading", "opening"])
async def test_change_and_refusal_are_final(final: SourceError, when: str) -> None:
    source = Breaking([(5, final)] if when == "reading" else [(5, SourceFailed("reset")), final])
    with pytest.raises(type(final)):
        await read(source)
    assert (len(source.opened), source.running) == (1 if when == "reading" else 2, 0)


@pytest.mark.parametrize("info", [SourceInfo(size_bytes=1000), SourceInfo(validator="Mon", strong=False)])
async def test_nothing_is_resumed_that_cannot_be_proven_the_same(info: SourceInfo) -> None:
    source = Breaking([(5, SourceFailed("reset"))], infos=[info])
    with pytest.raises(SourceFailed, match="reset"):
        await read(source)
    assert len(source.opened) == 1


async def test_other_size_on_resume_is_a_change() -> None:
    other = SourceInfo(size_bytes=999, validator='"v"', strong=True)
    source = Breaking([(5, SourceFailed("reset"))], infos=[INFO, other])
    with pytest.raises(SourceChanged):
        await read(source)
    assert source.running == 0


async def test_first_opening_is_not_repeated() -> None:
    source = Breaking([SourceGone("status 503")])
    with pytest.raises(SourceGone):
        await read(source)
    assert len(source.opened) == 1


async def test_leaving_early_closes_the_source() -> None:
    source = Breaking([(100, SourceFailed("reset"))])
    async with ResumingReader(source, SourceRequest("made:x"), policy=FAST) as reader:
        await anext(reader)
        assert source.running == 1
    assert source.running == 0


async def test_cancellation_during_a_pause_ends_it() -> None:
    source = Breaking([(5, SourceFailed("reset"))])

    async def reading() -> None:
        async with ResumingReader(source, SourceRequest("made:x"), policy=ResumePolicy(first_s=60, longest_s=60)) as it:
            async for _ in it:
                pass

    task = asyncio.create_task(reading())
    while not source.opened or source.running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(source.opened) == 1


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=5),
    offset=st.integers(0, 999),
    length=st.none() | st.integers(1, 1200),
)
def test_any_cuts_give_the_same_bytes(cuts: list[int], offset: int, length: int | None) -> None:
    source = Breaking([(cut, SourceFailed("cut")) for cut in cuts])
    policy = ResumePolicy(tries=5, first_s=0)

    async def run() -> bytes:
        request = SourceRequest("made:x", offset=offset, length=length)
        async with ResumingReader(source, request, policy=policy) as reader:
            return b"".join([chunk async for chunk in reader])

    assert asyncio.run(run()) == DATA[offset:][:length]


@settings(deadline=None)
@given(st.integers(0, 100))
def test_pause_grows_to_its_limit_and_is_never_none(attempt: int) -> None:
    policy = ResumePolicy(first_s=0.2, longest_s=5)
    assert min(5, 0.2 * 2**attempt) / 2 <= policy.pause_s(attempt) <= min(5, 0.2 * 2**attempt)
