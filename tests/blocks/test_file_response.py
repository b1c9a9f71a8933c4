from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientSession, web

from gateway_blocks.files.media import media_type
from gateway_blocks.files.root import OpenFile, Root
from gateway_blocks.web.file_response import SMALL_BYTES, PreconditionFailed, answer_file
from gateway_core import Unavailable
from gateway_core.errors import RangeNotSatisfiable, SourceChanged
from gateway_core.http.conditional import format_http_date
from gateway_core.http.gone import ClientGone
from gateway_core.testing.requirements import require_program
from tests.blocks.files import aged
from tests.blocks.programs import run
from tests.core.http_serving import Serving, serving

SIZE = 200_003
DATA = random.Random(7).randbytes(SIZE)
SMALL = DATA[:20_000]
BIG = DATA * 200
STALL_S = 1.0


@dataclass(frozen=True)
class Answer:
    """A status, headers by lower-case name, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def parts(self) -> list[tuple[str, str, bytes]]:
        """Content-Range, Content-Type and bytes of each part of a multipart body."""
        boundary = self.headers["content-type"].removeprefix("multipart/byteranges; boundary=").encode()
        first, *parts, last = (b"\r\n" + self.body).split(b"\r\n--" + boundary)
        assert (first, last) == (b"", b"--\r\n")
        found = []
        for part in parts:
            head, _, data = part.partition(b"\r\n\r\n")
            headers = BytesParser().parsebytes(head.lstrip(b"\r\n"))
            found.append((headers["Content-Range"], headers["Content-Type"], data))
        return found


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert len(headers) == len(fields)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body)


class Shop:
    """A folder of files, served by ``answer_file`` on loopback."""

    def __init__(self, folder: Path, opener: Root) -> None:
        self.root = folder
        self._open = opener.open
        self.headers: dict[str, str] = {}
        self.meanwhile: Callable[[OpenFile], None] = lambda _file: None
        self.server = Serving()

    def put(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.write_bytes(data)
        return aged(path)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        with await asyncio.to_thread(self._open, (request.path[1:],)) as file:
            assert isinstance(file, OpenFile)
            self.meanwhile(file)
            kind = media_type(file.names[-1])
            return await answer_file(request, file, headers=self.headers, stall_s=STALL_S, media_type=kind)

    async def ask(self, name: str, *fields: str, method: str = "GET") -> Answer:
        return parsed(await self.server.exchange(request(name, *fields, "Connection: close", method=method)))


def request(name: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /{name} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


@asynccontextmanager
async def open_shop(folder: Path) -> AsyncIterator[Shop]:
    with closing(Root(folder)) as root:
        shop = Shop(folder, root)
        async with serving(shop.handle) as shop.server:
            yield shop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    folder = tmp_path / "www"
    folder.mkdir()
    async with open_shop(folder) as shop:
        shop.put("data.bin", DATA)
        yield shop


def shown(first: int, last: int) -> str:
    return f"bytes {first}-{last}/{SIZE}"


SINGLE = {
    "first bytes": ("bytes=0-99", 0, 99),
    "one byte": ("bytes=0-0", 0, 0),
    "the last byte": (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE - 1),
    "as small as is read at once": (f"bytes=1-{SMALL_BYTES}", 1, SMALL_BYTES),
    "larger than is read at once": (f"bytes=1-{SMALL_BYTES + 1}", 1, SMALL_BYTES + 1),
    "suffix": ("bytes=-100", SIZE - 100, SIZE - 1),
    "suffix longer than the file": (f"bytes=-{SIZE + 1}", 0, SIZE - 1),
    "open end": (f"bytes={SIZE - 5}-", SIZE - 5, SIZE - 1),
    "all of it": ("bytes=0-", 0, SIZE - 1),
    "end beyond the file": (f"bytes=5-{SIZE + 5}", 5, SIZE - 1),
    "end of 2^63": ("bytes=7-9223372036854775808", 7, SIZE - 1),
    "end of a thousand digits": (f"bytes=7-{'9' * 1000}", 7, SIZE - 1),
    "unit in capitals": ("BYTES=3-5", 3, 5),
    "spaces": ("bytes= 3-5 ", 3, 5),
    "empty elements": ("bytes=,, 3-5 ,", 3, 5),
    "overlapping": ("bytes=0-50,40-99", 0, 99),
    "adjacent": ("bytes=50-99,0-49", 0, 99),
    "one of two beyond the end": (f"bytes={SIZE}-,3-5", 3, 5),
}


@pytest.mark.parametrize("form", SINGLE)
async def test_one_range_is_answered_with_just_its_bytes(shop: Shop, form: str) -> None:
    asked, first, last = SINGLE[form]
    answer = await shop.ask("data.bin", f"Range: {asked}")
    assert (answer.status, answer.headers["content-range"]) == (206, shown(first, last))
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.body == DATA[first : last + 1]


UNSATISFIABLE = {
    "begins at the end": f"bytes={SIZE}-",
    "beyond the end": f"bytes={SIZE + 1}-{SIZE + 9}",
    "no last bytes": "bytes=-0",
    "begins at 2^63": "bytes=9223372036854775808-",
    "129 parts": "bytes=" + ",".join(f"{n * 10}-{n * 10}" for n in range(129)),
}


@pytest.mark.parametrize("form", UNSATISFIABLE)
async def test_a_range_without_bytes_is_refused_with_the_size(shop: Shop, form: str) -> None:
    answer = await shop.ask("data.bin", f"Range: {UNSATISFIABLE[form]}")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")
    assert isinstance(await shop.server.end(), RangeNotSatisfiable)


IGNORED = {
    "reversed": ["Range: bytes=9-3"],
    "unknown unit": ["Range: items=0-5"],
    "no range": ["Range: bytes="],
    "no numbers": ["Range: bytes=a-b"],
    "negative": ["Range: bytes=--5"],
    "too many digits": [f"Range: bytes={'1' * 1001}-"],
    "one of two is wrong": ["Range: bytes=0-5,x"],
    "two fields": ["Range: bytes=0-5", "Range: bytes=7-8"],
    "stale tag": ["Range: bytes=0-5", 'If-Range: "0-0"'],
    "stale date": ["Range: bytes=0-5", "If-Range: Sat, 29 Oct 1994 19:43:31 GMT"],
    "later date": ["Range: bytes=0-5", "If-Range: Fri, 29 Oct 2094 19:43:31 GMT"],
    "no tag and no date": ["Range: bytes=0-5", "If-Range: nonsense"],
}


@pytest.mark.parametrize("form", IGNORED)
async def test_a_range_that_does_not_hold_is_ignored(shop: Shop, form: str) -> None:
    answer = await shop.ask("data.bin", *IGNORED[form])
    assert (answer.status, answer.headers.get("content-range")) == (200, None)
    assert answer.body == DATA


async def test_head_ignores_ranges(shop: Shop) -> None:
    answer = await shop.ask("data.bin", "Range: bytes=0-5", method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, str(SIZE), b"")
    assert "content-range" not in answer.headers


MULTI = {
    "two": [(0, 4), (10, 14)],
    "as they were asked for": [(500, 509), (0, 9), (100, 109)],
    "large": [(0, 70_000), (80_000, 190_000)],
    "128": [(n * 1000, n * 1000 + n) for n in range(128)],
    "128 large": [(n * 1500, n * 1500 + 1000) for n in range(128)],
}


@pytest.mark.parametrize("form", MULTI)
async def test_several_ranges_are_parts_of_one_answer(shop: Shop, form: str) -> None:
    ranges = MULTI[form]
    answer = await shop.ask("data.bin", "Range: bytes=" + ",".join(f"{first}-{last}" for first, last in ranges))
    assert (answer.status, answer.headers["content-length"]) == (206, str(len(answer.body)))
    assert "content-range" not in answer.headers
    kind = "application/octet-stream"
    assert answer.parts == [(shown(first, last), kind, DATA[first : last + 1]) for first, last in ranges]


@pytest.mark.parametrize("fields", [[], ["Range: bytes=-5"]], ids=["whole", "suffix"])
async def test_an_empty_file_is_whole(shop: Shop, fields: list[str]) -> None:
    shop.put("empty", b"")
    answer = await shop.ask("empty", *fields)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")


async def test_an_empty_file_has_no_first_byte(shop: Shop) -> None:
    shop.put("empty", b"")
    answer = await shop.ask("empty", "Range: bytes=0-0")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")


@pytest.mark.parametrize("validator", ["etag", "last-modified"])
async def test_a_range_of_the_same_version_is_served(shop: Shop, validator: str) -> None:
    known = (await shop.ask("data.bin")).headers[validator]
    answer = await shop.ask("data.bin", "Range: bytes=5-9", f"If-Range: {known}")
    assert (answer.status, answer.body) == (206, DATA[5:10])
    assert answer.headers[validator] == known


async def test_a_file_still_warm_from_writing_is_never_resumed(shop: Shop) -> None:
    (shop.root / "young").write_bytes(DATA)
    tag = (await shop.ask("young")).headers["etag"]
    assert tag.startswith('W/"')
    for validator in (tag, tag.removeprefix("W/")):
        answer = await shop.ask("young", "Range: bytes=5-9", f"If-Range: {validator}")
        assert (answer.status, answer.body) == (200, DATA)


async def test_a_file_says_what_it_is(shop: Shop) -> None:
    stat = shop.put("page.txt", SMALL).stat()
    answer = await shop.ask("page.txt")
    assert answer.body == SMALL
    ours = {name: value for name, value in answer.headers.items() if name not in {"date", "server", "connection"}}
    assert ours == {
        "accept-ranges": "bytes",
        "cache-control": "no-transform",
        "content-length": str(len(SMALL)),
        "content-type": "text/plain; charset=utf-8",
        "etag": f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"',
        "last-modified": format_http_date(stat.st_mtime),
    }


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
async def test_head_has_the_headers_of_get(shop: Shop, data: bytes) -> None:
    shop.put("file.html", data)
    got, head = await shop.ask("file.html"), await shop.ask("file.html", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


async def test_headers_that_are_given_win(shop: Shop) -> None:
    shop.headers = {"cache-control": "private", "Link": "</x>; rel=describedby"}
    answer = await shop.ask("data.bin", "Range: bytes=0-5")
    assert answer.headers["cache-control"] == "private"
    assert answer.headers["link"] == "</x>; rel=describedby"


@pytest.mark.parametrize(("name", "policy"), [("a.html", "sandbox"), ("a.svg", "sandbox"), ("a.txt", None)])
async def test_a_page_may_not_act_as_this_origin(shop: Shop, name: str, policy: str | None) -> None:
    shop.put(name, SMALL)
    assert (await shop.ask(name)).headers.get("content-security-policy") == policy


async def test_a_file_from_the_future_was_not_modified_after_the_answer(shop: Shop) -> None:
    aged(shop.root / "data.bin", seconds=-86400)
    headers = (await shop.ask("data.bin")).headers
    assert headers["etag"].startswith("W/")
    modified, answered = parsedate_to_datetime(headers["last-modified"]), parsedate_to_datetime(headers["date"])
    assert modified <= answered
    assert (await shop.ask("data.bin", "If-Modified-Since: " + headers["last-modified"])).status in {200, 304}


HELD = ["If-None-Match: {etag}", 'If-None-Match: "x", W/{etag}', "If-None-Match: *", "If-Modified-Since: {modified}"]


@pytest.mark.parametrize("condition", HELD)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_version_that_is_known_is_not_sent_again(shop: Shop, method: str, condition: str) -> None:
    shop.headers = {"Content-Disposition": "attachment", "Repr-Digest": "sha-256=:x:", "Vary": "Accept"}
    known = (await shop.ask("data.bin")).headers
    condition = condition.format(etag=known["etag"], modified=known["last-modified"])
    answer = await shop.ask("data.bin", condition, "Range: bytes=0-5", method=method)
    assert (answer.status, answer.body) == (304, b"")
    kept = {"etag", "last-modified", "cache-control", "vary"}
    assert {name: answer.headers[name] for name in kept} == {name: known[name] for name in kept}
    assert set(answer.headers) == {*kept, "date", "server", "connection"}


@pytest.mark.parametrize(
    "fields",
    [
        ['If-None-Match: "x"'],
        ["If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT"],
        ['If-None-Match: "x"', "If-Modified-Since: Fri, 29 Oct 2094 19:43:31 GMT"],
        ["If-Modified-Since: nonsense"],
        ["If-Match: *"],
        ["If-Unmodified-Since: nonsense"],
        ["If-Unmodified-Since: Fri, 29 Oct 2094 19:43:31 GMT"],
    ],
)
async def test_a_version_that_is_not_known_is_sent(shop: Shop, fields: list[str]) -> None:
    answer = await shop.ask("data.bin", *fields)
    assert (answer.status, answer.body) == (200, DATA)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "fields", [['If-Match: "x"'], ["If-Match: W/{etag}"], ["If-Unmodified-Since: Sat, 29 Oct 1994 19:43:31 GMT"]]
)
async def test_another_version_than_the_one_meant_is_refused(shop: Shop, method: str, fields: list[str]) -> None:
    etag = (await shop.ask("data.bin")).headers["etag"]
    assert await shop.server.end() is None
    fields = [field.format(etag=etag) for field in fields]
    answer = await shop.ask("data.bin", *fields, "Range: bytes=0-5", method=method)
    assert (answer.status, answer.headers["etag"]) == (412, etag)
    assert isinstance(await shop.server.end(), PreconditionFailed)


async def test_the_version_meant_is_resumed(shop: Shop) -> None:
    etag = (await shop.ask("data.bin")).headers["etag"]
    answer = await shop.ask("data.bin", f"If-Match: {etag}", "Range: bytes=100000-")
    assert (answer.status, answer.body) == (206, DATA[100_000:])


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
async def test_a_compressed_neighbour_is_never_sent_instead(shop: Shop, data: bytes) -> None:
    shop.put("foo.tar", data)
    for ending in (".gz", ".br", ".zst"):
        shop.put(f"foo.tar{ending}", b"something else")
    accepted = "Accept-Encoding: gzip, deflate, br, zstd"
    for fields, expected in (([accepted], data), ([accepted, "Range: bytes=10-19"], data[10:20])):
        answer = await shop.ask("foo.tar", *fields)
        assert answer.body == expected
        assert not {"content-encoding", "vary"} & set(answer.headers)
    compressed = await shop.ask("foo.tar.gz", accepted)
    assert (compressed.headers["content-type"], compressed.body) == ("application/gzip", b"something else")
    assert "content-encoding" not in compressed.headers


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
async def test_a_file_that_is_not_in_memory_arrives(shop: Shop, data: bytes) -> None:
    path = shop.put("cold", data)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert (await shop.ask("cold")).body == data


@pytest.mark.parametrize("fields", [[], ["Range: bytes=0-9,100-15000"]], ids=["whole", "parts"])
async def test_a_small_file_that_shrinks_before_it_is_read_is_told_so(shop: Shop, fields: list[str]) -> None:
    path = shop.put("small", SMALL)
    shop.meanwhile = lambda _file: os.truncate(path, 10)
    answer = await shop.ask("small", *fields)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert isinstance(await shop.server.end(), Unavailable)


async def test_head_asks_nothing_of_the_disk(shop: Shop) -> None:
    path = shop.put("small", SMALL)
    shop.meanwhile = lambda _file: os.truncate(path, 10)
    answer = await shop.ask("small", method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(SMALL)))


async def test_a_file_truncated_while_it_is_sent_is_an_incomplete_answer(shop: Shop) -> None:
    path = shop.put("big", BIG)
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{shop.server.port}/big") as answer:
        assert await answer.content.readexactly(100_000) == BIG[:100_000]
        os.truncate(path, 100_000)
        with pytest.raises(ClientPayloadError):
            await answer.read()
    assert isinstance(await shop.server.end(), SourceChanged)


async def test_a_file_that_grows_while_it_is_sent_ends_where_it_ended(shop: Shop) -> None:
    path = shop.root / "data.bin"

    def grow(_file: OpenFile) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    shop.meanwhile = grow
    assert (await shop.ask("data.bin")).body == DATA


async def test_a_file_replaced_while_it_is_sent_is_still_the_old_one(shop: Shop) -> None:
    path = shop.put("big", BIG)
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{shop.server.port}/big") as answer:
        found = await answer.content.readexactly(100_000)
        shop.put("new", DATA).rename(path)
        assert found + await answer.read() == BIG


async def test_a_client_that_takes_nothing_is_cut(shop: Shop) -> None:
    shop.put("big", BIG)
    async with shop.server.idle(request("big")):
        began = time.monotonic()
        error = await shop.server.end()
        assert time.monotonic() - began >= STALL_S
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 1 s"


async def test_downloads_that_are_broken_off_leave_no_descriptor(shop: Shop) -> None:
    shop.put("big", BIG)
    await shop.ask("data.bin")
    await shop.server.end()
    before = len(os.listdir("/proc/self/fd"))
    for begin in range(0, 100, 10):
        await asyncio.gather(*(broken_off(shop, 1 + (begin + n) * 5_000) for n in range(10)))
    ends = [await shop.server.end() for _ in range(100)]
    assert {type(end) for end in ends} <= {ClientGone, type(None)}
    assert sum(isinstance(end, ClientGone) for end in ends) > 50
    async with asyncio.timeout(20):
        while len(os.listdir("/proc/self/fd")) > before:  # the loop closes sockets in its own time
            await asyncio.sleep(0.01)


async def broken_off(shop: Shop, after_bytes: int) -> None:
    async with shop.server.connection(limit=4096) as (reader, writer):
        writer.write(request("big"))
        left = after_bytes
        while left > 0:
            left -= len(await reader.read(left))


async def test_a_connection_is_used_for_many_files(shop: Shop) -> None:
    shop.put("small", SMALL)
    wanted = [("data.bin", 200, DATA), ("small", 200, SMALL), ("data.bin", 206, DATA[5:150_000]), ("small", 304, b"")]
    etag = (await shop.ask("small")).headers["etag"]
    fields = [[], [], ["Range: bytes=5-149999"], [f"If-None-Match: {etag}"]]
    async with shop.server.connection() as (reader, writer):
        for (name, status, body), asked in zip(wanted * 3, fields * 3, strict=True):
            writer.write(request(name, *asked))
            assert await next_answer(reader) == (status, body)


async def test_requests_sent_ahead_are_answered_in_their_order(shop: Shop) -> None:
    shop.put("small", SMALL)
    asked = [request("data.bin"), request("small"), request("data.bin", "Range: bytes=7-170000"), request("small")]
    async with shop.server.connection() as (reader, writer):
        writer.write(b"".join(asked))
        answers = [await next_answer(reader) for _ in asked]
    assert answers == [(200, DATA), (200, SMALL), (206, DATA[7:170_001]), (200, SMALL)]


async def next_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(20):
        answer = parsed(await reader.readuntil(b"\r\n\r\n"))
        return answer.status, await reader.readexactly(int(answer.headers.get("content-length", "0")))


async def test_many_clients_at_once_get_what_each_asked_for(shop: Shop) -> None:
    shop.put("big", BIG)
    chosen = random.Random(1)
    ranges = [(first, first + 1 + chosen.randrange(1_000_000)) for first in chosen.choices(range(30_000_000), k=60)]

    async def fetch(session: ClientSession, first: int, last: int) -> bool:
        headers = {"Range": f"bytes={first}-{last}"}
        async with session.get(f"http://127.0.0.1:{shop.server.port}/big", headers=headers) as answer:
            return await answer.read() == BIG[first : last + 1]

    async with ClientSession() as session:
        assert all(await asyncio.gather(*(fetch(session, *found) for found in ranges)))


async def test_http_1_0_is_served_and_closed(shop: Shop) -> None:
    answer = parsed(await shop.server.exchange(b"GET /data.bin HTTP/1.0\r\n\r\n"))
    assert (answer.status, answer.body) == (200, DATA)


async def test_a_small_send_buffer_gives_all_bytes(shop: Shop) -> None:
    async def handle(asked: web.Request) -> web.StreamResponse:
        asked.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return await shop.handle(asked)

    async with serving(handle) as server:
        fields = ["Range: bytes=0-80000,90000-90009,100000-190000", "Connection: close"]
        answer = parsed(await server.exchange(request("data.bin", *fields)))
    assert [data for _, _, data in answer.parts] == [DATA[:80_001], DATA[90_000:90_010], DATA[100_000:190_001]]


async def test_curl_resumes_a_download(shop: Shop, tmp_path: Path) -> None:
    curl = require_program("curl")
    (tmp_path / "data.bin").write_bytes(DATA[:77_777])
    url = f"http://127.0.0.1:{shop.server.port}/data.bin"
    ran = await run(curl, "--fail", "--silent", "--show-error", "-C", "-", "-O", url, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, "")
    assert (tmp_path / "data.bin").read_bytes() == DATA
