from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientSession, web

from gateway_core.errors import GatewayError, PreconditionFailed, RangeNotSatisfiable, SourceChanged, Unavailable
from gateway_core.http.conditional import ETag, Validators
from gateway_core.http.gone import ClientGone
from gateway_core.http.ranges import ByteRange
from gateway_core.http.representation import (
    SMALL_BYTES,
    FileContent,
    RangeSupport,
    Representation,
    send_representation,
)
from gateway_core.http.stream import ResponseWriter
from tests.core.http_serving import Answer, Serving, parsed, serving

SIZE = 200_003
DATA = random.Random(7).randbytes(SIZE)
SMALL = DATA[:20_000]
BIG = DATA * 200
STALL_S = 1.0
KIND = "application/octet-stream"
CURRENT = Validators(ETag("now"), modified=1_700_000_000.0)


class Shop:
    """A folder of files, served on loopback; all are of the version CURRENT."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.headers: dict[str, str] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.server = Serving()

    def put(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.write_bytes(data)
        return path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        with (self.root / request.path[1:]).open("rb") as file:
            content = FileContent(file.fileno(), os.fstat(file.fileno()).st_size)
            self.meanwhile()
            found = Representation(KIND, CURRENT, self.headers, lambda: nullcontext(content))
            return await send_representation(request, found, stall_s=STALL_S)

    async def ask(self, name: str, *fields: str, method: str = "GET") -> Answer:
        return parsed(await self.server.exchange(request(name, *fields, "Connection: close", method=method)))


def request(name: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} /{name} HTTP/1.1", "Host: h", *fields, "", ""]).encode()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path)
    shop.put("data.bin", DATA)
    async with serving(shop.handle) as shop.server:
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
    assert answer.parts == [(shown(first, last), KIND, DATA[first : last + 1]) for first, last in ranges]


@pytest.mark.parametrize("fields", [[], ["Range: bytes=-5"]], ids=["whole", "suffix"])
async def test_an_empty_file_is_whole(shop: Shop, fields: list[str]) -> None:
    shop.put("empty", b"")
    answer = await shop.ask("empty", *fields)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "0", b"")


async def test_an_empty_file_has_no_first_byte(shop: Shop) -> None:
    shop.put("empty", b"")
    answer = await shop.ask("empty", "Range: bytes=0-0")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")


HELD = ["If-None-Match: {etag}", 'If-None-Match: "x", W/{etag}', "If-None-Match: *", "If-Modified-Since: {modified}"]


@pytest.mark.parametrize("condition", HELD)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_version_that_is_known_is_not_sent_again(shop: Shop, method: str, condition: str) -> None:
    kept = {"Cache-Control": "private", "Expires": "Fri, 29 Oct 2094 19:43:31 GMT", "Vary": "Accept"}
    shop.headers = {"Content-Disposition": "attachment", "Repr-Digest": "sha-256=:x:", **kept}
    known = (await shop.ask("data.bin")).headers
    condition = condition.format(etag=known["etag"], modified=known["last-modified"])
    answer = await shop.ask("data.bin", condition, "Range: bytes=0-5", method=method)
    assert (answer.status, answer.body) == (304, b"")
    kept = {"etag", "last-modified", *(name.lower() for name in kept)}
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
    shop.meanwhile = lambda: os.truncate(path, 10)
    answer = await shop.ask("small", *fields)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert isinstance(await shop.server.end(), Unavailable)


async def test_head_asks_nothing_of_the_disk(shop: Shop) -> None:
    path = shop.put("small", SMALL)
    shop.meanwhile = lambda: os.truncate(path, 10)
    answer = await shop.ask("small", method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(SMALL)))


async def test_a_client_that_takes_nothing_is_cut(shop: Shop) -> None:
    shop.put("big", BIG)
    async with shop.server.idle(request("big")):
        began = time.monotonic()
        error = await shop.server.end()
        assert time.monotonic() - began >= STALL_S
    assert isinstance(error, ClientGone)
    assert error.detail == "took nothing for 1 s"


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


class Bytes:
    """Content that is no file, and of which ``missing`` bytes are not there any more."""

    def __init__(self, data: bytes, *, missing: int = 0) -> None:
        self.size_bytes = len(data)
        self._there = data[: len(data) - missing]

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        """Nothing to do."""

    async def read(self, part: ByteRange) -> bytes:
        found = self._there[part.first : part.last + 1]
        if len(found) < part.length:
            raise SourceChanged("it ends too early")
        return found

    async def send(self, writer: ResponseWriter, part: ByteRange) -> None:
        await writer.write(await self.read(part))


@asynccontextmanager
async def nothing_there() -> AsyncIterator[Bytes]:
    raise AssertionError("the content is not needed")
    yield


def selling(content: Callable) -> Callable:
    async def handle(asked: web.Request) -> web.StreamResponse:
        return await send_representation(asked, Representation(KIND, CURRENT, {}, content), stall_s=STALL_S)

    return handle


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
async def test_content_that_is_no_file_comes_in_ranges_too(data: bytes) -> None:
    last = len(data) - 1
    async with serving(selling(lambda: nullcontext(Bytes(data)))) as server:
        whole = parsed(await server.exchange(request("", "Connection: close")))
        parts = parsed(await server.exchange(request("", f"Range: bytes=-7,0-{last - 9}", "Connection: close")))
    assert (whole.status, whole.headers["etag"], whole.body) == (200, '"now"', data)
    assert [found for _, _, found in parts.parts] == [data[-7:], data[: last - 8]]


async def test_content_that_fails_after_the_head_cuts_the_answer() -> None:
    async with serving(selling(lambda: nullcontext(Bytes(DATA, missing=1)))) as server, ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as answer:
            assert answer.status == 200
            with pytest.raises(ClientPayloadError):
                await answer.read()
        assert isinstance(await server.end(), SourceChanged)


@pytest.mark.parametrize(("field", "status"), [('If-None-Match: "now"', 304), ('If-Match: "other"', 412)])
async def test_content_is_not_opened_for_an_answer_without_it(field: str, status: int) -> None:
    async with serving(selling(nothing_there)) as server:
        assert parsed(await server.exchange(request("", field, "Connection: close"))).status == status


async def test_the_answer_to_another_method_is_whole_whatever_is_asked_of_a_get(shop: Shop) -> None:
    answer = await shop.ask("data.bin", 'If-None-Match: "now"', "Range: bytes=0-5", method="POST")
    assert (answer.status, answer.body) == (200, DATA)


class Ready(Bytes):
    """Content that notes what it is prepared for, and then fails as it is told to."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        super().__init__(data)
        self.steps: list[list[tuple[int, int]] | str] = []
        self._error = error

    async def prepare(self, parts: Sequence[ByteRange]) -> None:
        self.steps.append([(part.first, part.last) for part in parts])
        if self._error is not None:
            raise self._error

    async def read(self, part: ByteRange) -> bytes:
        self.steps.append("bytes")
        return await super().read(part)


@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
@pytest.mark.parametrize("asked", [None, [(500, 509)], [(900, 19_000), (0, 9)]], ids=["whole", "part", "parts"])
async def test_content_is_prepared_for_the_parts_as_they_will_be_sent(data: bytes, asked: list | None) -> None:
    content = Ready(data)
    fields = ["Range: bytes=" + ",".join(f"{first}-{last}" for first, last in asked)] if asked else []
    async with serving(selling(lambda: nullcontext(content))) as server:
        await server.exchange(request("", *fields, "Connection: close"))
    parts = asked or [(0, len(data) - 1)]
    assert content.steps == [parts, *["bytes"] * len(parts)]


async def test_head_prepares_nothing() -> None:
    content = Ready(SMALL)
    async with serving(selling(lambda: nullcontext(content))) as server:
        await server.exchange(request("", "Connection: close", method="HEAD"))
    assert content.steps == []


class Anew(GatewayError):
    """A plugin's own, never meant for a client."""

    status = 418


@pytest.mark.parametrize("error", [Anew("try again"), SourceChanged("another version")], ids=["own", "source"])
@pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])
async def test_what_preparing_raises_is_the_answer(data: bytes, error: GatewayError) -> None:
    async with serving(selling(lambda: nullcontext(Ready(data, error)))) as server:
        answer = parsed(await server.exchange(request("", "Connection: close")))
        assert answer.status == error.status
        assert await server.end() is error


async def test_what_is_no_error_of_a_source_passes_when_small_content_is_read() -> None:
    error = Anew("try again")

    class Odd(Bytes):
        async def read(self, part: ByteRange) -> bytes:
            raise error

    async with serving(selling(lambda: nullcontext(Odd(SMALL)))) as server:
        assert parsed(await server.exchange(request("", "Connection: close"))).status == error.status
        assert await server.end() is error


RANGE, SAME, OTHER = "Range: bytes=3-5", 'If-Range: "now"', 'If-Range: "then"'


@pytest.mark.parametrize(
    ("support", "fields", "status"),
    [
        (RangeSupport.ALWAYS, [RANGE], 206),
        (RangeSupport.WITH_IF_RANGE, [RANGE], 200),
        (RangeSupport.WITH_IF_RANGE, [f"Range: bytes={SIZE}-"], 200),
        (RangeSupport.WITH_IF_RANGE, [RANGE, OTHER], 200),
        (RangeSupport.WITH_IF_RANGE, [RANGE, SAME], 206),
        (RangeSupport.NEVER, [RANGE], 200),
        (RangeSupport.NEVER, [RANGE, SAME], 200),
        (RangeSupport.NEVER, [f"Range: bytes={SIZE}-"], 200),
    ],
)
async def test_range_is_obeyed_where_it_is_supported(support: RangeSupport, fields: list[str], status: int) -> None:
    shown = Representation(KIND, CURRENT, {}, lambda: nullcontext(Bytes(DATA)), support)

    async def handle(asked: web.Request) -> web.StreamResponse:
        return await send_representation(asked, shown, stall_s=STALL_S)

    async with serving(handle) as server:
        answer = parsed(await server.exchange(request("", *fields, "Connection: close")))
    assert (answer.status, answer.body) == (status, DATA if status == 200 else DATA[3:6])
    assert answer.headers["accept-ranges"] == ("none" if support is RangeSupport.NEVER else "bytes")


async def test_headers_that_are_given_win(shop: Shop) -> None:
    shop.headers = {"accept-ranges": "none", "Link": "</x>; rel=describedby"}
    answer = await shop.ask("data.bin", "Range: bytes=0-5")
    assert answer.headers["accept-ranges"] == "none"
    assert answer.headers["link"] == "</x>; rel=describedby"
