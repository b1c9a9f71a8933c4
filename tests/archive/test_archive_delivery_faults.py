"""Faults of downloads of known length that reading found: what answers do to each other, and failures at odd times."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway_archive.delivery.archive import Archive
from gateway_archive.delivery.content import archive_content
from gateway_archive.ledger.layouts import Stamp
from gateway_archive.packing import Aborted
from gateway_archive.report import Failure
from gateway_archive.zip_writer import Piece
from gateway_core.http.ranges import ByteRange
from gateway_core.testing.upstream_answer import Framing, Generated, Resource, SeenRequest
from gateway_core.testing.upstream_behaviour import Cut, Headers, Stall, Status
from tests.archive.conftest import IMPATIENT, MakeStand
from tests.archive.stand import MIB, REPORT, Stand, entries_of, reasons, standing, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    settings = {"plugins": "archive", "archive": {**IMPATIENT, "probe": "auto", "pad_bytes": 2 * MIB}}
    async with standing(tmp_path_factory.mktemp("faults"), settings, templates=gateway_templates) as stood:
        yield stood


class Collected:
    """Takes the bytes of an answer that no connection carries."""

    def __init__(self) -> None:
        self.body = bytearray()

    async def write(self, *buffers: Piece) -> None:
        for buffer in buffers:
            self.body += buffer


async def opened(stand: Stand, ticket: str) -> Archive:
    """The archive of a ticket as it is frozen."""
    await stand.call("HEAD", f"/ticket/{ticket}/download")
    archive = await stand.downloads.archives.open(await stand.downloads.store.get(ticket))
    assert archive is not None
    return archive


async def sent(stand: Stand, archive: Archive, *parts: ByteRange) -> bytes:
    """What one answer gives of an archive; with no parts all of it."""
    archives, writer = stand.downloads.archives, Collected()
    wanted = parts or (ByteRange(0, archive.layout.total_bytes - 1),)
    async with archive_content(archive, archives, archives.witness.tracker(archive.ticket), whole=not parts) as content:
        await content.prepare(wanted)
        for part in wanted:
            await content.send(writer, part)
    return bytes(writer.body)


def known(stand: Stand, path: str, size: int) -> dict[str, Any]:
    """A new file, as a ticket that tells its size and CRC-32 has it."""
    url = stand.add(path, size)
    return {"url": url, "size": size, "crc32": zlib.crc32(stand.upstream.content(path))}


async def test_checksums_of_what_is_frozen_anew_are_kept_under_its_own_name(stand: Stand):
    urls = [stand.add("/gone", 10_000, Status(403, method="GET")), stand.add("/last", 20_000)]
    ticket = await stand.ticket(stand.add("/first", 10_000), *urls)
    answer = await stand.download(ticket)
    etag, found = answer.headers["ETag"].strip('"'), answer.entries
    expected = (1, 0, 20_000, zlib.crc32(found["last"]))

    async def are_saved() -> bool:
        segments, _ = await stand.downloads.archives.witness.sums.load(ticket, etag)
        return expected in segments

    await until(are_saved)


async def test_two_downloads_of_a_source_without_a_version_each_list_what_they_sent(stand: Stand):
    one, two = Generated(200_000, seed="one"), Generated(200_000, seed="two")
    plain = stand.add("/plain", Resource(one, etag=None, modified=None))
    held = stand.add("/held", 3 * MIB, Stall(2 * MIB, method="GET", times=1))
    ticket = await stand.ticket(plain, held)
    async with stand.downloading(ticket) as answer:
        begin = await answer.content.readexactly(300_000)
        stand.add("/plain", Resource(two, etag=None, modified=None))
        other = await stand.download(ticket)
        stand.upstream.release("/held")
        rest = await answer.content.read()
    assert other.entries["plain"] == two[:]
    assert entries_of(begin + rest)["plain"] == one[:]


async def test_any_number_of_files_may_fail_before_the_first_byte(stand: Stand):
    urls = [
        stand.add(f"/small{number}", 100, *([Status(403, method="GET")] if number % 2 else [])) for number in range(30)
    ]
    found = (await stand.fetch(*urls)).entries
    assert len(reasons(found.pop(REPORT))) == 15
    assert found.keys() == {f"small{number}" for number in range(0, 30, 2)}


async def test_what_changed_is_not_left_out_because_another_file_failed(stand: Stand):
    ticket = await stand.ticket(*(stand.add(f"/{name}", 100_000) for name in ("bad", "changing", "good")))
    await opened(stand, ticket)
    stand.add("/bad", 100_000, Status(403))
    stand.add("/changing", Generated(100_000, seed="another"))
    found = (await stand.download(ticket)).entries
    assert reasons(found.pop(REPORT)).keys() == {"bad"}
    assert found["changing"] == Generated(100_000, seed="another")[:]


async def test_wrong_size_and_checksum_in_the_ticket_do_not_spoil_the_rest(stand: Stand):
    wrong = {"url": stand.add("/wrong", 1000), "size": 999, "crc32": 1}
    assert (await stand.fetch(wrong, stand.add("/right", 1000))).entries.keys() == {"wrong", "right"}


async def test_wrong_size_in_the_ticket_does_not_spoil_the_rest_where_nothing_is_probed(make_stand: MakeStand):
    async with make_stand({"probe": "never"}) as stand:
        items = [{"url": stand.add(path, 1000), "size": size} for path, size in (("/wrong", 999), ("/right", 1000))]
        found = (await stand.fetch(*items)).entries
        assert found["right"] == stand.upstream.content("/right")
        assert found.get("wrong") in {None, stand.upstream.content("/wrong")}


async def test_ticket_for_one_use_is_used_up_where_its_length_proves_wrong(stand: Stand):
    lying = stand.add("/lying", 1000, Headers({"Content-Length": "999"}, method="HEAD"))
    ticket = await stand.ticket(lying, once=True)
    answer = await stand.download(ticket)
    assert answer.entries == {"lying": stand.upstream.content("/lying")}

    async def is_used_up() -> bool:
        return (await stand.call("HEAD", f"/ticket/{ticket}/download")).status == 404

    await until(is_used_up)


async def test_file_longer_than_the_ticket_says_is_never_sent_as_whole(stand: Stand):
    content = Generated(3 * MIB)
    url = stand.add("/long", Resource(content, framing=Framing.CHUNKED, ranges=False), Stall(2 * MIB, seconds=0.2))
    ticket = await stand.ticket({"url": url, "size": 2 * MIB})
    archive = await opened(stand, ticket)
    with pytest.raises(Aborted):
        await sent(stand, archive)


async def test_two_first_requests_at_once_make_one_archive(stand: Stand):
    ticket = await stand.ticket(stand.add("/shared", MIB, Stall(0, method="GET")))

    def gets() -> list[SeenRequest]:
        return [request for request in stand.upstream.seen("/shared") if request.method == "GET"]

    both = [asyncio.create_task(stand.download(ticket)) for _ in range(2)]
    await stand.upstream.wait_for(lambda: len(gets()) == 2)
    stand.upstream.release("/shared")
    answers = await asyncio.gather(*both)
    assert answers[0].body == answers[1].body
    assert len(gets()) == 2


async def test_nothing_is_lost_that_a_directory_already_told_of_lists(stand: Stand):
    ticket = await stand.ticket(known(stand, "/good", 1000), known(stand, "/bad", MIB))
    archive = await opened(stand, ticket)
    layout = archive.layout
    archives = stand.downloads.archives
    async with archive_content(
        archive, archives, archives.witness.tracker(archive.ticket), whole=False
    ) as content_of_tail:
        tail = ByteRange(layout.tail_offset, layout.total_bytes - 1)
        await content_of_tail.prepare([tail])
        await content_of_tail.read(tail)
        stand.add("/bad", MIB, Cut(MIB // 2, times=1), Status(404))
        with pytest.raises(Aborted):
            await sent(stand, archive)


async def test_loss_that_another_process_wrote_down_meanwhile_is_in_no_directory(stand: Stand):
    ticket = await stand.ticket(*(known(stand, f"/{name}", MIB) for name in ("lost", "kept")))
    archive = await opened(stand, ticket)
    failure = Failure("lost", "http://host/lost", "gone", "gone")
    await stand.downloads.archives.witness.layouts.lose(ticket, archive.layout.etag, entry=0, failure=failure)
    assert entries_of(await sent(stand, archive)).keys() == {"kept", REPORT}


async def test_archive_that_had_losses_never_comes_back(make_stand: MakeStand):
    async with make_stand({"probe": "auto", "remember_s": 0, "pad_bytes": 2 * MIB}) as stand:
        ticket = await stand.ticket(stand.add("/before", 1000), stand.add("/breaking", 3 * MIB))
        await opened(stand, ticket)
        stand.add("/breaking", 3 * MIB, Cut(2 * MIB, times=1), Status(404))
        lossy = await stand.download(ticket)
        stand.add("/breaking", 3 * MIB)
        tags = [lossy.headers["ETag"]]
        for _ in range(2):
            async with stand.downloading(ticket) as answer:
                tags.append(answer.headers["ETag"])
            await stand.downloads.archives.witness.layouts.mark_stale(ticket, "zip", tags[-1].strip('"'), items=[0])
        assert tags[0] not in tags[1:]


async def test_what_is_found_unchanged_is_stale_no_more(stand: Stand):
    ticket = await stand.ticket(stand.add("/steady", 1000))
    layouts, etag = stand.downloads.archives.witness.layouts, (await opened(stand, ticket)).layout.etag
    await layouts.mark_stale(ticket, "zip", etag, items=[0])
    assert (await stand.download(ticket)).headers["ETag"] == f'"{etag}"'
    assert await layouts.stamp(ticket, "zip") == Stamp(etag, 1)


async def test_many_entries_without_data_hold_nobody_up(stand: Stand):
    archive = await opened(stand, await stand.ticket(*({"path": f"{number}/"} for number in range(5000))))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    await sent(stand, archive, ByteRange(0, archive.layout.tail_offset - 1))
    task.cancel()
    await asyncio.wait({task})
    assert turns > 10


async def test_journals_that_cannot_be_read_are_in_nobodys_way(stand: Stand):
    ticket = await stand.ticket(stand.add("/file", MIB))
    folder = stand.gateway.core.settings.data_dir / "archive"
    folder.mkdir(exist_ok=True)
    (folder / ticket).write_bytes(b"")
    assert (await stand.download(ticket)).entries.keys() == {"file"}
    assert (await stand.download(ticket)).entries.keys() == {"file"}


async def test_answers_that_stand_at_the_same_place_are_told_apart(stand: Stand):
    archive = await opened(stand, await stand.ticket(stand.add("/same", 10)))
    with archive.serving(9) as first:
        with archive.serving(9):
            pass
        assert archive.served[0] is first
    assert archive.served == []
