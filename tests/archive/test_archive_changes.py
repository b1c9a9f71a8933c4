"""Archives of known length whose sources change, break, or tell nothing of their versions."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa
from aiohttp import ClientError

from gateway_archive.delivery import archives
from gateway_archive.tables import layouts
from gateway_core.auth.keyring import Keyring
from gateway_core.testing.upstream_answer import Generated, Resource
from gateway_core.testing.upstream_behaviour import Changed, Cut, Headers, IgnoreRange, Stall, Status
from tests.archive.conftest import IMPATIENT, MakeStand
from tests.archive.stand import MIB, REPORT, Answer, Stand, entries_of, reasons, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 3 * MIB


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    settings = {"plugins": "archive", "archive": {**IMPATIENT, "probe": "auto", "pad_bytes": 2 * MIB}}
    async with standing(tmp_path_factory.mktemp("sized"), settings, templates=gateway_templates) as stood:
        yield stood


async def begun(stand: Stand, ticket: str, size: int) -> tuple[bytes, str]:
    """The first bytes of a download that is then given up, and its ETag."""
    async with stand.downloading(ticket) as answer:
        return await answer.content.readexactly(size), answer.headers.get("ETag", "")


async def cut_off(stand: Stand, ticket: str, **headers: str) -> bytes:
    """What comes of a download before it is cut; fails where it is not."""
    received = bytearray()
    async with stand.http.get(f"/ticket/{ticket}/download", headers=headers) as answer:
        assert answer.status in {200, 206}
        try:
            async for chunk in answer.content.iter_any():
                received += chunk
        except ClientError:
            return bytes(received)
    raise AssertionError("it was not cut")


def exact(answer: Answer) -> dict[str, bytes]:
    """The files of an archive that has the length it announced."""
    assert len(answer.body) == int(answer.headers["Content-Length"])
    return answer.entries


async def test_source_that_changed_gives_the_whole_anew(stand: Stand):
    url = stand.add("/changing", Generated(SIZE, seed="one"))
    ticket = await stand.ticket(url)
    _, etag = await begun(stand, ticket, MIB)
    stand.add("/changing", Generated(SIZE, seed="two"))
    rest = await stand.download(ticket, Range=f"bytes={MIB}-", **{"If-Range": etag})
    assert rest.status == 200
    assert rest.headers["ETag"] != etag
    assert exact(rest) == {"changing": stand.upstream.content("/changing")}


async def test_client_that_asks_without_a_condition_is_refused_after_a_change(stand: Stand):
    url = stand.add("/changing", Generated(SIZE, seed="one"))
    ticket = await stand.ticket(url)
    await begun(stand, ticket, MIB)
    stand.add("/changing", Generated(SIZE, seed="two"))
    for _ in range(2):
        assert (await stand.download(ticket, Range=f"bytes={MIB}-")).status == 409
    etag = (await stand.download(ticket)).headers["ETag"]
    assert (await stand.download(ticket, Range=f"bytes={MIB}-", **{"If-Range": etag})).status == 206
    assert (await stand.download(ticket, Range=f"bytes={MIB}-")).status == 409


async def test_wget_never_joins_two_versions(stand: Stand, tmp_path: Path):
    url = stand.add("/changing", Generated(SIZE, seed="one"))
    ticket = await stand.ticket(url)
    begin, _ = await begun(stand, ticket, MIB)
    stand.add("/changing", Generated(SIZE, seed="two"))
    part = tmp_path / "part.zip"
    part.write_bytes(begin)
    wget = await asyncio.create_subprocess_exec(
        *("wget", "-q", "--tries=1", "-c", "-O", part, f"{stand.gateway.url}/ticket/{ticket}/download")
    )
    assert await wget.wait() != 0
    assert part.read_bytes() == begin


async def test_rest_of_an_archive_without_a_length_is_not_that_of_one_with_it(
    make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives, "UNSIZED_FOR_S", 0)
    async with make_stand({"probe": "auto", "probe_timeout_s": 0.2, "stall_timeout_s": 30}) as stand:
        ticket = await stand.ticket(stand.add("/late", SIZE, Stall(method="HEAD", times=1)))
        begin, _ = await begun(stand, ticket, MIB)
        assert begin.startswith(b"PK")
        assert (await stand.download(ticket, Range=f"bytes={MIB}-")).status == 409
        etag = (await stand.call("HEAD", f"/ticket/{ticket}/download")).headers["ETag"]
        assert (await stand.download(ticket, Range=f"bytes={MIB}-")).status == 409
        assert (await stand.download(ticket, Range=f"bytes={MIB}-", **{"If-Range": etag})).status == 206


async def test_source_that_changes_on_the_way_is_cut_and_then_had_anew(stand: Stand):
    first = stand.add("/first", 10)
    url = stand.add("/changing", Generated(SIZE, seed="one"))
    ticket = await stand.ticket(first, url)
    etag = (await stand.call("HEAD", f"/ticket/{ticket}/download")).headers["ETag"]
    stand.add("/changing", Generated(SIZE, seed="two"))
    await cut_off(stand, ticket)
    again = await stand.download(ticket)
    assert again.headers["ETag"] != etag
    assert exact(again)["changing"] == stand.upstream.content("/changing")


async def test_versions_never_mix_while_a_source_is_continued(stand: Stand):
    url = stand.add(
        "/changing", Generated(SIZE, seed="one"), Cut(2 * MIB, times=1), Changed(Generated(SIZE, seed="two"))
    )
    ticket = await stand.ticket({"url": url, "size": SIZE})
    await cut_off(stand, ticket)
    assert exact(await stand.download(ticket)) == {"changing": Generated(SIZE, seed="two")[:]}


async def test_source_without_a_version_gives_a_length_and_no_ranges(stand: Stand):
    url = stand.add("/plain", Resource(Generated(SIZE), etag=None, modified=None))
    ticket = await stand.ticket(url)
    answer = await stand.download(ticket, Range="bytes=100-")
    assert answer.status == 200
    assert answer.headers["Accept-Ranges"] == "none"
    assert "ETag" not in answer.headers
    assert exact(answer) == {"plain": stand.upstream.content("/plain")}


async def test_source_without_a_version_may_change_between_downloads(stand: Stand):
    plain = {"etag": None, "modified": None}
    url = stand.add("/plain", Resource(Generated(SIZE, seed="one"), **plain), Cut(2 * MIB))
    ticket = await stand.ticket(url, on_error="abort")
    await cut_off(stand, ticket)
    for seed in ("two", "three"):
        stand.add("/plain", Resource(Generated(SIZE, seed=seed), **plain))
        assert exact(await stand.download(ticket)) == {"plain": Generated(SIZE, seed=seed)[:]}


async def test_operator_may_allow_ranges_of_sources_without_a_version(make_stand: MakeStand):
    async with make_stand({"probe": "auto", "resume_unproven": True}) as stand:
        url = stand.add("/plain", Resource(Generated(SIZE), etag=None, modified=None))
        ticket = await stand.ticket(url)
        whole = await stand.download(ticket)
        rest = await stand.download(ticket, Range=f"bytes={2 * MIB}-")
        assert (rest.status, rest.body) == (206, whole.body[2 * MIB :])


async def test_checksum_proves_a_source_without_a_version(stand: Stand):
    content = Generated(SIZE, seed="proven")
    url = stand.add("/proven", Resource(content, etag=None, modified=None))
    ticket = await stand.ticket({"url": url, "size": SIZE, "crc32": zlib.crc32(content[:])})
    whole = await stand.download(ticket)
    head = await stand.download(ticket, Range=f"bytes=0-{MIB - 1}")
    rest = await stand.download(ticket, Range=f"bytes={MIB}-")
    assert head.body + rest.body == whole.body
    assert exact(whole) == {"proven": content[:]}


async def test_other_bytes_than_the_checksum_promised_never_become_whole(stand: Stand):
    one, two = Generated(SIZE, seed="one"), Generated(SIZE, seed="two")
    url = stand.add("/proven", Resource(one, etag=None, modified=None))
    ticket = await stand.ticket({"url": url, "size": SIZE, "crc32": zlib.crc32(one[:])}, on_error="abort")
    await stand.download(ticket, Range=f"bytes=0-{MIB - 1}")
    stand.add("/proven", Resource(two, etag=None, modified=None))
    await cut_off(stand, ticket, Range=f"bytes={MIB}-")


async def test_abort_is_cut_and_goes_on_later(stand: Stand):
    url = stand.add("/breaking", SIZE)
    ticket = await stand.ticket(url, on_error="abort")
    etag = (await stand.call("HEAD", f"/ticket/{ticket}/download")).headers["ETag"]
    stand.add("/breaking", SIZE, Cut(2 * MIB, times=1), Status(404))
    begin = await cut_off(stand, ticket)
    stand.add("/breaking", SIZE)
    rest = await stand.download(ticket, Range=f"bytes={len(begin)}-", **{"If-Range": etag})
    assert rest.status == 206
    assert entries_of(begin + rest.body) == {"breaking": stand.upstream.content("/breaking")}


async def test_small_loss_keeps_the_length_and_is_reported(stand: Stand):
    items = [stand.add("/before", 1000), stand.add("/breaking", SIZE), stand.add("/after", 2000)]
    ticket = await stand.ticket(*items)
    head = await stand.call("HEAD", f"/ticket/{ticket}/download")
    stand.add("/breaking", SIZE, Cut(2 * MIB, times=1), Status(404))
    answer = await stand.download(ticket)
    assert answer.headers["Content-Length"] == head.headers["Content-Length"]
    found = exact(answer)
    assert reasons(found.pop(REPORT)).keys() == {"breaking"}
    assert found == {name: stand.upstream.content(f"/{name}") for name in ("before", "after")}
    part = await stand.download(ticket, Range=f"bytes={SIZE}-")
    assert part.body == answer.body[SIZE:]


async def test_next_whole_download_tries_again_what_was_lost(stand: Stand):
    ticket = await stand.ticket(stand.add("/before", 1000), stand.add("/breaking", SIZE))
    await stand.call("HEAD", f"/ticket/{ticket}/download")
    stand.add("/breaking", SIZE, Cut(2 * MIB, times=1), Status(404))
    lossy = await stand.download(ticket)
    assert REPORT in exact(lossy)
    stand.add("/breaking", SIZE)
    again = await stand.download(ticket)
    assert again.headers["ETag"] != lossy.headers["ETag"]
    assert exact(again) == {name: stand.upstream.content(f"/{name}") for name in ("before", "breaking")}


async def test_skip_leaves_out_a_small_loss_without_a_word(stand: Stand):
    ticket = await stand.ticket(stand.add("/before", 1000), stand.add("/breaking", SIZE), on_error="skip")
    await stand.call("HEAD", f"/ticket/{ticket}/download")
    stand.add("/breaking", SIZE, Cut(2 * MIB, times=1), Status(404))
    assert exact(await stand.download(ticket)).keys() == {"before"}


async def test_large_loss_is_cut_and_left_out_the_next_time(stand: Stand):
    ticket = await stand.ticket(stand.add("/before", 1000), stand.add("/breaking", SIZE))
    await stand.call("HEAD", f"/ticket/{ticket}/download")
    stand.add("/breaking", SIZE, Cut(MIB // 2, times=1), Status(404))
    await cut_off(stand, ticket)
    stand.add("/breaking", SIZE, Status(404))
    found = exact(await stand.download(ticket))
    assert reasons(found.pop(REPORT)) == {"breaking": "gone: status 404"}
    assert found.keys() == {"before"}


async def test_what_fails_before_the_first_byte_is_left_out(stand: Stand):
    bad = [stand.add(f"/bad{number}", 10, Status(403, method="GET")) for number in range(3)]
    good = stand.add("/good", SIZE)
    answer = await stand.fetch(*bad, good)
    found = exact(answer)
    assert reasons(found.pop(REPORT)) == {f"bad{number}": "gone: status 403" for number in range(3)}
    assert found.keys() == {"good"}


async def test_nothing_to_be_had_is_an_error(stand: Stand):
    answer = await stand.fetch(stand.add("/1", 10, Status(404)), stand.add("/2", 10, Status(403, method="GET")))
    assert answer.status == 502
    assert {item["name"]: item["reason"] for item in answer.errors["items"]} == {
        "1": "gone: status 404",
        "2": "gone: status 403",
    }


async def test_failed_file_that_is_there_again_comes_into_the_next_download(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives, "ASK_AGAIN_AFTER_S", 0)
    ticket = await stand.ticket(stand.add("/late", 10, Status(404)), stand.add("/good", 10))
    first = await stand.download(ticket)
    assert exact(first).keys() == {"good", REPORT}
    assert (await stand.download(ticket)).headers["ETag"] == first.headers["ETag"]
    stand.add("/late", 10)
    assert exact(await stand.download(ticket)).keys() == {"late", "good"}


async def test_wrong_checksum_in_the_ticket_is_reported(stand: Stand):
    url = stand.add("/a", 1000)
    found = exact(await stand.fetch({"url": url, "size": 1000, "crc32": 1}, stand.add("/b", 1000)))
    assert "its CRC-32 is" in reasons(found.pop(REPORT))["a"]
    assert found.keys() == {"b"}


async def test_other_bytes_under_the_same_version_are_found_out(stand: Stand):
    url = stand.add("/liar", Resource(Generated(SIZE, seed="one"), etag='"same"'))
    await stand.fetch(url)
    stand.add("/liar", Resource(Generated(SIZE, seed="two"), etag='"same"'))
    ticket = await stand.ticket(url)
    await cut_off(stand, ticket)
    assert exact(await stand.download(ticket)) == {"liar": Generated(SIZE, seed="two")[:]}


@pytest.mark.parametrize("lie", [{"Content-Length": "1000"}, {"ETag": '"of HEAD"'}])
async def test_file_of_which_head_tells_otherwise_than_get_comes_without_a_length(stand: Stand, lie: dict[str, str]):
    liar, large = stand.add("/liar", 2000, Headers(lie, method="HEAD")), stand.add("/large", SIZE)
    answer = await stand.fetch(liar, large)
    assert "Content-Length" not in answer.headers
    assert answer.entries.keys() == {"liar", "large"}
    ticket = await stand.ticket(large, liar)
    await cut_off(stand, ticket)
    assert (await stand.download(ticket)).entries.keys() == {"large", "liar"}


async def test_what_cannot_be_had_in_parts_is_given_whole(stand: Stand):
    ticket = await stand.ticket(stand.add("/whole", 66 * MIB, IgnoreRange()))
    async with stand.downloading(ticket) as answer:
        length = answer.headers["Content-Length"]
    async with stand.http.get(f"/ticket/{ticket}/download", headers={"Range": f"bytes={65 * MIB}-"}) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, length)


@pytest.mark.parametrize("readable", [True, False])
async def test_stored_layout_that_cannot_be_read_is_frozen_anew(stand: Stand, *, readable: bool):
    ticket = await stand.ticket(stand.add("/a", SIZE))
    await stand.call("HEAD", f"/ticket/{ticket}/download")
    core, archives = stand.gateway.core, stand.downloads.archives
    keyring = core.keyring if readable else Keyring(["another key " * 3])
    stored = {"etag": "f" * 32, "frozen": keyring.encrypt(zlib.compress(b'{"version":0}'))}
    async with core.db.write() as tx:
        await tx.execute(sa.update(layouts).where(layouts.c.ticket_id == ticket).values(stored))
    assert exact(await stand.download(ticket)).keys() == {"a"}
    assert (await archives.witness.layouts.stamp(ticket, "zip")).generation == 2


async def test_ticket_for_one_use_is_used_up_when_all_of_it_was_taken(stand: Stand):
    ticket = await stand.ticket(stand.add("/once", SIZE), once=True)
    length = int((await stand.call("HEAD", f"/ticket/{ticket}/download")).headers["Content-Length"])
    parts = [await stand.download(ticket, Range=f"bytes={first}-{first + MIB - 1}") for first in range(0, length, MIB)]
    assert {part.status for part in parts} == {206}
    assert entries_of(b"".join(part.body for part in parts)).keys() == {"once"}
    assert (await stand.download(ticket)).status == 404


async def test_ticket_for_one_use_outlives_its_end_alone(stand: Stand):
    ticket = await stand.ticket(stand.add("/once", SIZE), once=True)
    await stand.download(ticket, Range="bytes=-100")
    await stand.download(ticket, **{"If-None-Match": "*"})
    assert (await stand.download(ticket)).status == 200
    assert (await stand.download(ticket)).status == 404


async def test_deleted_ticket_ends_its_downloads(stand: Stand):
    ticket = await stand.ticket(stand.add("/held", 40 * MIB, Stall(20 * MIB, seconds=2)))
    async with stand.downloading(ticket) as answer:
        await answer.content.readexactly(MIB)
        await stand.downloads.store.drop(ticket)
        with pytest.raises((ClientError, asyncio.IncompleteReadError)):
            await answer.content.readexactly(39 * MIB)


async def test_size_that_is_not_told_in_time_gives_no_length(make_stand: MakeStand):
    async with make_stand({"probe": "auto", "probe_timeout_s": 0.2, "stall_timeout_s": 30}) as stand:
        items = [stand.add("/silent", 1000, Stall(method="HEAD")), stand.add("/other", 10)]
        answer = await stand.fetch(*items)
        assert "Content-Length" not in answer.headers
        assert answer.entries.keys() == {"silent", "other"}


async def test_source_that_looks_well_and_always_breaks_off_does_not_hold_up_the_others(stand: Stand):
    ticket = await stand.ticket(stand.add("/before", 1000), stand.add("/breaking", SIZE, Cut(MIB // 8, method="GET")))
    await cut_off(stand, ticket)
    for _ in range(2):
        found = exact(await stand.download(ticket))
        assert reasons(found.pop(REPORT)).keys() == {"breaking"}
        assert found.keys() == {"before"}


async def test_checksum_that_is_read_for_the_end_is_read_once_though_clients_leave(stand: Stand):
    ticket = await stand.ticket(stand.add("/summed", 8 * MIB, Stall(4 * MIB, times=1, seconds=60)))
    for _ in range(2):
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                assert (await stand.download(ticket, Range="bytes=-10")).status == 206
    seen = [request.headers.get("Range") for request in stand.upstream.seen("/summed") if request.method == "GET"]
    assert seen == [None, f"bytes={4 * MIB}-"]


async def test_dead_tickets_are_not_asked_for_by_everybody(stand: Stand):
    ticket = await stand.ticket(*[stand.add(f"/dead{number}", 10, Status(404)) for number in range(20)])
    stand.upstream.requests.clear()
    statuses = [(await stand.call("HEAD", f"/ticket/{ticket}/download")).status for _ in range(3)]
    statuses.append((await stand.download(ticket)).status)
    assert statuses == [502] * 4
    assert len(stand.upstream.requests) <= 40


async def test_many_ranges_get_the_whole(stand: Stand):
    ticket = await stand.ticket(stand.add("/whole", Resource(Generated(SIZE), ranges=False)))
    ranges = ",".join(f"{first * 1000}-{first * 1000}" for first in range(50))
    answer = await stand.download(ticket, Range=f"bytes={ranges}")
    assert (answer.status, len(answer.body)) == (200, int(answer.headers["Content-Length"]))
