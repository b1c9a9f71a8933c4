"""From items to the bytes of an archive, without a server: when bytes leave, and what a failure does to them."""

from __future__ import annotations

import asyncio
import gc
import io
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway_archive.feed import Feed, FeedLimits
from gateway_archive.lanes import Lanes
from gateway_archive.packing import Aborted, Packer, PackPolicy
from gateway_archive.settings import ArchiveSettings
from gateway_archive.tickets import OnError, Orders
from gateway_archive.zip_writer import Piece
from gateway_core import SourceError, SourceRequest, UpstreamFailed
from gateway_core.sources.egress import EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Resource
from gateway_core.testing.upstream_behaviour import Cut, Stall, Status
from tests.archive.stand import MIB, REPORT, entries_of, reasons

CREATED = 1_700_000_000.0


@dataclass
class Written:
    """What was written, a call at a time."""

    calls: list[bytes] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, pieces: Sequence[Piece]) -> None:
        self.calls.append(b"".join(pieces))
        self.begun.set()

    @property
    def archive(self) -> bytes:
        return b"".join(self.calls)


@pytest.fixture
async def source() -> AsyncIterator[HttpSource]:
    async with GuardedClient(EgressPolicy(["127.0.0.0/8"])) as client:
        yield HttpSource(client)


@asynccontextmanager
async def packer(
    source: HttpSource,
    written: Any,
    items: Sequence[str | Mapping[str, Any]],
    *,
    on_error: OnError = OnError.REPORT,
    max_total_bytes: int = 0,
) -> AsyncIterator[Packer]:
    order = Orders(ArchiveSettings()).read({"items": list(items)})
    requests = [SourceRequest(item.url) for item in order.items if not item.is_folder]
    policy = PackPolicy(on_error, max_total_bytes, CREATED)
    async with Feed(source, requests, lanes=Lanes(100), limits=FeedLimits(resume_tries=0)) as feed:
        yield Packer(order.items, feed, written, policy=policy)


async def test_entries_stand_in_the_order_of_the_items(source: HttpSource, upstream: Upstream):
    written = Written()
    sizes = {"a": 10, "b": 3 * MIB, "c": 0, "d": 200_000, "e": 1}
    items = [upstream.add(f"/{name}", size) for name, size in sizes.items()]
    async with packer(source, written, [*items[:2], {"path": "folder/"}, *items[2:]]) as packing:
        tally = await packing.run()
    truth = {name: upstream.content(f"/{name}") for name in sizes}
    assert list(entries_of(written.archive)) == ["a", "b", "folder/", "c", "d", "e"]
    assert entries_of(written.archive) == {**truth, "folder/": b""}
    assert (tally.packed, tally.source_bytes, tally.failures) == (5, sum(sizes.values()), [])


async def test_first_file_leaves_while_the_others_are_waited_for(source: HttpSource, upstream: Upstream):
    written = Written()
    items = [upstream.add("/first", 100), *(upstream.add(f"/{n}", 100, Stall()) for n in range(1999))]
    async with packer(source, written, items) as packing:
        running = asyncio.create_task(packing.run())
        await asyncio.wait_for(written.begun.wait(), 10)
        assert upstream.content("/first") in written.archive
        running.cancel()
        await asyncio.wait({running})


async def test_large_file_leaves_as_it_comes(source: HttpSource, upstream: Upstream):
    written = Written()
    async with packer(source, written, [upstream.add("/large", 3 * MIB, Stall(1000))]) as packing:
        running = asyncio.create_task(packing.run())
        await asyncio.wait_for(written.begun.wait(), 10)
        assert upstream.content("/large")[:1000] in written.archive
        upstream.release("/large")
        await running
    assert entries_of(written.archive) == {"large": upstream.content("/large")}


async def test_small_files_that_are_there_leave_together(source: HttpSource, upstream: Upstream):
    written = Written()
    slow = upstream.add("/slow", 100, Stall())
    async with packer(source, written, [slow, *(upstream.add(f"/{n}", 100) for n in range(100))]) as packing:
        running = asyncio.create_task(packing.run())
        await upstream.wait_requests(101)
        await upstream.wait_for(lambda: upstream.active_requests == 1)
        upstream.release("/slow")
        await running
    assert len(entries_of(written.archive)) == 101
    assert len(written.calls) < 20


async def test_nothing_leaves_before_the_first_file_is_there(source: HttpSource, upstream: Upstream):
    written = Written()
    items = [{"path": "folder/"}, upstream.add("/1", b"", Status(404)), upstream.add("/2", 10, Stall())]
    async with packer(source, written, items) as packing:
        running = asyncio.create_task(packing.run())
        await upstream.wait_requests(2)
        assert written.calls == []
        upstream.release("/2")
        await running
    assert list(entries_of(written.archive)) == ["folder/", "2", REPORT]


@pytest.mark.parametrize("mode", OnError)
async def test_when_nothing_can_be_had_nothing_is_written(source: HttpSource, upstream: Upstream, mode: OnError):
    written = Written()
    items = [upstream.add(f"/{n}", b"", Status(404)) for n in range(3)]
    async with packer(source, written, items, on_error=mode) as packing:
        with pytest.raises(UpstreamFailed) as failed:
            await packing.run()
    assert written.calls == []
    assert len(failed.value.reasons) == (1 if mode is OnError.ABORT else 3)


async def test_folders_alone_are_an_archive(source: HttpSource):
    written = Written()
    async with packer(source, written, [{"path": "a/"}, {"path": "a/b/"}, {"path": "a/"}]) as packing:
        await packing.run()
    assert list(entries_of(written.archive)) == ["a/", "a/b/"]


@pytest.mark.parametrize("size", [200_000, 2 * MIB])
async def test_abort_raises_after_the_first_byte_and_writes_no_end(source: HttpSource, upstream: Upstream, size: int):
    written = Written()
    good = upstream.add("/good", 2 * MIB)
    bad = upstream.add("/bad", Resource(b"x" * size, etag=None, modified=None), Cut(size // 2))
    async with packer(source, written, [good, bad], on_error=OnError.ABORT) as packing:
        with pytest.raises(Aborted, match="bad: failed: broke off"):
            await packing.run()
    assert written.calls
    assert b"PK\x05\x06" not in written.archive


async def test_failed_file_is_left_out_of_the_directory_but_closed_well_formed(source: HttpSource, upstream: Upstream):
    written = Written()
    bad = upstream.add("/bad", Resource(b"x" * 3 * MIB, etag=None, modified=None), Cut(2 * MIB))
    async with packer(source, written, [bad, upstream.add("/good", b"good")]) as packing:
        await packing.run()
    assert written.archive.startswith(b"PK\x03\x04")
    with zipfile.ZipFile(io.BytesIO(written.archive)) as archive:
        assert archive.namelist() == ["good", REPORT]
        assert archive.getinfo("good").header_offset > 2 * MIB


async def test_report_is_of_the_ticket_s_date_and_not_of_today(source: HttpSource, upstream: Upstream):
    written = Written()
    items = [upstream.add("/good", b"good"), upstream.add("/bad", b"", Status(404))]
    async with packer(source, written, items) as packing:
        await packing.run()
    with zipfile.ZipFile(io.BytesIO(written.archive)) as archive:
        assert archive.getinfo(REPORT).date_time == (2023, 11, 14, 22, 13, 20)


async def test_limit_of_bytes_ends_a_file_and_not_the_archive(source: HttpSource, upstream: Upstream):
    written = Written()
    items = [upstream.add("/1", 10), upstream.add("/2", 3 * MIB), upstream.add("/3", 10)]
    async with packer(source, written, items, max_total_bytes=2 * MIB) as packing:
        await packing.run()
    entries = entries_of(written.archive)
    assert entries.keys() == {"1", REPORT}
    assert set(reasons(entries[REPORT]).values()) == {f"failed: the archive's limit of {2 * MIB} bytes is reached"}


async def test_failures_are_kept_without_the_bytes_that_had_come(source: HttpSource, upstream: Upstream):
    written = Written()
    items = [upstream.add(f"/{n}", Resource(b"x" * 900_000, etag=None, modified=None), Cut(800_000)) for n in range(40)]
    others = errors()
    async with packer(source, written, [upstream.add("/good", 10), *items]) as packing:
        tally = await packing.run()
        kept = errors() - others
    assert len(tally.failures) == 40
    assert kept <= FeedLimits().ahead_items


def errors() -> int:
    """How many are held, by whomever."""
    gc.collect()
    return sum(isinstance(found, SourceError) for found in gc.get_objects())


async def test_writer_that_fails_is_no_failure_of_a_source(source: HttpSource, upstream: Upstream):
    async def broken(_pieces: Sequence[Piece]) -> None:
        raise ConnectionResetError

    async with packer(source, broken, [upstream.add("/1", 10), upstream.add("/2", 3 * MIB)]) as packing:
        with pytest.raises(ConnectionResetError):
            await packing.run()
        assert packing.tally.failures == []


async def test_archive_of_the_same_files_is_the_same(source: HttpSource, upstream: Upstream):
    items = [upstream.add(f"/{n}", size) for n, size in enumerate([0, 10, 3 * MIB, 100_000])]
    archives = []
    for _ in range(2):
        written = Written()
        async with packer(source, written, items) as packing:
            await packing.run()
        archives.append(written.archive)
    assert archives[0] == archives[1]
