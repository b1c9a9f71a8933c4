"""Files of the blocks plugin as the real nginx sends them, with the configuration of ``deploy/nginx``."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from multidict import CIMultiDictProxy
from yarl import URL

from gateway_core.testing.process import ServeProcess, run_gateway, serve_process
from gateway_core.testing.requirements import require_program
from tests.e2e.test_nginx import PATIENCE_S, nginx, port_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
DATA = os.urandom(3 * MIB + 7)
PAGE = b"<script>alert(document.domain)</script>"
OLD_S = 1_700_000_000
NAMES = b"a b|a+b&c=d|100%|%41|what?|#1|..x|\xc3\xbc|\xff".split(b"|")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass
class Front:
    """A gateway that lets nginx send the files of ``root``, and nginx at ``url`` before it."""

    gateway: ServeProcess
    root: Path
    url: str

    async def ask(
        self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", base: str = ""
    ) -> Answer:
        url = URL(f"{base or self.url}{path}", encoded=True)
        async with ClientSession(auto_decompress=False) as session:
            async with session.request(method, url, headers=headers, allow_redirects=False) as answer:
                return Answer(answer.status, answer.headers, await answer.read())


def put(root: Path, name: bytes, data: bytes) -> Path:
    """A file that anybody may read, as old as to have a strong tag."""
    path = root / os.fsdecode(name)
    path.write_bytes(data)
    path.chmod(0o644)
    os.utime(path, (OLD_S, OLD_S))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory) -> AsyncIterator[Front]:
    """Its root is where the workers of nginx, who are nobody when root has started it, may look."""
    require_program("nginx")
    folder = tmp_path_factory.mktemp("accel")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        root.chmod(0o755)
        put(root, b"data.bin", DATA)
        put(root, b"page.html", PAGE)
        for name in NAMES:
            put(root, name, name)
        (root / "link.bin").symlink_to("data.bin")
        env = {
            "GATEWAY_PLUGINS": "blocks",
            "GATEWAY_BLOCKS__ACCEL": "nginx",
            "GATEWAY_BLOCKS__ROOT": str(root),
            "GATEWAY_BLOCKS__BLOCK_SIZE": "1M",
        }
        async with serve_process(data_dir=folder / "data", env=env) as gateway:
            async with nginx(folder / "nginx", port_of(gateway.url), str(root)) as url:
                yield Front(gateway, root, url)


async def whole_digest(front: Front) -> None:
    """Wait until the gateway knows the digest of the whole of ``data.bin``."""
    async with asyncio.timeout(PATIENCE_S):
        while "Repr-Digest" not in (await front.ask("/files/data.bin")).headers:
            await front.ask("/rd/files/data.bin?wait=5")
            await asyncio.sleep(0.05)


async def test_nginx_sends_the_file_that_the_gateway_names(front):
    answer = await front.ask("/files/data.bin")
    told = await front.ask("/files/data.bin", base=front.gateway.url)
    assert (told.body, told.headers["X-Accel-Redirect"]) == (b"", "/_gateway_blocks/data.bin")
    assert (answer.status, answer.body) == (200, DATA)
    assert "X-Accel-Redirect" not in answer.headers


async def test_what_the_gateway_says_of_a_file_arrives(front):
    answer = await front.ask("/files/data.bin")
    told = await front.ask("/files/data.bin", base=front.gateway.url)
    kept = ("ETag", "Last-Modified", "Content-Type", "Link", "X-Content-Type-Options")
    assert [answer.headers.getall(name) for name in kept] == [[told.headers[name]] for name in kept]
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "no-transform"


async def test_the_digest_of_the_whole_file_arrives(front):
    await whole_digest(front)
    answer = await front.ask("/files/data.bin")
    digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    assert answer.headers["Repr-Digest"] == answer.headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert answer.headers["Digest"] == f"SHA-256={digest}"
    part = await front.ask("/files/data.bin", {"Range": "bytes=0-9"})
    assert part.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert "Content-Digest" not in part.headers


async def test_a_page_may_not_act_as_this_origin(front):
    answer = await front.ask("/files/page.html")
    assert (answer.body, answer.headers["Content-Type"]) == (PAGE, "text/html; charset=utf-8")
    assert answer.headers["Content-Security-Policy"] == "sandbox"


@pytest.mark.parametrize("name", NAMES)
async def test_every_name_reaches_nginx_unharmed(front, name):
    answer = await front.ask(f"/files/{quote(name, safe='')}")
    assert (answer.status, answer.body) == (200, name)


async def test_a_file_arrives_under_the_path_prefix(front):
    assert (await front.ask("/fpx/files/data.bin")).body == DATA


@pytest.mark.parametrize(("asked", "first", "last"), [("5-9", 5, 9), ("-4", len(DATA) - 4, len(DATA) - 1)])
async def test_a_range_is_sent_by_nginx(front, asked, first, last):
    answer = await front.ask("/files/data.bin", {"Range": f"bytes={asked}"})
    assert (answer.status, answer.body) == (206, DATA[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"


async def test_several_ranges_are_parts_of_one_answer(front):
    answer = await front.ask("/files/data.bin", {"Range": "bytes=0-4,10-14"})
    assert answer.status == 206
    assert answer.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert answer.body.count(b"Content-Range: bytes ") == 2
    assert DATA[:5] in answer.body


async def test_a_range_without_bytes_is_refused_with_the_size(front):
    answer = await front.ask("/files/data.bin", {"Range": f"bytes={len(DATA)}-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


async def test_head_has_the_headers_of_get(front):
    whole = (await front.ask("/files/data.bin")).headers
    answer = await front.ask("/files/data.bin", {"Range": "bytes=0-4"}, method="HEAD")
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length", "Accept-Ranges", "Link"):
        assert answer.headers[name] == whole[name], name
    assert answer.status == 200, "a range is asked for with GET alone (RFC 9110 14.2)"


async def test_conditions_are_judged_by_the_tag_of_the_gateway(front):
    tag = (await front.ask("/files/data.bin")).headers["ETag"]
    other = '"0-0"'
    found = {
        "the version that is known": await front.ask("/files/data.bin", {"If-None-Match": tag}),
        "another one": await front.ask("/files/data.bin", {"If-None-Match": other}),
        "the version that is meant": await front.ask("/files/data.bin", {"If-Match": tag}),
        "one that is gone": await front.ask("/files/data.bin", {"If-Match": other}),
        "more of this version": await front.ask("/files/data.bin", {"If-Range": tag, "Range": "bytes=5-9"}),
        "more of another": await front.ask("/files/data.bin", {"If-Range": other, "Range": "bytes=5-9"}),
    }
    assert {question: answer.status for question, answer in found.items()} == {
        "the version that is known": 304,
        "another one": 200,
        "the version that is meant": 200,
        "one that is gone": 412,
        "more of this version": 206,
        "more of another": 200,
    }
    assert {answer.headers["ETag"] for answer in found.values()} == {tag}
    assert found["more of this version"].body == DATA[5:10]
    assert found["more of another"].body == DATA


async def test_a_file_that_is_replaced_is_sent_with_its_own_tag(front):
    put(front.root, b"new.bin", b"old")
    before = await front.ask("/files/new.bin")
    other = put(front.root, b"other.bin", b"young")
    os.utime(other, (OLD_S + 5, OLD_S + 5))
    other.replace(front.root / "new.bin")
    after = await front.ask("/files/new.bin")
    assert (before.body, after.body) == (b"old", b"young")
    assert before.headers["ETag"] != after.headers["ETag"]


async def test_nginx_follows_no_link(front):
    """The gateway has judged where it leads to, but nginx comes later."""
    assert (await front.ask("/files/link.bin", base=front.gateway.url)).status == 200
    assert (await front.ask("/files/link.bin")).status == 403


@pytest.mark.parametrize(
    "path",
    [
        "/_gateway_blocks/data.bin",
        "/_gateway_blocks/",
        "//_gateway_blocks/data.bin",
        "/%5fgateway_blocks/data.bin",
        "/files/../_gateway_blocks/data.bin",
        "/fpx/_gateway_blocks/data.bin",
        "/fpx/../_gateway_blocks/data.bin",
    ],
)
async def test_nobody_reaches_the_files_past_the_gateway(front, path):
    assert (await front.ask(path)).status == 404


@pytest.mark.parametrize("prefix", ["", "/fpx"])
async def test_gateway_get_verifies_what_comes_through_nginx(front, tmp_path, prefix):
    url, got = f"{front.url}{prefix}/files/data.bin", tmp_path / "got"
    done = await run_gateway("get", url, "-o", str(got), data_dir=tmp_path)
    assert done.code == 0, done.err
    assert " verified; " in done.err
    assert got.read_bytes() == DATA
