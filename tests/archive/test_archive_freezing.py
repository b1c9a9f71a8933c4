"""Freezing: what an archive will hold is known before its first byte, or nothing is promised."""

from __future__ import annotations

import json
import time
import zlib
from base64 import b64encode

import pytest

from gateway_archive.delivery import freezing
from gateway_archive.delivery.freezing import owner_of, request_for
from gateway_archive.layout.frozen import FrozenEntry
from gateway_archive.ledger.learned import Learned, key_of, learned_key
from gateway_archive.tickets import Item, OnError
from gateway_core import Client, SourceRequest, UpstreamFailed
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Raw, Stall, Status
from tests.archive.freezing import CREATED, GONE, failed, freezer_of, frozen, names, ticket_of
from tests.archive.stand import REPORT, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What is asked, and what its answer means


async def test_size_version_and_date_come_from_the_source(stand: Stand):
    url = stand.add("/dir/a.bin", Resource(b"x" * 1234, etag='"v1"', modified=1_600_000_000.0))
    (entry,) = await frozen(stand, url)
    assert entry == (0, "a.bin", 1234, None, 1_600_000_000, '"v1"')
    assert [request.method for request in stand.upstream.requests] == ["HEAD"]


async def test_server_that_refuses_head_is_asked_for_one_byte(stand: Stand):
    (entry,) = await frozen(stand, stand.add("/a", 12_345, Status(403, method="HEAD")))
    assert entry.size == 12_345
    asked = [(request.method, request.headers.get("Range")) for request in stand.upstream.requests]
    assert asked == [("HEAD", None), ("GET", "bytes=0-0")]


async def test_file_of_unknown_length_makes_the_length_unknown(stand: Stand):
    chunked = stand.add("/a", Resource(b"x" * 1000, framing=Framing.CHUNKED, ranges=False))
    assert await freezer_of(stand).freeze(ticket_of(chunked, stand.add("/b", 5))) is None


async def test_size_of_the_ticket_serves_where_the_source_knows_none(stand: Stand):
    chunked = stand.add("/a", Resource(b"x" * 1000, framing=Framing.CHUNKED, ranges=False, etag='"c"'))
    (entry,) = await frozen(stand, Item(chunked, size=1000))
    assert (entry.size, entry.validator) == (1000, '"c"')


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_refusal_for_now_is_no_failure_and_leaves_the_length_unknown(stand: Stand, status: int):
    url = stand.add("/a", b"", Status(status))
    assert await freezer_of(stand).freeze(ticket_of(url, stand.add("/b", 5))) is None


async def test_silent_host_leaves_the_length_unknown_when_time_is_up(stand: Stand):
    urls = [stand.add("/silent", 5, Stall()), stand.add("/b", 5)]
    began = time.monotonic()
    assert await freezer_of(stand, probe_timeout_s=0.3).freeze(ticket_of(*urls)) is None
    assert time.monotonic() - began >= 0.3
    await stand.upstream.wait_idle()


async def test_what_broke_once_is_asked_again(stand: Stand):
    (entry,) = await frozen(stand, stand.add("/a", 5, Raw(b"nonsense", times=1)))
    assert entry.size == 5


async def test_file_that_the_ticket_knows_is_not_asked_for(stand: Stand):
    known = Item(stand.add("/known", 5), size=7, crc32=0xCAFE, modified=1_500_000_000)
    first, second = await frozen(stand, known, stand.add("/b", 3))
    assert first == (0, "known", 7, 0xCAFE, 1_500_000_000, None)
    assert second.size == 3
    assert [request.path for request in stand.upstream.requests] == ["/b"]


async def test_source_is_right_about_a_size_that_the_ticket_tells_otherwise(stand: Stand):
    (entry,) = await frozen(stand, Item(stand.add("/a", 10), size=99))
    assert entry.size == 10


async def test_crc_of_the_ticket_counts_for_a_size_that_was_asked(stand: Stand):
    (entry,) = await frozen(stand, Item(stand.add("/a", 10), crc32=123))
    assert (entry.size, entry.crc32) == (10, 123)


async def test_date_of_the_ticket_serves_where_the_source_has_none(stand: Stand):
    dated, undated = (stand.add(f"/{at}", Resource(b"x", modified=at)) for at in (1_600_000_000.0, None))
    found = await frozen(stand, Item(dated, modified=1), Item(undated, modified=2), undated)
    assert [entry.modified for entry in found] == [1_600_000_000, 2, None]


async def test_weak_validator_is_not_kept(stand: Stand):
    weak = stand.add("/weak", Resource(b"x" * 10, etag='W/"1"', modified=None))
    just_now = stand.add("/now", Resource(b"x" * 10, etag=None, modified=time.time()))
    long_ago = stand.add("/then", Resource(b"x" * 10, etag=None, modified=1_600_000_000.0))
    found = await frozen(stand, weak, just_now, long_ago)
    assert [entry.validator for entry in found] == [None, None, "Sun, 13 Sep 2020 12:26:40 GMT"]
    assert not found.proven


async def test_size_beyond_all_archives_leaves_the_length_unknown(stand: Stand):
    items = [Item(f"http://127.0.0.1:1/{n}", size=(1 << 63) - 1, crc32=1) for n in range(2)]
    assert await freezer_of(stand).freeze(ticket_of(*items)) is None


async def test_absurd_size_leaves_the_length_unknown(stand: Stand):
    absurd = b"HTTP/1.1 206 Ok\r\nContent-Range: bytes 0-0/9999999999999999999\r\nContent-Length: 1\r\n\r\nx"
    url = stand.add("/a", 5, Status(403, method="HEAD"), Raw(absurd))
    assert await freezer_of(stand).freeze(ticket_of(url, stand.add("/b", 5))) is None


# Without asking


async def test_nothing_is_asked_when_probing_is_off(stand: Stand):
    urls = [stand.add(f"/{n}", 5) for n in range(3)]
    found = await frozen(stand, *(Item(url, size=5) for url in urls), probe="never")
    assert [(entry.size, entry.crc32, entry.validator) for entry in found] == [(5, None, None)] * 3
    assert stand.upstream.requests == []


async def test_length_is_unknown_when_probing_is_off_and_a_size_is_missing(stand: Stand):
    items = (Item(stand.add("/a", 5), size=5), stand.add("/b", 5))
    assert await freezer_of(stand, probe="never").freeze(ticket_of(*items)) is None
    assert stand.upstream.requests == []


async def test_folders_alone_are_an_archive(stand: Stand):
    found = await frozen(stand, Item(path="a/"), Item(path="b/c/"), Item(path="a/"))
    assert [(entry.item, entry.name, entry.size) for entry in found] == [(0, "a/", 0), (1, "b/c/", 0)]
    assert found.proven


# CRC-32


async def test_crc_that_the_source_offers_is_taken(stand: Stand):
    content = b"from a bucket"
    offered = b64encode(zlib.crc32(content).to_bytes(4)).decode()
    headers = {"x-amz-checksum-crc32": offered, "x-amz-checksum-type": "FULL_OBJECT"}
    (entry,) = await frozen(stand, stand.add("/a", Resource(content, headers=headers)))
    assert entry.crc32 == zlib.crc32(content)


async def test_empty_file_needs_no_crc(stand: Stand):
    (entry,) = await frozen(stand, stand.add("/empty", b""))
    assert (entry.size, entry.crc32) == (0, 0)


async def learn(stand: Stand, url: str, validator: str, size: int, crc32: int) -> None:
    await Learned(stand.gateway.core, 3600).learn({learned_key(url, validator, size): crc32})


async def test_crc_that_was_learned_is_found_under_another_signature(stand: Stand):
    url = stand.add("/learned", Resource(b"x" * 10, etag='"7"'))
    await learn(stand, f"{url}?X-Amz-Signature=old", '"7"', 10, 777)
    (entry,) = await frozen(stand, f"{url}?X-Amz-Signature=new")
    assert entry.crc32 == 777


async def test_crcs_of_more_files_than_are_looked_up_at_once_are_found(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(freezing, "_LOOKED_UP_AT_ONCE", 2)
    urls = [stand.add(f"/many/{n}", Resource(b"x" * 10, etag=f'"{n}"')) for n in range(5)]
    for n in (0, 2, 3, 4):
        await learn(stand, urls[n], f'"{n}"', 10, 100 + n)
    found = await frozen(stand, *urls, Item(path="folder/"))
    assert [entry.crc32 for entry in found] == [100, None, 102, 103, 104, 0]


async def test_crc_that_was_learned_with_headers_is_of_their_client_alone(stand: Stand):
    item = Item(stand.add("/chosen", Resource(b"x" * 10, etag='"7"')), headers={"X-Forwarded-Host": "mine"})
    mine, plain = ticket_of(item, client_id="a" * 32), ticket_of(item.url, client_id="a" * 32)
    await Learned(stand.gateway.core, 3600).learn({key_of(mine, FrozenEntry(0, "chosen", 10, validator='"7"')): 777})
    found = [await freezer_of(stand).freeze(one) for one in (mine, plain, ticket_of(item, client_id="b" * 32))]
    assert [one and one[0].crc32 for one in found] == [777, None, None]


async def test_crc_of_another_version_is_not_taken(stand: Stand):
    url = stand.add("/changed", Resource(b"x" * 10, etag='"new"'))
    await learn(stand, url, '"old"', 10, 777)
    (entry,) = await frozen(stand, url)
    assert entry.crc32 is None


async def test_crc_is_not_looked_up_without_a_strong_validator(stand: Stand):
    url = stand.add("/weak", Resource(b"x" * 10, etag='W/"7"', modified=None))
    await learn(stand, url, 'W/"7"', 10, 777)
    (entry,) = await frozen(stand, url)
    assert entry.crc32 is None


# Failures


async def test_what_cannot_be_had_is_left_out_and_named(stand: Stand):
    async with Upstream() as dead:
        nowhere = dead.add("/dead", 1)
    gone, good = stand.add("/x/a", b"", Status(404)), stand.add("/y/a", 5)
    found = await frozen(stand, gone, nowhere, good, "http://10.1.2.3/private")
    assert [(entry.item, entry.name) for entry in found] == [(2, "a (2)")]
    reasons = {name: reason.partition(":")[0] for name, reason in failed(found).items()}
    assert reasons == {"a": "gone", "dead": "failed", "private": "refused"}
    assert found.failed_items == [0, 1, 3]
    assert (found.created, found.on_error) == (int(CREATED), OnError.REPORT)


@pytest.mark.parametrize("on_error", [OnError.REPORT, OnError.SKIP, OnError.ABORT])
async def test_ticket_that_has_nothing_is_answered_as_when_it_is_streamed(stand: Stand, on_error: OnError):
    items = [Item(path="folder/"), *(Item(stand.add(f"/{n}", b"", Status(404))) for n in range(3))]
    with pytest.raises(UpstreamFailed) as raised:
        await frozen(stand, *items, on_error=on_error)
    sent = [{"path": "folder/"}, *({"url": item.url} for item in items[1:])]
    streamed = (await stand.fetch(*sent, on_error=on_error)).errors
    assert {"items": raised.value.reasons, "detail": raised.value.detail} == streamed


async def test_one_failure_aborts_where_that_was_asked_for(stand: Stand):
    urls = [stand.add("/a", 5), stand.add("/gone", b"", Status(404)), stand.add("/gone2", b"", Status(404))]
    with pytest.raises(UpstreamFailed, match="a file of the ticket cannot be had") as raised:
        await frozen(stand, *urls, on_error=OnError.ABORT)
    assert raised.value.reasons == [{"name": "gone", "url": urls[1], "reason": GONE}]


async def test_files_over_the_limit_of_bytes_are_left_out(stand: Stand):
    items = [Item(stand.add(f"/{n}", size)) for n, size in enumerate((400, 500, 200, 100, 1))]
    found = await frozen(stand, *items, max_total_bytes=1000)
    assert names(found) == ["0", "1", "3"]
    assert failed(found) == dict.fromkeys("24", "failed: the archive's limit of 1000 bytes is reached")


async def test_limit_of_bytes_aborts_where_that_was_asked_for(stand: Stand):
    with pytest.raises(UpstreamFailed):
        await frozen(stand, stand.add("/a", 10), stand.add("/b", 10), on_error=OnError.ABORT, max_total_bytes=19)


async def test_secrets_of_an_owner_are_not_in_the_reasons(stand: Stand):
    url = stand.add("/gone", b"", Status(404))
    with pytest.raises(UpstreamFailed) as raised:
        await frozen(stand, f"{url}?key=PLANTED")
    assert "PLANTED" not in json.dumps(raised.value.reasons)


# Names


async def test_names_are_those_of_the_streamed_archive(stand: Stand):
    paths = ("/1/a.txt", "/2/a.txt", f"/{REPORT}", "/3/A.txt", "/gone/a.txt", "/4/a.txt", "/x%3Ay")
    items = [{"url": stand.add(path, 1)} for path in paths]
    stand.add("/gone/a.txt", b"", Status(404))
    items[2:2] = [{"path": "a.txt/"}, {"path": "sub", "url": items[0]["url"]}, {"path": "sub/"}]
    for on_error in (OnError.REPORT, OnError.SKIP):
        found = await frozen(stand, *(Item(**item) for item in items), on_error=on_error)
        streamed = list((await stand.fetch(*items, on_error=on_error)).entries)
        assert names(found) == streamed[: len(streamed) - (on_error is OnError.REPORT)]


async def test_large_ticket_is_frozen_in_the_order_of_its_items(stand: Stand):
    items = [Item(f"http://127.0.0.1:1/{n % 100}", size=n, crc32=n) for n in range(3000)]
    found = await frozen(stand, *items)
    assert [entry.item for entry in found] == list(range(3000))
    assert names(found)[2999] == "99 (30)"


# Whose files


async def test_owner_is_the_client_of_the_ticket_while_there_is_one(stand: Stand):
    core = stand.gateway.core
    mine = await core.clients.by_secret(stand.secret)
    assert mine is not None
    assert (await owner_of(core, ticket_of("http://a/", client_id=mine.id))).id == mine.id
    assert await owner_of(core, ticket_of("http://a/", client_id="f" * 32)) == Client.ANONYMOUS


async def test_headers_of_an_item_are_sent_when_it_is_asked(stand: Stand):
    await frozen(stand, Item(stand.add("/a", 5), headers={"Authorization": "token"}))
    assert [request.headers.get("Authorization") for request in stand.upstream.requests] == ["token"]


async def test_request_is_for_the_whole_file_as_its_owner():
    item = Item("http://a/", headers={"X": "1"})
    expected = SourceRequest("http://a/", client=Client.ANONYMOUS, headers={"X": "1"}, stall_s=3.0)
    assert request_for(item, Client.ANONYMOUS, stall_s=3.0) == expected
