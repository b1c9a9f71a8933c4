"""What every source must do, as tests that the author of one runs against it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import pytest

from gateway_core.auth.client import Client
from gateway_core.errors import SourceChanged, SourceError, SourceGone, SourceRefused
from gateway_core.sources.base import Source, SourceInfo, SourceRequest, SourceStream
from gateway_core.sources.registry import SourceRegistry
from gateway_core.sources.resume import ResumePolicy, ResumingReader

TIMEOUT_S = 10.0
DATA = bytes(range(256)) * 1000
CHANGED = DATA[::-1]


class SourceBed(Protocol):
    """A source under test, and the means to put things where it finds them.

    ``owner`` may use what was put, ``stranger`` may not; None where the source makes no difference between clients.
    """

    source: Source
    owner: Client
    stranger: Client | None

    async def put(self, name: str, data: bytes) -> str:
        """Make ``data`` available and return its URL; the same ``name`` again replaces it and keeps the URL."""

    async def remove(self, name: str) -> None:
        """Take away what was put as ``name``."""


@asynccontextmanager
async def opened(bed: SourceBed, request: SourceRequest) -> AsyncIterator[SourceStream]:
    """The stream, within 10 s."""
    async with asyncio.timeout(TIMEOUT_S), bed.source.open(request) as stream:
        yield stream


async def read(bed: SourceBed, request: SourceRequest) -> tuple[bytes, SourceInfo]:
    """All bytes from the offset on, none of them in an empty chunk, and what was said of them."""
    chunks: list[bytes] = []
    async with opened(bed, request) as stream:
        async for chunk in stream:
            assert chunk, "an empty chunk"
            chunks.append(chunk)
        return b"".join(chunks), stream.info


class SourceConformance:
    """Subclass it as ``TestSomething`` with a fixture ``bed`` that yields a ``SourceBed``, and pytest runs it all.

    Needs pytest-asyncio in auto mode.
    """

    async def test_owner_may_use_it(self, bed: SourceBed) -> None:
        """Whenever asked."""
        url = await bed.put("a", DATA)
        await bed.source.check(url, bed.owner)
        await bed.source.check(url, bed.owner)

    async def test_stranger_is_refused_at_every_door_or_at_none(self, bed: SourceBed) -> None:
        """Opening and looking check again: what was accepted once may be somebody else's by now."""
        stranger = bed.stranger or Client("0" * 32, "stranger")
        request = SourceRequest(await bed.put("a", DATA), client=stranger)
        if bed.stranger is None:
            await bed.source.check(request.url, stranger)
            assert (await read(bed, request))[0] == DATA
            return
        with pytest.raises(SourceRefused):
            await bed.source.check(request.url, stranger)
        with pytest.raises(SourceRefused):
            await bed.source.probe(request)
        with pytest.raises(SourceRefused):
            await read(bed, request)

    async def test_whole_content_is_read(self, bed: SourceBed) -> None:
        """Empty, small and large."""
        for name, data in (("empty", b""), ("small", b"x"), ("large", DATA)):
            got, info = await read(bed, await self.request(bed, name, data))
            assert got == data
            assert info.size_bytes in {None, len(data)}

    async def test_probe_says_what_opening_says(self, bed: SourceBed) -> None:
        """As far as it knows."""
        request = await self.request(bed, "a", DATA)
        probed = await bed.source.probe(request)
        _, info = await read(bed, request)
        assert probed.size_bytes in {None, len(DATA)}
        assert probed.validator == info.validator
        assert probed.strong == info.strong

    async def test_what_is_said_of_the_content_holds(self, bed: SourceBed) -> None:
        """A strong validator exists, a checksum is right, a name holds no folder."""
        _, info = await read(bed, await self.request(bed, "a", DATA))
        assert info.validator or not info.strong
        assert info.crc32 in {None, zlib.crc32(DATA)}
        assert "/" not in (info.name or "")

    async def test_rest_from_an_offset_is_the_rest_or_refused(self, bed: SourceBed) -> None:
        """Never other bytes; with ``ranges`` and a strong validator it is the rest. The size is the whole's."""
        request = await self.request(bed, "a", DATA)
        info = await bed.source.probe(request)
        for offset in (1, 1000, len(DATA) - 1):
            later = replace(request, offset=offset, validator=info.validator)
            try:
                got, said = await read(bed, later)
            except SourceChanged:
                assert not (info.ranges and info.strong), f"refused at offset {offset}"
            else:
                assert got == DATA[offset:]
                assert said.size_bytes in {None, len(DATA)}

    async def test_offset_at_the_end_gives_nothing_and_beyond_is_refused(self, bed: SourceBed) -> None:
        """There is no byte to be had at either."""
        request = await self.request(bed, "a", DATA)
        validator = (await bed.source.probe(request)).validator
        try:
            got, _ = await read(bed, replace(request, offset=len(DATA), validator=validator))
        except SourceChanged:
            got = b""
        assert got == b""
        with pytest.raises(SourceChanged):
            await read(bed, replace(request, offset=len(DATA) + 1, validator=validator))

    async def test_length_is_served_or_more(self, bed: SourceBed) -> None:
        """Right bytes from the offset on, all that were asked for as far as there are any. The size is the whole's."""
        request = await self.request(bed, "a", DATA)
        info = await bed.source.probe(request)
        for offset, length in ((0, 1), (0, 1000), (1000, 1), (1000, len(DATA))):
            part = replace(request, offset=offset, length=length, validator=info.validator)
            try:
                got, said = await read(bed, part)
            except SourceChanged:
                assert offset, "refused at the start"
                assert not (info.ranges and info.strong), f"refused at offset {offset}"
            else:
                assert got.startswith(DATA[offset : offset + length])
                assert DATA[offset:].startswith(got)
                assert said.size_bytes in {None, len(DATA)}

    async def test_changed_content_is_told_by_its_validator(self, bed: SourceBed) -> None:
        """From the start as well as from an offset, where it is strong: two versions never mix."""
        request = await self.request(bed, "a", DATA)
        info = await bed.source.probe(request)
        await bed.put("a", CHANGED)
        got, said = await read(bed, request)
        assert got == CHANGED
        if info.strong:
            assert said.validator != info.validator
            for offset, length in ((0, None), (1000, None), (0, 10), (1000, 10)):
                with pytest.raises(SourceChanged):
                    await read(bed, replace(request, offset=offset, length=length, validator=info.validator))

    async def test_what_is_gone_is_gone(self, bed: SourceBed) -> None:
        """Whether it was ever there or not."""
        request = await self.request(bed, "a", DATA)
        await bed.remove("a")
        with pytest.raises(SourceGone):
            await read(bed, request)
        with pytest.raises(SourceGone):
            await bed.source.probe(request)

    async def test_leaving_early_harms_nobody(self, bed: SourceBed) -> None:
        """A reader that goes away, is cancelled or fails leaves the source as it was."""
        request = await self.request(bed, "a", DATA)
        for _ in range(20):
            async with opened(bed, request) as stream:
                await anext(aiter(stream))
        with pytest.raises(ZeroDivisionError):
            async with opened(bed, request):
                raise ZeroDivisionError
        reading = asyncio.create_task(read(bed, request))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        assert (await read(bed, request))[0] == DATA

    async def test_readers_do_not_disturb_each_other(self, bed: SourceBed) -> None:
        """Of the same content and of another."""
        first = await self.request(bed, "a", DATA)
        second = await self.request(bed, "b", CHANGED)
        got = await asyncio.gather(*(read(bed, request) for request in (first, second) * 5))
        assert [data for data, _ in got] == [DATA, CHANGED] * 5

    async def test_lane_is_one_word_for_one_url(self, bed: SourceBed) -> None:
        """It is a key of limits, made without waiting."""
        url = await bed.put("a", DATA)
        assert bed.source.lane(url)
        assert bed.source.lane(url) == bed.source.lane(url)

    async def test_it_serves_through_the_registry_and_resumed(self, bed: SourceBed) -> None:
        """As archives read it."""
        request = await self.request(bed, "a", DATA)
        registry = SourceRegistry()
        registry.register(request.url.partition(":")[0].lower(), bed.source)
        for length in (None, 1000):
            part = replace(request, length=length)
            async with asyncio.timeout(TIMEOUT_S):
                async with ResumingReader(registry, part, policy=ResumePolicy(tries=1)) as reader:
                    assert b"".join([chunk async for chunk in reader]) == DATA[:length]

    async def test_nonsense_is_an_error_of_a_source(self, bed: SourceBed) -> None:
        """Callers send whatever they like; nothing else than a SourceError may come of it."""
        good = await bed.put("a", DATA)
        scheme = good.partition(":")[0]
        bad = [f"{scheme}:{rest}" for rest in ("", "//", "//[", "///../..", "//" + "x" * 9000, "//a b")]
        for url in [*bad, f"{good}/%00", f"{good}%zz", f"{good}ä"]:
            with pytest.raises(SourceError):
                await read(bed, SourceRequest(url, client=bed.owner))

    async def request(self, bed: SourceBed, name: str, data: bytes) -> SourceRequest:
        """Put ``data`` and ask for it as its owner."""
        return SourceRequest(await bed.put(name, data), client=bed.owner)
