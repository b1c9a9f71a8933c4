"""Clients that go away, or stop taking what they asked for: everything behind them ends soon and leaves nothing."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest
from aiohttp import ClientPayloadError
from structlog.testing import capture_logs

from gateway_core.testing.upstream_behaviour import Endless, Stall
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, Stand, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON_S = 15
"""Long for a busy machine, and short of the 30 s and more after which silence alone would end things."""


async def metric(stand: Stand, name: str) -> float:
    """Value of the metric ``name`` with its labels, 0 where there is none yet."""
    text = (await stand.get("/metrics")).body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def active_downloads(stand: Stand) -> float:
    return await metric(stand, "gateway_archive_active_downloads")


async def leave_during(stand: Stand, ticket: str, *, after: int = 1000) -> None:
    """Read a little, then close the connection."""
    async with stand.downloading(ticket) as answer:
        await answer.content.readexactly(after)


async def nothing_left(stand: Stand, path: str) -> None:
    """Wait until no upstream sends anything and no download is under way."""
    await stand.upstream.wait_for(
        lambda: all(request.complete or request.sent_bytes for request in stand.upstream.seen(path)), timeout_s=SOON_S
    )
    await stand.upstream.wait_idle(timeout_s=SOON_S)

    async def none_active() -> bool:
        return await active_downloads(stand) == 0

    await until(none_active, timeout_s=SOON_S)


@pytest.mark.parametrize("kind", ["zip", "stream"])
async def test_upstream_is_closed_when_the_client_leaves_a_large_file(stand: Stand, kind: str):
    ticket = await stand.ticket(stand.add("/endless", 1, Endless()), type=kind)
    await leave_during(stand, ticket)
    await nothing_left(stand, "/endless")


async def test_upstream_is_closed_when_the_client_leaves_a_silent_file(make_stand: MakeStand):
    async with make_stand({"stall_timeout_s": 60}) as stand:
        urls = [stand.add("/good", 200_000), stand.add("/silent", 3 * MIB, Stall(2 * MIB))]
        await leave_during(stand, await stand.ticket(*urls))
        await nothing_left(stand, "/silent")
        await stand.upstream.wait_disconnected(timeout_s=20)


async def test_upstream_is_closed_when_the_client_leaves_before_the_first_byte(make_stand: MakeStand):
    async with make_stand({"stall_timeout_s": 60}) as stand:
        ticket = await stand.ticket(*[stand.add(f"/{n}", 10, Stall()) for n in range(50)])
        downloading = asyncio.create_task(stand.download(ticket))
        await stand.upstream.wait_requests(8)
        downloading.cancel()
        await stand.upstream.wait_disconnected(timeout_s=SOON_S)
        assert len(stand.upstream.requests) <= 9


async def test_nothing_is_fetched_for_a_client_that_has_left(make_stand: MakeStand):
    async with make_stand({"stall_timeout_s": 60}) as stand:
        first, slow = stand.add("/first", 200_000), stand.add("/slow", 200_000, Stall(1))
        ticket = await stand.ticket(first, slow, *[stand.add(f"/later/{n}", 500_000) for n in range(300)])
        await leave_during(stand, ticket)
        await stand.upstream.wait_idle(timeout_s=SOON_S)
        asked = len(stand.upstream.requests)
        await stand.fetch(stand.add("/another", 10))
        assert len(stand.upstream.requests) == asked + 1
        assert asked < 100


async def test_client_that_leaves_is_counted_and_is_no_error(make_stand: MakeStand):
    async with make_stand({}) as stand:
        gone = 'gateway_clients_gone_total{route="archive:download"}'
        aborted = 'gateway_archive_downloads_total{outcome="aborted"}'
        before = [await metric(stand, gone), await metric(stand, aborted)]
        ticket = await stand.ticket(*[stand.add(f"/{n}", 300_000) for n in range(200)])
        with capture_logs() as logs:
            await leave_during(stand, ticket)

            async def counted() -> bool:
                return [await metric(stand, gone), await metric(stand, aborted)] == [before[0] + 1, before[1] + 1]

            await until(counted, timeout_s=SOON_S)
        assert {line["log_level"] for line in logs} == {"info"}
        assert await metric(stand, 'gateway_errors_total{route="archive:download"}') == 0


async def test_complete_download_is_counted_as_such(stand: Stand):
    name = 'gateway_archive_downloads_total{outcome="completed"}'
    before = await metric(stand, name)
    await stand.fetch(stand.add("/a", 10))
    await stand.fetch(stand.add("/a", 10), type="stream")

    async def counted() -> bool:
        return await metric(stand, name) == before + 2

    await until(counted)


async def test_stalled_client_is_dropped(make_stand: MakeStand):
    async with make_stand({}, write_stall_s=0.5) as stand:
        ticket = await stand.ticket(stand.add("/big", 256 * MIB))
        async with stand.downloading(ticket) as answer:
            await answer.content.readexactly(1000)  # and no more
            await stand.upstream.wait_for(
                lambda: stand.upstream.requests and not stand.upstream.active_requests, timeout_s=20
            )
            assert not stand.upstream.seen("/big")[-1].complete
            with suppress(ClientPayloadError):
                assert len(await answer.content.read()) < 256 * MIB

        async def none_active() -> bool:
            return await active_downloads(stand) == 0

        await until(none_active, timeout_s=SOON_S)


async def test_client_that_is_slow_but_steady_gets_everything(make_stand: MakeStand):
    async with make_stand({}, write_stall_s=1.5) as stand:
        size = 24 * MIB
        ticket = await stand.ticket(stand.add("/big", size), type="stream")
        got = 0
        async with stand.downloading(ticket) as answer:
            while chunk := await answer.content.read(MIB // 2):
                got += len(chunk)
                await asyncio.sleep(0.05)
        assert got == size


async def test_hundred_broken_downloads_leave_nothing(make_stand: MakeStand):
    async with make_stand({"max_active_downloads": 200}) as stand:
        small = [stand.add(f"/{n}", 30_000) for n in range(40)]
        large = stand.add("/large", 64 * MIB)
        tickets = [
            await stand.ticket(*small, large),
            await stand.ticket(large, *small),
            await stand.ticket(large, type="stream"),
        ]
        await stand.fetch(stand.add("/warm", 10))
        tasks = len(asyncio.all_tasks())

        async def breaks_off(number: int) -> None:
            await leave_during(stand, tickets[number % 3], after=1 + 10_000 * (number % 7))

        for start in range(0, 100, 20):
            await asyncio.gather(*(breaks_off(start + n) for n in range(20)))
        await stand.upstream.wait_idle(timeout_s=SOON_S)

        async def as_before() -> bool:
            idle = await active_downloads(stand) == 0
            return idle and len(asyncio.all_tasks()) <= tasks + stand.upstream.open_connections + 2

        await until(as_before, timeout_s=SOON_S)
        assert stand.downloads.lanes._lanes == {}
        assert (await stand.download(tickets[0])).status == 200
