"""``POST /ticket/check``: what a ticket would give, without making it."""

from __future__ import annotations

import asyncio

import pytest

from gateway_archive import checking
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Encoded, Headers, Stall, Status
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, Stand
from tests.archive.test_contract import lines64

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def checked(stand: Stand, *items: object) -> dict:
    answer = await stand.post("/ticket/check", {"items": items})
    assert answer.status == 200, answer.body
    return answer.json


async def test_answer_tells_each_item_and_the_total(stand: Stand):
    csv = Resource(b"a,b\n" * 100, media_type="text/csv")
    good, big = stand.add("/dir/good.csv", csv), stand.add("/big.bin", 5 * MIB)
    bad = stand.add("/bad", b"", Status(404))
    answer = await checked(stand, good, {"url": big, "name": "large.bin", "path": "data"}, bad)
    assert answer == {
        "items": [
            {"url": good, "name": "good.csv", "ok": True, "size": 400, "type": "text/csv", "reason": None},
            {
                "url": big,
                "name": "data/large.bin",
                "ok": True,
                "size": 5 * MIB,
                "type": "application/octet-stream",
                "reason": None,
            },
            {"url": bad, "name": "bad", "ok": False, "size": None, "type": None, "reason": "gone: status 404"},
        ],
        "total_bytes": 5 * MIB + 400,
        "failed": 1,
    }


async def test_check_makes_no_ticket_and_reads_no_file(stand: Stand):
    secret = await stand.gateway.secret()
    body = {"items": [stand.add("/big", 50 * MIB)]}
    assert (await stand.post("/ticket/check", body, Authorization=secret)).status == 200
    assert (await stand.get("/ticket/", Authorization=secret)).json["count"] == 0
    assert sum(request.sent_bytes for request in stand.upstream.requests) == 0


async def test_items_come_in_every_form_of_generate(stand: Stand):
    items = [stand.add("/a", 3), {"url": stand.add("/b", 4)}]
    answer = await stand.post("/ticket/check", {"items": lines64(items), "options": lines64({}), "type": "zip"})
    assert (answer.json["total_bytes"], answer.json["failed"]) == (7, 0)


async def test_body_is_checked_as_by_generate(stand: Stand):
    answer = await stand.post("/ticket/check", {"items": []})
    assert (answer.status, list(answer.errors["json"])) == (422, ["items"])


@pytest.mark.parametrize("status", [400, 403, 405, 500, 501])
async def test_server_that_refuses_head_is_asked_for_one_byte(stand: Stand, status: int):
    url = stand.add("/a", 12_345, Status(status, method="HEAD"))
    (item,) = (await checked(stand, url))["items"]
    assert (item["ok"], item["size"]) == (True, 12_345)
    asked = [(request.method, request.headers.get("Range")) for request in stand.upstream.requests]
    assert asked == [("HEAD", None), ("GET", "bytes=0-0")]


async def test_head_that_says_nothing_of_the_size_is_not_believed(stand: Stand):
    url = stand.add("/a", 12_345, Headers({"Content-Length": "0"}, method="HEAD"))
    assert (await checked(stand, url))["items"][0]["size"] == 12_345


async def test_size_that_nobody_knows_is_null_and_not_in_the_total(stand: Stand):
    url = stand.add("/a", Resource(b"x" * 1000, framing=Framing.CHUNKED, ranges=False))
    answer = await checked(stand, url, stand.add("/b", 7))
    assert [(item["ok"], item["size"]) for item in answer["items"]] == [(True, None), (True, 7)]
    assert answer["total_bytes"] == 7


async def test_empty_file_is_ok(stand: Stand):
    (item,) = (await checked(stand, stand.add("/empty", b"")))["items"]
    assert (item["ok"], item["size"]) == (True, 0)


async def test_folder_is_ok(stand: Stand):
    answer = await checked(stand, {"path": "folder/"}, stand.add("/a", 5))
    assert answer["items"][0] == {"url": "", "name": "folder/", "ok": True, "size": 0, "type": None, "reason": None}


async def test_names_are_those_of_the_archive(stand: Stand):
    urls = [stand.add(path, 1) for path in ("/1/a.txt", "/2/a.txt", "/3/A.txt", "/x%3Ay")]
    items = (await checked(stand, *urls))["items"]
    assert [item["name"] for item in items] == list((await stand.fetch(*urls)).entries)


async def test_what_fails_is_told_why(stand: Stand):
    async with Upstream() as gone:
        nowhere = gone.add("/a", 1)
    urls = [stand.add("/encoded", 100, Encoded()), nowhere, "http://10.1.2.3/", "ftp://x/y", "http://"]
    reasons = [item["reason"].partition(":")[0] for item in (await checked(stand, *urls))["items"]]
    assert reasons == ["failed", "failed", "refused", "refused", "refused"]


async def test_private_address_is_told_no_more_than_any(stand: Stand):
    refused, dead = (await checked(stand, "http://10.1.2.3/", "http://10.1.2.3:22/"))["items"]
    assert refused["reason"] == dead["reason"] == "refused: this address may not be fetched"


async def test_answer_shows_no_secrets_of_the_items(stand: Stand):
    url = stand.add("/a", 1)
    answer = await stand.post("/ticket/check", {"items": [f"{url}?key=PLANTED", url.replace("//", "//u:PLANTED@")]})
    assert answer.json["failed"] == 0
    assert b"PLANTED" not in answer.body


async def test_headers_of_an_item_are_sent(stand: Stand):
    await checked(stand, {"url": stand.add("/a", 1), "headers": {"Authorization": "token"}})
    assert [request.headers.get("Authorization") for request in stand.upstream.requests] == ["token"]


async def test_items_are_probed_in_parallel(make_stand: MakeStand):
    async with make_stand({}) as stand:
        urls = [stand.add(f"/{n}", 1, Stall()) for n in range(10)]
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(checked(stand, *urls))
            await stand.upstream.wait_requests(10)
            for n in range(10):
                stand.upstream.release(f"/{n}")
        assert answer.result()["failed"] == 0
        assert stand.upstream.peak_requests == 10


async def test_probes_keep_to_the_connections_per_host(make_stand: MakeStand):
    async with make_stand({"per_host": 2}) as stand:
        await checked(stand, *[stand.add(f"/{n}", 1) for n in range(30)])
        assert stand.upstream.peak_requests <= 2


async def test_server_that_does_not_answer_in_time_has_stalled(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checking, "DEADLINE_S", 1)
    answer = await checked(stand, stand.add("/a", 5), stand.add("/silent", 5, Stall()))
    assert [item["reason"] for item in answer["items"]] == [None, "stalled: no answer in time"]
    await stand.upstream.wait_idle()


async def test_thousand_items_are_checked(stand: Stand):
    url = stand.add("/a", 3)
    answer = await checked(stand, *[f"{url}?{n}" for n in range(1000)])
    assert (len(answer["items"]), answer["total_bytes"], answer["failed"]) == (1000, 3000, 0)
