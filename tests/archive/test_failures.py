"""Sources that fail: continued where that is possible, told where it is not, never passed off as good."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError

from gateway_core.testing import Upstream
from gateway_core.testing.curl import CurlExit, curl
from gateway_core.testing.upstream_answer import Answer, Framing, Resource
from gateway_core.testing.upstream_behaviour import Cut, Reset, Stall, Status
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, REPORT, Stand, reasons

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = [200_000, 3 * MIB]


@dataclass(frozen=True)
class CutWhole(Cut):
    """Breaks off every answer but those to a Range."""

    def touches(self, right: Answer) -> bool:
        return right.status == 200 and super().touches(right)


# Continued


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fault", [CutWhole, Stall, Reset])
async def test_source_that_breaks_off_is_continued(stand: Stand, size: int, fault: type):
    once = {} if fault is CutWhole else {"times": 1 if size < MIB else 2}
    url = stand.add("/a", size, fault(size // 2, **once))
    assert (await stand.fetch(url)).entries == {"a": stand.upstream.content("/a")}


@pytest.mark.parametrize("size", SIZES)
async def test_source_is_continued_with_range_and_if_range(stand: Stand, size: int):
    resource = Resource(b"x" * size, etag='"v1"')
    url = stand.add("/a", resource, CutWhole(size // 2))
    headers = {"Authorization": "of the user"}
    await stand.fetch({"url": url, "headers": headers})
    last = stand.upstream.requests[-1]
    assert (last.status, last.headers["Range"], last.headers["If-Range"]) == (206, f"bytes={size // 2}-", '"v1"')
    assert last.headers["Authorization"] == "of the user"


async def test_source_is_continued_as_often_as_allowed(make_stand: MakeStand):
    async with make_stand({"resume_tries": 3}) as stand:
        url = stand.add("/a", 400_000, Cut(100_000, times=3))
        answer = await stand.fetch(stand.add("/good", 10), url)
        assert answer.entries.keys() == {"good", "a"}
        assert [request.sent_bytes for request in stand.upstream.seen("/a")] == [100_000] * 4


async def test_source_that_breaks_off_more_often_is_given_up(make_stand: MakeStand):
    async with make_stand({"resume_tries": 3}) as stand:
        url = stand.add("/a", 500_000, Cut(10_000))
        answer = await stand.fetch(stand.add("/good", 10), url)
        assert reasons(answer.entries[REPORT]) == {"a": "failed: broke off"}
        assert len(stand.upstream.seen("/a")) == 4


async def test_source_without_a_validator_is_not_continued(stand: Stand):
    url = stand.add("/a", Resource(b"x" * 200_000, etag=None, modified=None), Cut(100_000, times=1))
    answer = await stand.fetch(stand.add("/good", 10), url)
    assert answer.entries.keys() == {"good", REPORT}


# Reported


async def test_report_is_the_last_entry_and_names_each_failure(stand: Stand):
    answer = await stand.fetch(
        stand.add("/1.txt", b"", Status(404)),
        stand.add("/2.txt", b"two"),
        {"url": stand.add("/3.txt", b"", Status(503)), "path": "folder"},
        stand.add("/4.txt", 100, Reset()),
    )
    assert list(answer.entries) == ["2.txt", REPORT]
    assert reasons(answer.entries[REPORT]) == {
        "1.txt": "gone: status 404",
        "folder/3.txt": "gone: status 503",
        "4.txt": "failed: connection failed",
    }
    assert answer.entries[REPORT].startswith(b"3 of 4 files could not be downloaded")


async def test_archive_without_failures_has_no_report(stand: Stand):
    assert list((await stand.fetch(stand.add("/a", 10))).entries) == ["a"]


async def test_report_keeps_its_name_from_files(stand: Stand):
    answer = await stand.fetch({"url": stand.add("/a", b"a"), "name": REPORT}, stand.add("/b", b"", Status(404)))
    assert answer.entries.keys() == {"_DOWNLOAD-REPORT (2).txt", REPORT}
    assert answer.entries["_DOWNLOAD-REPORT (2).txt"] == b"a"


async def test_report_tells_no_secrets(stand: Stand):
    url = stand.add("/a", b"", Status(404)).replace("://", "://user:PLANTED@") + "?signature=PLANTED#PLANTED"
    item = {"url": url, "headers": {"X-Key": "PLANTED"}}
    report = (await stand.fetch(stand.add("/good", 10), item)).entries[REPORT]
    assert b"PLANTED" not in report
    assert f"from {stand.upstream.base_url}/a\r\n".encode() in report


async def test_report_has_the_date_of_its_ticket(stand: Stand):
    answer = await stand.fetch(stand.add("/good", 10), stand.add("/a", b"", Status(404)))
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        date = datetime(*archive.getinfo(REPORT).date_time, tzinfo=UTC)
    assert abs((datetime.now(UTC) - date).total_seconds()) < 60


@pytest.mark.parametrize("size", SIZES)
async def test_failure_in_the_middle_is_reported_and_the_rest_is_good(stand: Stand, size: int):
    urls = [
        stand.add("/1", 50_000),
        stand.add("/2", size, Cut(size // 3)),
        stand.add("/3", 2 * MIB),
        stand.add("/4", 9),
    ]
    answer = await stand.fetch(*urls)
    truth = {name: stand.upstream.content(f"/{name}") for name in ("1", "3", "4")}
    assert {name: data for name, data in answer.entries.items() if name != REPORT} == truth
    assert reasons(answer.entries[REPORT]).keys() == {"2"}


async def test_first_file_that_fails_in_the_middle_leaves_a_good_archive(stand: Stand):
    answer = await stand.fetch(stand.add("/1", 3 * MIB, Cut(MIB)), stand.add("/2", b"2"))
    assert answer.entries.keys() == {"2", REPORT}


# Skipped


async def test_skip_leaves_failures_out_and_tells_nobody(stand: Stand):
    urls = [stand.add("/1", b"1"), stand.add("/2", b"", Status(404)), stand.add("/3", 3 * MIB, Cut(MIB))]
    assert list((await stand.fetch(*urls, on_error="skip")).entries) == ["1"]


# Aborted


async def cut_off(stand: Stand, ticket: str) -> None:
    """Download, and see that it is no whole answer."""
    with pytest.raises((ClientPayloadError, ServerDisconnectedError)):
        await stand.download(ticket)


@pytest.mark.parametrize("size", SIZES)
async def test_abort_cuts_the_connection(stand: Stand, size: int):
    good, bad = stand.add("/good", 3 * MIB), stand.add("/bad", size, Cut(size // 3))
    await cut_off(stand, await stand.ticket(good, bad, on_error="abort"))


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_sees_that_an_aborted_download_is_not_whole(stand: Stand, version: str):
    good, bad = stand.add("/good", 3 * MIB), stand.add("/bad", 3 * MIB, Cut(MIB))
    ticket = await stand.ticket(good, bad, on_error="abort")
    done = await curl(version, f"{stand.gateway.url}/ticket/{ticket}/download")
    assert done.code in {CurlExit.PARTIAL_FILE, CurlExit.RECEIVE_ERROR}
    assert done.body.startswith(b"PK\x03\x04")
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(done.body))


async def test_abort_before_the_first_byte_is_an_error_answer(stand: Stand):
    answer = await stand.fetch(stand.add("/bad", b"", Status(404)), stand.add("/good", 10), on_error="abort")
    assert answer.status == 502
    assert answer.errors["items"] == [
        {"name": "bad", "url": f"{stand.upstream.base_url}/bad", "reason": "gone: status 404"}
    ]


async def test_abort_without_failures_is_a_whole_archive(stand: Stand):
    assert (await stand.fetch(stand.add("/a", b"a"), on_error="abort")).entries == {"a": b"a"}


async def test_stream_that_breaks_off_is_cut(stand: Stand):
    url = stand.add("/a", Resource(b"x" * 3 * MIB, framing=Framing.CHUNKED, etag=None, modified=None), Cut(MIB))
    await cut_off(stand, await stand.ticket(url, type="stream"))


async def test_stream_that_breaks_off_is_continued(stand: Stand):
    url = stand.add("/a", 3 * MIB, CutWhole(MIB))
    assert (await stand.fetch(url, type="stream")).body == stand.upstream.content("/a")


# Nothing at all


@pytest.mark.parametrize("mode", ["report", "skip", "abort"])
async def test_when_nothing_can_be_had_there_is_an_error_and_no_zip(stand: Stand, mode: str):
    urls = [stand.add("/1", b"", Status(404)), stand.add("/2", b"", Status(500))]
    answer = await stand.fetch(*urls, on_error=mode)
    assert answer.status == 502
    assert answer.headers["Content-Type"].startswith("application/json")
    assert b"PK" not in answer.body
    told = {item["name"]: item["reason"] for item in answer.errors["items"]}
    first, second = {"1": "gone: status 404"}, {"2": "gone: status 500"}
    assert told == (first if mode == "abort" else {**first, **second})


async def test_folders_alone_do_not_make_up_for_failed_files(stand: Stand):
    answer = await stand.fetch({"path": "folder/"}, stand.add("/1", b"", Status(404)))
    assert answer.status == 502


async def test_server_that_is_not_there_is_told_without_details(stand: Stand):
    async with Upstream() as gone:
        url = gone.add("/a", 1)
    answer = await stand.fetch(url)
    assert answer.status == 502
    assert answer.errors["items"][0]["reason"] == "failed: connection failed"


async def test_error_lists_a_hundred_reasons_at_most(stand: Stand):
    bad = stand.add("/bad", b"", Status(404))
    answer = await stand.fetch(*[f"{bad}?{n}" for n in range(150)])
    assert (answer.status, len(answer.errors["items"])) == (502, 100)
