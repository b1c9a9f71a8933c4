from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientSession, web

from gateway_blocks.files.media import media_type
from gateway_blocks.files.root import OpenFile, Root
from gateway_blocks.web.file_response import as_representation
from gateway_core.errors import SourceChanged
from gateway_core.http.conditional import format_http_date
from gateway_core.http.gone import ClientGone
from gateway_core.http.representation import send_representation
from gateway_core.testing.requirements import require_program
from tests.blocks.files import aged
from tests.blocks.programs import run
from tests.core.http_serving import Answer, Serving, parsed, serving

SIZE = 200_003
DATA = random.Random(7).randbytes(SIZE)
SMALL = DATA[:20_000]
BIG = DATA * 200
STALL_S = 1.0


class Shop:
    """A folder of files, served on loopback."""

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
            found = as_representation(file, headers=self.headers, media_type=kind)
            return await send_representation(request, found, stall_s=STALL_S)

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


async def test_curl_resumes_a_download(shop: Shop, tmp_path: Path) -> None:
    curl = require_program("curl")
    (tmp_path / "data.bin").write_bytes(DATA[:77_777])
    url = f"http://127.0.0.1:{shop.server.port}/data.bin"
    ran = await run(curl, "--fail", "--silent", "--show-error", "-C", "-", "-O", url, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, "")
    assert (tmp_path / "data.bin").read_bytes() == DATA
