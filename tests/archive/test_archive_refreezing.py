"""Freezing again: what changed or failed is asked anew, all else stays, and no name moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway_archive.layout.frozen import Frozen
from gateway_archive.report import Failure
from gateway_archive.tickets import Item, OnError
from gateway_core import UpstreamFailed
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Stall, Status
from tests.archive.freezing import GONE, failed, freezer_of, frozen, names, ticket_of
from tests.archive.stand import Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refrozen(
    stand: Stand,
    old: Frozen,
    *items: Item | str,
    again: tuple[int, ...] = (),
    without: Mapping[int, Failure] | None = None,
    crc32s: Mapping[int, int] | None = None,
    **options: Any,
) -> Frozen | None:
    ticket = ticket_of(*items, **options)
    known = (crc32s or {}).get
    return await freezer_of(stand).refreeze(ticket, old, again=again, without=without or {}, crc32=known)


async def test_entries_stay_and_their_crcs_become_better(stand: Stand):
    urls = [stand.add(f"/{n}", 5) for n in range(3)]
    old = await frozen(stand, *urls)
    stand.upstream.requests.clear()
    new = await refrozen(stand, old, *urls, crc32s={1: 111})
    assert new is not None
    assert list(new) == [entry._replace(crc32=111 if entry.item == 1 else None) for entry in old]
    assert stand.upstream.requests == []


async def test_changed_file_is_asked_again(stand: Stand):
    urls = [stand.add(f"/{n}", 5) for n in range(3)]
    old = await frozen(stand, *urls)
    stand.add("/1", Resource(b"x" * 9, etag='"new"'))
    new = await refrozen(stand, old, *urls, again=(1,), crc32s={1: 111})
    assert new is not None
    assert [(entry.name, entry.size, entry.crc32) for entry in new] == [("0", 5, None), ("1", 9, None), ("2", 5, None)]
    assert new[1].validator == '"new"'
    assert new.digest("zip") != old.digest("zip")


async def test_crc_of_the_ticket_is_not_trusted_again(stand: Stand):
    item = Item(stand.add("/a", 5), size=5, crc32=123)
    old = await frozen(stand, item)
    new = await refrozen(stand, old, item, again=(0,))
    assert (old[0].crc32, new and new[0].crc32) == (123, None)


async def test_failed_file_that_is_there_now_comes_back_in_its_place(stand: Stand):
    urls = [stand.add("/1/a", 5), stand.add("/2/a", b"", Status(404)), stand.add("/3/a", 7)]
    old = await frozen(stand, *urls)
    stand.add("/2/a", 6)
    new = await refrozen(stand, old, *urls, again=(1,))
    assert new is not None
    assert [(entry.name, entry.size) for entry in new] == [("a", 5), ("a (2)", 6), ("a (3)", 7)]
    assert new.failures == []
    assert new.digest("zip") == (await frozen(stand, *urls)).digest("zip")


@pytest.mark.parametrize("status", [404, 503])
async def test_failed_file_that_is_not_there_yet_stays_a_failure(stand: Stand, status: int):
    urls = [stand.add("/0", b"", Status(404)), stand.add("/1", 5)]
    old = await frozen(stand, *urls)
    stand.add("/0", b"", Status(status))
    new = await refrozen(stand, old, *urls, again=(0,))
    assert new is not None
    assert new.digest("zip") == old.digest("zip")


async def test_failed_file_that_does_not_answer_in_time_stays_a_failure(stand: Stand):
    urls = [stand.add("/0", b"", Status(404)), stand.add("/1", 5)]
    old = await frozen(stand, *urls)
    stand.add("/0", 5, Stall())
    freezer = freezer_of(stand, probe_timeout_s=0.3)
    new = await freezer.refreeze(ticket_of(*urls), old, again=[0, 1], without={}, crc32=lambda _: None)
    assert new is not None
    assert new.digest("zip") == old.digest("zip")


async def test_failed_file_that_is_there_now_without_a_length_makes_the_length_unknown(stand: Stand):
    urls = [stand.add("/0", b"", Status(404)), stand.add("/1", 5)]
    old = await frozen(stand, *urls)
    stand.add("/0", Resource(b"x" * 1000, framing=Framing.CHUNKED, ranges=False))
    assert await refrozen(stand, old, *urls, again=(0,)) is None


async def test_changed_file_that_does_not_answer_leaves_the_length_unknown(stand: Stand):
    urls = [stand.add("/0", 5), stand.add("/1", 5)]
    old = await frozen(stand, *urls)
    stand.add("/0", b"", Status(503))
    assert await refrozen(stand, old, *urls, again=(0,)) is None


async def test_changed_file_that_is_gone_becomes_a_failure(stand: Stand):
    urls = [stand.add("/0", 5), stand.add("/1", 5)]
    old = await frozen(stand, *urls)
    stand.add("/0", b"", Status(404))
    new = await refrozen(stand, old, *urls, again=(0,))
    assert new is not None
    assert (names(new), failed(new), new.failed_items) == (["1"], {"0": GONE}, [0])


async def test_file_that_failed_on_the_way_is_left_out_unasked(stand: Stand):
    urls = [stand.add("/0", b"", Status(404)), stand.add("/1", 5), stand.add("/2", 5)]
    old = await frozen(stand, *urls)
    stand.upstream.requests.clear()
    broken = Failure("1", urls[1], "failed", "failed: broke off")
    new = await refrozen(stand, old, *urls, again=(1,), without={1: broken})
    assert new is not None
    assert (names(new), failed(new), new.failed_items) == (["2"], {"0": GONE, "1": broken.reason}, [0, 1])
    assert stand.upstream.requests == []


async def test_nothing_left_cannot_be_answered(stand: Stand):
    url = stand.add("/0", 5)
    old = await frozen(stand, url)
    with pytest.raises(UpstreamFailed, match="no file of the ticket can be had"):
        await refrozen(stand, old, url, without={0: Failure("0", url, "failed", "failed: broke off")})


async def test_failure_aborts_a_new_try_where_that_was_asked_for(stand: Stand):
    urls = [stand.add("/0", 5), stand.add("/1", 5)]
    old = await frozen(stand, *urls, on_error=OnError.ABORT)
    broken = Failure("1", urls[1], "failed", "failed: broke off")
    with pytest.raises(UpstreamFailed, match="a file of the ticket cannot be had"):
        await refrozen(stand, old, *urls, without={1: broken}, on_error=OnError.ABORT)
