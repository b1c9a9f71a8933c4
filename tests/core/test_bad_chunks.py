"""Chunked bodies whose chunks are none: aiohttp closes the connection and would leave the reader waiting for ever."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from gateway_core.errors import SourceFailed
from gateway_core.sources.base import SourceRequest
from gateway_core.sources.egress import ClientLimits, EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import BadChunk, Cut, Reset


@pytest.fixture
async def source() -> AsyncIterator[HttpSource]:
    async with GuardedClient(EgressPolicy(["127.0.0.0/8"]), limits=ClientLimits(stall_s=20)) as client:
        yield HttpSource(client)


async def read(source: HttpSource, url: str, *, turns: int = 0) -> int:
    """How many bytes come when the loop takes ``turns`` between two reads."""
    count = 0
    async with source.open(SourceRequest(url)) as stream:
        async for chunk in stream:
            count += len(chunk)
            for _ in range(turns):
                await asyncio.sleep(0)
    return count


@pytest.mark.parametrize("after", [0, 1, 65_536, 200_000, 1_000_000])
async def test_bad_chunk_ends_the_body_at_once(source: HttpSource, upstream: Upstream, after: int):
    url = upstream.add("/a", 1_000_000, BadChunk(after))
    async with asyncio.timeout(5):
        with pytest.raises(SourceFailed):
            await read(source, url)


@pytest.mark.parametrize("turns", range(8))
async def test_bad_chunk_is_told_in_whichever_turn_of_the_loop_it_is_read(
    source: HttpSource, upstream: Upstream, turns: int
):
    for after in (65_536, 100_000, 200_000):
        url = upstream.add(f"/{after}", 1_000_000, BadChunk(after))
        with pytest.raises(SourceFailed):
            await read(source, url, turns=turns)


async def test_connection_is_used_for_many_chunked_bodies(source: HttpSource, upstream: Upstream):
    url = upstream.add("/a", Resource(b"x" * 100_000, framing=Framing.CHUNKED))
    assert [await read(source, url) for _ in range(20)] == [100_000] * 20
    assert upstream.total_connections == 1


@pytest.mark.parametrize("fault", [Cut, Reset])
async def test_connection_that_is_lost_leaves_nothing_unseen(
    source: HttpSource, upstream: Upstream, caplog: pytest.LogCaptureFixture, fault: type
):
    chunked = Resource(b"x" * 100_000, framing=Framing.CHUNKED)
    assert await read(source, upstream.add("/good", chunked)) == 100_000
    with pytest.raises(SourceFailed):
        await read(source, upstream.add("/a", chunked, fault(50_000)))
    await upstream.wait_disconnected()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if "never retrieved" in record.getMessage()] == []
