"""Limits: each refuses with a clear 4xx, or with a reason in the report, and none lets memory grow."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientPayloadError

from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Framing
from gateway_core.testing.upstream_behaviour import Endless, Stall
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, REPORT, Answer, Stand, entries_of, reasons

pytestmark = pytest.mark.asyncio(loop_scope="module")


def told(answer: Answer, field: str) -> str:
    """The one message about the field of a 422."""
    assert answer.status == 422, answer.body
    (message,) = answer.errors["json"][field]
    return message


# Tickets


async def test_items_are_limited(make_stand: MakeStand):
    async with make_stand({"max_items": 3}) as stand:
        url = stand.add("/a", 1)
        assert (await stand.post("/ticket/generate", {"items": [url] * 3})).status == 200
        answer = await stand.post("/ticket/generate", {"items": [url] * 4})
        assert told(answer, "items") == "4 items; the limit is 3."


async def test_ten_thousand_items_are_a_ticket(stand: Stand):
    url = stand.add("/a", 1)
    answer = await stand.post("/ticket/generate", {"items": [f"{url}?{n}" for n in range(10_000)]})
    assert answer.status == 200
    answer = await stand.post("/ticket/generate", {"items": [f"{url}?{n}" for n in range(10_001)]})
    assert told(answer, "items") == "10001 items; the limit is 10000."


async def test_making_a_large_ticket_does_not_hold_up_others(stand: Stand):
    order = {"items": [{"url": f"http://127.0.0.1/{n}", "name": f"{n}.txt"} for n in range(10_000)]}
    waits: list[float] = []
    loop = asyncio.get_running_loop()

    async def others() -> None:
        while True:
            started = loop.time()
            await stand.get("/healthz")
            waits.append(loop.time() - started)

    watching = asyncio.create_task(others())
    made = await stand.post("/ticket/generate", order)
    watching.cancel()
    assert made.status == 200
    assert len(waits) > 5, waits


async def test_urls_are_limited_in_length(make_stand: MakeStand):
    async with make_stand({"max_url_length": 100}) as stand:
        url = stand.add("/a", 1)
        longest = f"{url}?{'x' * (99 - len(url))}"
        assert (await stand.post("/ticket/generate", {"items": [longest]})).status == 200
        answer = await stand.post("/ticket/generate", {"items": [url, longest + "x"]})
        assert told(answer, "items") == "item 1: the URL has over 100 characters."


async def test_tickets_are_limited_in_size(make_stand: MakeStand):
    async with make_stand({"max_ticket_bytes": 2000}) as stand:
        order = {"items": [stand.add("/a", 1)], "options": {"filename": "x" * 500}}
        assert (await stand.post("/ticket/generate", order)).status == 200
        answer = await stand.post("/ticket/generate", {**order, "padding": "x" * 2000})
        assert answer.status == 413
        assert "the body has" in answer.errors["detail"]
        assert "2000" in answer.errors["detail"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "x" * 4097}, "item 0: name"),
        ({"path": "x" * 4097}, "item 0: path"),
        ({"size": -1}, "item 0: size"),
        ({"headers": {"no token": "x"}}, "item 0: headers: not a valid header: 'no token'"),
        ({"headers": {"X": "a\r\nb"}}, "item 0: headers: not a valid header: 'X'"),
        ({"headers": {"X": "x" * 8193}}, "item 0: headers: not a valid header: 'X'"),
        ({"headers": {"X": 1}}, "item 0: headers.X"),
        ({"headers": ["X"]}, "item 0: headers"),
    ],
)
async def test_parts_of_an_item_are_limited(stand: Stand, item: dict, message: str):
    answer = await stand.post("/ticket/generate", {"items": [{"url": stand.add("/a", 1), **item}]})
    assert told(answer, "items").startswith(message)


@pytest.mark.parametrize("expires_in", [0, -1, 604_801, 1e300, "soon"])
async def test_life_of_a_ticket_is_limited(stand: Stand, expires_in: object):
    order = {"items": [stand.add("/a", 1)], "options": {"expires_in": expires_in}}
    assert told(await stand.post("/ticket/generate", order), "options").startswith("expires_in: ")


@pytest.mark.parametrize("filename", ["x" * 1025, 7, ["a"]])
async def test_filename_is_limited(stand: Stand, filename: object):
    order = {"items": [stand.add("/a", 1)], "options": {"filename": filename}}
    assert told(await stand.post("/ticket/generate", order), "options").startswith("filename: ")


@pytest.mark.parametrize(
    "url", ["ftp://x/a", "file:///etc/passwd", "data:,x", "//x/a", "x", "", "http://", "http://[::1"]
)
async def test_other_urls_are_refused(stand: Stand, url: str):
    answer = await stand.post("/ticket/generate", {"items": [stand.add("/a", 1), url]})
    assert told(answer, "items").startswith("item 1: ")


# Bytes


async def test_announced_total_over_the_limit_is_413(make_stand: MakeStand):
    async with make_stand({"max_total_bytes": 1000}) as stand:
        items = [{"url": stand.add("/a", 1), "size": 600}, {"url": stand.add("/b", 1), "size": 401}]
        answer = await stand.post("/ticket/generate", {"items": items})
        assert (answer.status, answer.errors) == (413, {"detail": "items: 1001 bytes in all; the limit is 1000"})


@pytest.mark.parametrize("size", [400_000, 2 * MIB])
async def test_files_beyond_the_total_are_left_out(make_stand: MakeStand, size: int):
    async with make_stand({"max_total_bytes": size + 10}) as stand:
        urls = [stand.add("/1", size), stand.add("/2", size), stand.add("/3", size)]
        answer = await stand.fetch(*urls)
        assert answer.entries.keys() == {"1", REPORT}
        reason = f"failed: the archive's limit of {size + 10} bytes is reached"
        assert reasons(answer.entries[REPORT]) == {"2": reason, "3": reason}


@pytest.mark.parametrize("framing", Framing)
async def test_endless_file_ends_at_the_total(make_stand: MakeStand, framing: Framing):
    async with make_stand({"max_total_bytes": 4 * MIB}) as stand:
        answer = await stand.fetch(stand.add("/a", b"a"), stand.add("/endless", 1, Endless(framing)))
        assert answer.entries.keys() == {"a", REPORT}
        assert len(answer.body) < 6 * MIB
        await stand.upstream.wait_idle()


async def test_single_file_over_the_total_is_413(make_stand: MakeStand):
    async with make_stand({"max_total_bytes": 1000}) as stand:
        answer = await stand.fetch(stand.add("/a", 1001), type="stream")
        assert (answer.status, answer.errors) == (413, {"detail": "the file has 1001 bytes; the limit is 1000"})


async def test_single_file_of_unknown_size_is_cut_at_the_total(make_stand: MakeStand):
    async with make_stand({"max_total_bytes": MIB}) as stand:
        ticket = await stand.ticket(stand.add("/endless", 1, Endless()), type="stream")
        async with asyncio.timeout(20):
            with pytest.raises(ClientPayloadError):
                await stand.download(ticket)
        await stand.upstream.wait_idle()


# Downloads at once


async def test_downloads_beyond_the_limit_are_429(make_stand: MakeStand):
    async with make_stand({"max_active_downloads": 2, "stall_timeout_s": 30}) as stand:
        ticket = await stand.ticket(stand.add("/slow", 10, Stall()))
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(stand.download(ticket)) for _ in range(2)]
            await stand.upstream.wait_requests(2)
            answer = await stand.download(ticket)
            stand.upstream.release("/slow")
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.errors == {"detail": "2 downloads are under way"}
        assert [task.result().status for task in running] == [200, 200]
        assert (await stand.download(ticket)).status == 200


async def test_connections_to_one_host_are_limited_over_all_downloads(make_stand: MakeStand):
    async with make_stand({"per_host": 3}) as stand:
        tickets = [await stand.ticket(*[stand.add(f"/{t}/{n}", 50_000) for n in range(30)]) for t in range(4)]
        answers = await asyncio.gather(*(stand.download(ticket) for ticket in tickets))
        assert [len(answer.entries) for answer in answers] == [30] * 4
        assert stand.upstream.peak_requests == 3
        assert stand.upstream.peak_connections <= 4  # one that is closing beside them


async def test_hosts_do_not_wait_for_each_other(make_stand: MakeStand):
    async with make_stand({"per_host": 1, "stall_timeout_s": 30}) as stand, Upstream("127.0.0.2") as other:
        slow = await stand.ticket(stand.add("/slow", 10, Stall()))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(stand.download(slow))
            await stand.upstream.wait_requests(1)
            assert (await stand.fetch(other.add("/a", b"a"))).entries == {"a": b"a"}
            assert not waiting.done()
            stand.upstream.release("/slow")


# Slow clients


async def settled_bytes(stand: Stand, path: str) -> int:
    """What the upstream has sent of ``path`` when it sends no more."""
    sent = -1
    while sent != (sent := stand.upstream.seen(path)[-1].sent_bytes):
        await asyncio.sleep(0.4)
    return sent


async def test_slow_client_slows_the_upstream_down(make_stand: MakeStand):
    async with make_stand({}, write_stall_s=60) as stand:
        ticket = await stand.ticket(stand.add("/big", 256 * MIB), *[stand.add(f"/{n}", MIB) for n in range(40)])
        async with stand.downloading(ticket) as answer:
            await answer.content.readexactly(MIB)
            assert await settled_bytes(stand, "/big") < 96 * MIB  # the kernel's buffers: two pairs, up to 38 MiB each
            ahead = sum(request.sent_bytes for request in stand.upstream.requests if request.path != "/big")
            assert ahead <= 16 * MIB


async def test_pause_of_a_client_is_no_stall_of_a_source(make_stand: MakeStand):
    async with make_stand({"stall_timeout_s": 1, "resume_tries": 0}, write_stall_s=60) as stand:
        size = 128 * MIB  # more than the kernel's buffers take
        ticket = await stand.ticket(stand.add("/big", size))
        async with stand.downloading(ticket) as answer:
            got = bytearray(await answer.content.readexactly(MIB))
            assert await settled_bytes(stand, "/big") < size
            await asyncio.sleep(1)  # with the 0.4 s before, longer than a source may be silent
            got += await answer.content.read()
        assert len(stand.upstream.seen("/big")) <= 2
        assert entries_of(bytes(got)) == {"big": stand.upstream.content("/big")}
