"""One file alone: in ranges and under conditions, of one version only, and what a ticket's listing says of it."""

from __future__ import annotations

import asyncio
import io
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError

from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Changed, Cut, Headers, Stall, Status
from tests.archive.conftest import IMPATIENT, MakeStand
from tests.archive.stand import MIB, Item, Stand, standing, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 300_000
CKAN = "https://ckan.example"
UNPROVEN = {"etag": None, "modified": None}
WAYS = ["ticket", "file", "link"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probing(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    """A gateway that asks for sizes first."""
    settings = {"plugins": "archive", "archive": {**IMPATIENT, "probe": "auto"}}
    async with standing(tmp_path_factory.mktemp("probing"), settings, templates=gateway_templates) as stood:
        yield stood


async def link_to(stand: Stand, way: str, url: str) -> str:
    """Path under which the gateway gives the file at ``url`` alone."""
    if way == "link":
        client, secret = await stand.gateway.add_client()
        return f"/stream/url/{jwt.encode({'url': url}, secret, algorithm='HS256')}?client={client.name}"
    if way == "file":
        return f"/ticket/{await stand.ticket({'path': 'folder/'}, url)}/file/1"
    return f"/ticket/{await stand.ticket(url, type='stream')}/download"


async def single(stand: Stand, *args: Any) -> str:
    """Path of a stream ticket's download of a file that is served so."""
    return await link_to(stand, "ticket", stand.add("/a.bin", *args))


# Ranges


@pytest.mark.parametrize(("way", "size"), [("ticket", 1000), ("ticket", SIZE), ("file", SIZE), ("link", SIZE)])
async def test_ranges_of_a_single_file_are_byte_exact(stand: Stand, way: str, size: int):
    path = await link_to(stand, way, stand.add("/a.bin", size))
    right = stand.upstream.content("/a.bin")
    for first, last in [(0, 0), (0, size - 1), (1, size - 2), (size // 2, size - 1), (size - 1, size - 1)]:
        answer = await stand.get(path, Range=f"bytes={first}-{last}")
        assert (answer.status, answer.body) == (206, right[first : last + 1])
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    assert (await stand.get(path, Range="bytes=-7")).body == right[-7:]
    assert (await stand.get(path, Range=f"bytes={size - 9}-")).body == right[-9:]


@pytest.mark.parametrize("size", [1000, SIZE])
async def test_several_ranges_come_as_multipart(stand: Stand, size: int):
    path = await single(stand, size)
    answer = await stand.get(path, Range=f"bytes={size - 100}-,0-{size // 2}")
    assert answer.status == 206
    boundary = answer.headers["Content-Type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2] for part in answer.body.split(b"\r\n--" + boundary)]
    right = stand.upstream.content("/a.bin")
    assert parts[:2] == [right[-100:], right[: size // 2 + 1]]


async def test_a_range_costs_only_the_range(stand: Stand):
    path = await single(stand, 64 * MIB)
    answer = await stand.get(path, Range="bytes=67000000-67100000")
    await stand.upstream.wait_idle()
    assert len(answer.body) == 100_001
    assert sum(request.sent_bytes for request in stand.upstream.requests) == 100_001


async def test_the_whole_costs_one_request(stand: Stand):
    path = await single(stand, SIZE)
    assert (await stand.get(path)).body == stand.upstream.content("/a.bin")
    assert [request.method for request in stand.upstream.requests] == ["GET"]


@pytest.mark.parametrize("way", WAYS)
async def test_range_beyond_the_end_is_416(stand: Stand, way: str):
    path = await link_to(stand, way, stand.add("/a.bin", 1000))
    answer = await stand.get(path, Range="bytes=1000-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */1000")


async def test_empty_file_is_had_with_any_range(stand: Stand):
    path = await single(stand, b"")
    assert [(await stand.get(path, **asked)).status for asked in ({}, {"Range": "bytes=-1"})] == [200, 200]
    assert (await stand.get(path, Range="bytes=0-")).status == 416


@pytest.mark.parametrize("way", WAYS)
async def test_head_tells_version_size_and_ranges_and_reads_nothing(stand: Stand, way: str):
    path = await link_to(stand, way, stand.add("/a.bin", SIZE))
    head = await stand.call("HEAD", path)
    assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
    assert head.headers["Accept-Ranges"] == "bytes"
    assert [request.sent_bytes for request in stand.upstream.requests] == [0]
    got = await stand.get(path)
    told = ("ETag", "Last-Modified", "Content-Type", "Content-Disposition", "Accept-Ranges", "Content-Security-Policy")
    assert [got.headers[name] for name in told] == [head.headers[name] for name in told]
    assert not got.headers["ETag"].startswith("W/")


async def test_range_of_a_server_that_refuses_head(stand: Stand):
    path = await single(stand, SIZE, Status(403, method="HEAD"))
    answer = await stand.get(path, Range="bytes=10-19")
    assert (answer.status, answer.body) == (206, stand.upstream.content("/a.bin")[10:20])


async def test_range_of_a_server_without_ranges(stand: Stand):
    path = await single(stand, Resource(b"0123456789" * 1000, ranges=False))
    answer = await stand.get(path, Range="bytes=5003-5005")
    assert (answer.status, answer.body) == (206, b"345")


async def test_many_ranges_of_a_server_without_ranges_are_not_each_read_from_the_start(stand: Stand):
    path = await single(stand, Resource(b"0123456789" * 1000, ranges=False))
    answer = await stand.get(path, Range="bytes=5003-5005,9000-9001")
    assert (answer.status, len(answer.body)) == (200, 10_000)
    assert [request.method for request in stand.upstream.requests] == ["HEAD", "GET"]


async def test_range_that_breaks_off_is_continued(stand: Stand):
    path = await single(stand, 4 * MIB, Cut(MIB, times=1))
    answer = await stand.get(path, Range=f"bytes=1000-{3 * MIB}")
    assert answer.body == stand.upstream.content("/a.bin")[1000 : 3 * MIB + 1]


# Conditions


async def test_if_range_decides_between_the_rest_and_the_whole(stand: Stand):
    path = await single(stand, SIZE)
    tag = (await stand.call("HEAD", path)).headers["ETag"]
    rest = await stand.get(path, **{"Range": "bytes=100-", "If-Range": tag})
    other = await stand.get(path, **{"Range": "bytes=100-", "If-Range": '"other"'})
    assert (rest.status, len(rest.body)) == (206, SIZE - 100)
    assert (other.status, len(other.body)) == (200, SIZE)


async def test_date_of_a_file_with_a_tag_proves_nothing(stand: Stand):
    path = await single(stand, 1000)
    date = (await stand.call("HEAD", path)).headers["Last-Modified"]
    assert (await stand.get(path, **{"Range": "bytes=1-", "If-Range": date})).status == 200


async def test_old_date_is_a_validator_where_there_is_no_tag(stand: Stand):
    path = await single(stand, Resource(b"0123456789", etag=None))
    date = (await stand.call("HEAD", path)).headers["Last-Modified"]
    answer = await stand.get(path, **{"Range": "bytes=1-3", "If-Range": date})
    assert (answer.status, answer.body) == (206, b"123")


async def test_what_the_client_has_is_304(stand: Stand):
    path = await single(stand, SIZE)
    tag = (await stand.call("HEAD", path)).headers["ETag"]
    stand.upstream.requests.clear()
    answer = await stand.get(path, **{"If-None-Match": tag})
    assert (answer.status, answer.headers["ETag"]) == (304, tag)
    assert [request.sent_bytes for request in stand.upstream.requests] == [0]


async def test_precondition_that_fails_is_412(stand: Stand):
    path = await single(stand, SIZE)
    assert (await stand.get(path, **{"If-Match": '"other"'})).status == 412


@pytest.mark.parametrize("kind", ["stream", "zip"])
@pytest.mark.parametrize(("condition", "status"), [({"If-Match": '"other"'}, 412), ({"If-None-Match": "*"}, 304)])
async def test_conditions_hold_where_no_version_is_known(
    stand: Stand, kind: str, condition: dict[str, str], status: int
):
    url = stand.add("/a", Resource(b"0123456789", framing=Framing.CHUNKED, ranges=False))
    assert (await stand.download(await stand.ticket(url, type=kind), **condition)).status == status


# Versions


async def test_another_version_is_the_whole_under_another_tag(stand: Stand):
    path = await single(stand, b"old" * 1000)
    tag = (await stand.call("HEAD", path)).headers["ETag"]
    stand.add("/a.bin", b"new" * 1000)
    answer = await stand.get(path, **{"Range": "bytes=10-", "If-Range": tag})
    assert (answer.status, answer.body) == (200, b"new" * 1000)
    assert answer.headers["ETag"] != tag


@pytest.mark.parametrize("size", [1000, SIZE])
async def test_version_that_changes_before_the_answer_is_the_new_whole(stand: Stand, size: int):
    path = await single(stand, size, Headers({}, times=1, method="HEAD"), Changed(b"n" * size))
    answer = await stand.get(path, Range="bytes=10-")
    assert (answer.status, answer.body) == (200, b"n" * size)


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=1-"}], ids=["whole", "range"])
async def test_version_that_changes_on_the_way_is_cut(stand: Stand, asked: dict[str, str]):
    path = await single(stand, 3 * MIB, Cut(MIB, times=1), Changed(b"n" * (3 * MIB)))
    with pytest.raises(ClientPayloadError):
        await stand.get(path, **asked)


async def test_file_without_a_version_is_not_had_in_parts(stand: Stand):
    path = await single(stand, Resource(b"0123456789", **UNPROVEN))
    answer = await stand.get(path, Range="bytes=5-")
    assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (200, b"0123456789", "none")
    assert "ETag" not in answer.headers


async def test_file_without_a_version_is_had_in_parts_where_the_operator_allows_it(make_stand: MakeStand):
    async with make_stand({"resume_unproven": True}) as stand:
        path = await single(stand, Resource(b"0123456789" * 10_000, **UNPROVEN))
        answer = await stand.get(path, Range="bytes=5-7")
        assert (answer.status, answer.body, answer.headers["Accept-Ranges"]) == (206, b"567", "bytes")


async def test_file_of_unknown_size_is_not_had_in_parts(stand: Stand):
    path = await single(stand, Resource(b"0123456789", framing=Framing.CHUNKED, ranges=False))
    answer = await stand.get(path, Range="bytes=5-")
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert "Accept-Ranges" not in answer.headers


async def test_date_in_the_future_is_not_told(stand: Stand):
    path = await single(stand, Resource(b"0123456789", modified=32_000_000_000.0))
    assert "Last-Modified" not in (await stand.get(path)).headers


# Failures


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=1-"}], ids=["whole", "range"])
async def test_small_file_that_breaks_off_for_good_is_502(stand: Stand, asked: dict[str, str]):
    answer = await stand.get(await single(stand, b"0123456789", Cut(1)), **asked)
    assert (answer.status, "the file cannot be had: failed: " in answer.errors["detail"]) == (502, True)


async def test_range_of_a_file_that_is_gone_is_502(stand: Stand):
    answer = await stand.get(await single(stand, b"", Status(404)), Range="bytes=1-")
    assert (answer.status, answer.errors) == (502, {"detail": "the file cannot be had: gone: status 404"})


async def test_file_over_the_limit_is_413_in_parts_too(make_stand: MakeStand):
    async with make_stand({"max_total_bytes": 1000}) as stand:
        paths = [await link_to(stand, way, stand.add("/a.bin", 1001)) for way in WAYS]
        assert {(await stand.call(method, path)).status for method in ("HEAD", "GET") for path in paths} == {413}
        assert {(await stand.get(path, Range="bytes=1-2")).status for path in paths} == {413}


async def test_ticket_for_one_use_is_used_up_by_the_last_of_its_parts(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", SIZE), type="stream", once=True)
    for asked in ("bytes=0-99999", "bytes=200000-", "bytes=100000-199999"):
        assert (await stand.download(ticket, Range=asked)).status == 206

    async def gone() -> bool:
        return (await stand.call("HEAD", f"/ticket/{ticket}/download")).status == 404

    await until(gone)


# A ticket's files


async def test_file_of_a_ticket_has_its_name_in_the_archive(stand: Stand):
    one = {"url": stand.add("/a", b"1"), "name": "x.txt", "path": "docs"}
    ticket = await stand.ticket(one, {"path": "empty/"}, {**one, "url": stand.add("/b", b"2")})
    answers = [await stand.get(f"/ticket/{ticket}/file/{n}") for n in (0, 2)]
    assert [answer.body for answer in answers] == [b"1", b"2"]
    names = [answer.headers["Content-Disposition"] for answer in answers]
    assert names == ['attachment; filename="x.txt"', 'attachment; filename="x (2).txt"']


@pytest.mark.parametrize("n", ["1", "2", "-1", "x", "", "0x0", "\u0660", "9" * 30])
async def test_what_is_no_file_of_the_ticket_is_404(stand: Stand, n: str):
    ticket = await stand.ticket(stand.add("/a", b"a"), {"path": "folder/"})
    assert (await stand.get(f"/ticket/{ticket}/file/{n}")).status == 404


async def test_file_of_a_ticket_for_one_use_is_403(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", b"a"), once=True)
    assert (await stand.get(f"/ticket/{ticket}/file/0")).status == 403


@pytest.mark.parametrize("what", ["file/0", "entries"])
async def test_any_origin_may_browse(stand: Stand, what: str):
    ticket = await stand.ticket(stand.add("/a", b"a"))
    answers = [await stand.get(f"/ticket/{known}/{what}", Origin=CKAN) for known in (ticket, "nope")]
    assert [answer.status for answer in answers] == [200, 404]
    assert [answer.headers["Access-Control-Allow-Origin"] for answer in answers] == ["*", "*"]


async def test_files_beyond_the_active_downloads_are_429(make_stand: MakeStand):
    async with make_stand({"max_active_downloads": 1, "stall_timeout_s": 30}) as stand:
        ticket = await stand.ticket(stand.add("/slow", 10, Stall()), stand.add("/a", b"a"))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(stand.get(f"/ticket/{ticket}/file/0"))
            await stand.upstream.wait_requests(1)
            assert (await stand.get(f"/ticket/{ticket}/file/1")).status == 429
            stand.upstream.release("/slow")
        assert running.result().status == 200


# Entries


async def entries(stand: Stand, *items: Item, **options: Any) -> Any:
    answer = await stand.get(f"/ticket/{await stand.ticket(*items, **options)}/entries")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    return answer.json


def entry(n: int, name: str, **known: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(("size", "crc32", "modified", "offset"))
    return {"n": n, "name": name, **unknown, "state": "ready", **known}


async def test_entries_of_an_archive_of_unknown_length_are_what_the_ticket_says(stand: Stand):
    url = stand.add("/a.txt", b"a")
    items = [url, {"path": "d/"}, {"url": url, "size": 1, "crc32": 7, "modified": 86_400}, {"path": "d/"}, url]
    assert await entries(stand, *items) == {
        "format": "zip",
        "etag": None,
        "length": None,
        "entries": [
            entry(0, "a.txt"),
            entry(1, "d/", size=0, crc32="00000000"),
            entry(2, "a (2).txt", size=1, crc32="00000007", modified="1970-01-02T00:00:00Z"),
            entry(4, "a (3).txt"),
        ],
    }


async def test_entry_of_a_date_that_no_calendar_has(stand: Stand):
    found = await entries(stand, {"url": stand.add("/a.txt", b"a"), "modified": (1 << 40) - 1})
    assert found["entries"] == [entry(0, "a.txt")]


async def test_entries_of_a_stream_ticket_are_its_file(stand: Stand):
    found = await entries(stand, stand.add("/a.txt", b"a"), type="stream")
    assert (found["format"], found["etag"], found["entries"]) == ("stream", None, [entry(0, "a.txt")])


async def test_entries_by_the_thousand_are_all_there(stand: Stand):
    url = stand.add("/a", 1)
    found = await entries(stand, *[{"url": url, "name": f"{n}"} for n in range(1201)])
    assert [listed["name"] for listed in found["entries"]] == [str(n) for n in range(1201)]


async def test_head_of_entries_has_no_body(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1))
    head = await stand.call("HEAD", f"/ticket/{ticket}/entries")
    assert (head.status, head.body) == (200, b"")


async def test_entries_of_a_frozen_archive_are_those_of_the_download(probing: Stand):
    resource = Resource(b"abc", modified=86_400.0)
    urls = [probing.add("/a", resource), probing.add("/b", b"", Status(404)), probing.add("/c", SIZE)]
    ticket = await probing.ticket(urls[0], urls[1], {"path": "d/"}, urls[2])
    listed = (await probing.get(f"/ticket/{ticket}/entries")).json
    download = await probing.download(ticket)
    assert (listed["etag"], listed["length"]) == (download.headers["ETag"], len(download.body))
    with zipfile.ZipFile(io.BytesIO(download.body)) as opened:
        infos = {info.filename: info for info in opened.infolist()}
    first, missing, folder, last = listed["entries"]
    assert first == entry(0, "a", size=3, modified="1970-01-02T00:00:00Z", offset=infos["a"].header_offset)
    assert missing == entry(1, "b", state="failed", reason="gone: status 404")
    assert (folder["n"], folder["name"], folder["offset"]) == (2, "d/", infos["d/"].header_offset)
    assert (last["n"], last["size"], last["offset"]) == (3, SIZE, infos["c"].header_offset)


async def test_entries_know_the_crc32_of_what_went_through(probing: Stand):
    ticket = await probing.ticket(probing.add("/a", SIZE), probing.add("/b", b"b"))
    await probing.download(ticket)
    listed = (await probing.get(f"/ticket/{ticket}/entries")).json["entries"]
    right = [f"{zlib.crc32(probing.upstream.content(path)):08x}" for path in ("/a", "/b")]
    assert [one["crc32"] for one in listed] == right


async def test_entries_of_a_ticket_of_which_nothing_can_be_had_is_502(probing: Stand):
    ticket = await probing.ticket(probing.add("/a", b"", Status(404)))
    assert (await probing.get(f"/ticket/{ticket}/entries")).status == 502
