"""Downloads of known length: whole, in ranges, and after whatever went wrong."""

from __future__ import annotations

import asyncio
import io
import random
import tarfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway_core.testing.upstream_answer import Generated, Resource
from gateway_core.testing.upstream_behaviour import Stall
from tests.archive.conftest import IMPATIENT
from tests.archive.stand import MIB, Answer, Stand, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = {"/empty.bin": 0, "/tiny.txt": 11, "/small.bin": 70_000, "/block.bin": 65_535, "/large.bin": 3 * MIB + 17}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    settings = {"plugins": "archive", "archive": {**IMPATIENT, "probe": "auto"}}
    async with standing(tmp_path_factory.mktemp("sized"), settings, templates=gateway_templates) as stood:
        for path, size in SIZES.items():
            stood.add(path, Generated(size, seed=path))
        yield stood


@pytest.fixture
def stand(shared: Stand) -> Stand:
    shared.upstream.requests.clear()
    return shared


def items(stand: Stand, *, known: bool) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = [{"path": "folder/"}]
    for path, size in SIZES.items():
        item: dict[str, Any] = {"url": f"{stand.upstream.base_url}{path}?{known}"}
        if known:
            item |= {"size": size, "crc32": zlib.crc32(stand.upstream.content(path))}
        found.append(item)
    return found


async def ranged(stand: Stand, ticket: str, first: int, last: int | str = "", **headers: str) -> Answer:
    return await stand.download(ticket, Range=f"bytes={first}-{last}", **headers)


@pytest.mark.parametrize("known", [True, False], ids=["known", "sized"])
async def test_whole_archive_has_its_length_and_all_files(stand: Stand, known: bool):
    ticket = await stand.ticket(*items(stand, known=known))
    head = await stand.call("HEAD", f"/ticket/{ticket}/download")
    answer = await stand.download(ticket)
    assert head.headers["Content-Length"] == answer.headers["Content-Length"] == str(len(answer.body))
    assert head.headers["ETag"] == answer.headers["ETag"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    entries = answer.entries
    assert entries.pop("folder/") == b""
    assert entries == {path[1:]: stand.upstream.content(path) for path in SIZES}


@pytest.mark.parametrize("known", [True, False], ids=["known", "sized"])
async def test_any_range_has_the_bytes_of_the_whole(stand: Stand, known: bool):
    ticket = await stand.ticket(*items(stand, known=known))
    whole = (await stand.download(ticket)).body
    chance = random.Random(6)
    for _ in range(25):
        first = chance.randrange(len(whole))
        last = chance.randrange(first, min(len(whole), first + chance.choice([1, 100, 100_000, len(whole)])))
        answer = await ranged(stand, ticket, first, last)
        assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {first}-{last}/{len(whole)}")
        assert answer.body == whole[first : last + 1]


async def test_rest_costs_the_sources_only_the_rest(stand: Stand):
    ticket = await stand.ticket(*items(stand, known=False))
    whole = (await stand.download(ticket)).body
    place = whole.index(stand.upstream.content("/large.bin")[:30_000]) + 2 * MIB
    stand.upstream.requests.clear()
    rest = await ranged(stand, ticket, place)
    assert rest.body == whole[place:]
    assert sum(request.sent_bytes for request in stand.upstream.requests) <= len(whole) - place


async def test_end_that_is_asked_for_first_has_right_checksums(stand: Stand):
    ticket = await stand.ticket(*items(stand, known=False))
    end = await ranged(stand, ticket, -200)  # type: ignore[arg-type]
    whole = await stand.download(ticket)
    assert whole.body.endswith(end.body)
    assert len(whole.entries) == len(SIZES) + 1


async def test_descriptor_of_a_file_entered_in_its_middle_is_right(stand: Stand):
    ticket = await stand.ticket(*items(stand, known=False))
    head = await stand.call("HEAD", f"/ticket/{ticket}/download")
    length = int(head.headers["Content-Length"])
    middle = length - MIB
    end = await ranged(stand, ticket, middle)
    begin = await ranged(stand, ticket, 0, middle - 1)
    whole = await stand.download(ticket)
    assert begin.body + end.body == whole.body
    assert len(whole.entries) == len(SIZES) + 1


async def test_conditions_are_those_of_http(stand: Stand):
    ticket = await stand.ticket(*items(stand, known=True))
    head = await stand.call("HEAD", f"/ticket/{ticket}/download")
    length, etag = int(head.headers["Content-Length"]), head.headers["ETag"]
    answers = {
        206: await ranged(stand, ticket, length - 10, **{"If-Range": etag}),
        200: await ranged(stand, ticket, length - 10, **{"If-Range": '"another"'}),
        416: await ranged(stand, ticket, length),
        304: await stand.download(ticket, **{"If-None-Match": etag}),
        412: await stand.download(ticket, **{"If-Match": '"another"'}),
    }
    assert {status: answer.status for status, answer in answers.items()} == {status: status for status in answers}
    assert len(answers[200].body) == length
    assert answers[416].headers["Content-Range"] == f"bytes */{length}"


async def test_many_ranges_come_in_one_answer(stand: Stand):
    ticket = await stand.ticket(*items(stand, known=False))
    whole = (await stand.download(ticket)).body
    answer = await stand.download(ticket, Range=f"bytes=0-99,{MIB}-{MIB + 200_000},-50")
    assert answer.status == 206
    boundary = answer.headers["Content-Type"].partition("boundary=")[2]
    parts = answer.body.split(f"--{boundary}".encode())[1:-1]
    bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert bodies == [whole[:100], whole[MIB : MIB + 200_001], whole[-50:]]


async def test_tar_of_the_same_ticket(stand: Stand):
    ticket = await stand.ticket(*items(stand, known=False))
    answer = await stand.call("GET", f"/ticket/{ticket}/download?format=tar")
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="collection.tar"'
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        found = {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}  # type: ignore[union-attr]
    assert found == {path[1:]: stand.upstream.content(path) for path in SIZES}
    part = await stand.call("GET", f"/ticket/{ticket}/download?format=tar", headers={"Range": "bytes=1000-200000"})
    assert part.body == answer.body[1000:200_001]


async def test_second_ticket_knows_the_checksums_of_the_first(stand: Stand):
    url = stand.add("/learned.bin", Generated(200_000, seed="learned"))
    first = await stand.ticket(f"{url}?X-Amz-Signature=one")
    sized = await stand.download(first)
    second = await stand.ticket(f"{url}?X-Amz-Signature=two")
    known = await stand.download(second)
    assert sized.entries == known.entries
    methods = [zipfile.ZipFile(io.BytesIO(answer.body)).infolist()[0].compress_type for answer in (sized, known)]
    assert methods == [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]


async def test_bytes_of_a_slow_source_go_out_as_they_come(stand: Stand):
    url = stand.add("/slow.bin", Resource(Generated(3 * MIB, seed="slow")), Stall(after=1000, times=1))
    ticket = await stand.ticket({"url": url, "size": 3 * MIB})
    async with stand.downloading(ticket) as answer, asyncio.timeout(10):
        assert await answer.content.readexactly(1000)
