"""Files and folders under the mount, and what is told beside them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import xml.etree.ElementTree as ET

import pytest
from multidict import CIMultiDict
from yarl import URL

from gateway_core.testing.plugin import Run
from tests.blocks.conftest import BLOCK, MakeServed, Served
from tests.blocks.files import aged, sha1_blocks
from tests.blocks.test_rd_contract import complete

DATA = os.urandom(3 * BLOCK + 7)
META4 = "{urn:ietf:params:xml:ns:metalink}"


async def get(served: Served, path: str, **headers: str) -> tuple[int, CIMultiDict[str], bytes]:
    async with served.gateway.session() as session:
        async with session.get(path, headers=headers, allow_redirects=False) as answer:
            return answer.status, answer.headers.copy(), await answer.read()


async def test_a_file_comes_as_it_is_with_what_is_known_of_it(served):
    served.put("sub/a file.html", DATA)
    status, headers, body = await get(served, "/files/sub/a%20file.html")
    assert (status, body) == (200, DATA)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"] == "sandbox"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Link"].startswith("<./a%20file.html.meta4>; rel=describedby")
    assert headers["Accept-Ranges"] == "bytes"
    assert not headers["ETag"].startswith("W/")


async def test_a_file_that_was_just_written_has_a_weak_tag(served):
    (served.root / "a.bin").write_bytes(DATA)
    _, headers, _ = await get(served, "/files/a.bin")
    assert headers["ETag"].startswith('W/"')


async def test_the_digest_of_the_whole_file_is_told_when_it_is_known(served):
    served.put("a.bin", DATA)
    _, before, _ = await get(served, "/files/a.bin")
    assert "Repr-Digest" not in before
    await complete(served, "/files/a.bin")
    digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    async with asyncio.timeout(20):
        while "Repr-Digest" not in (headers := (await get(served, "/files/a.bin"))[1]):
            await asyncio.sleep(0.02)
    assert headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert headers["Digest"] == f"SHA-256={digest}"
    status, headers, _ = await get(served, "/files/a.bin", Range="bytes=0-9")
    assert status == 206
    assert headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert "Content-Digest" not in headers


async def test_a_digest_from_the_database_is_told_to_who_wants_it(make_served: MakeServed):
    async with make_served() as served:
        served.put("a.bin", DATA)
        _, _, lines = await get(served, "/files/SHA256SUMS")
        assert lines == f"{hashlib.sha256(DATA).hexdigest()}  a.bin\n".encode()
    async with make_served() as served:
        assert "Repr-Digest" not in (await get(served, "/files/a.bin"))[1]
        headers = (await get(served, "/files/a.bin", **{"Want-Repr-Digest": "sha-256=10"}))[1]
        assert headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"


@pytest.mark.parametrize(
    ("path", "location"), [("/files", "./files/"), ("/files/a%20b", "./a%20b/"), ("/files/x:y?q=1", "./x:y/?q=1")]
)
async def test_a_folder_without_its_slash_leads_to_the_one_with_it(served, path, location):
    for name in ("a b", "x:y"):
        (served.root / name).mkdir()
    status, headers, _ = await get(served, path)
    assert (status, headers["Location"]) == (301, location)


async def test_a_folder_is_listed_for_people_and_for_programs(served):
    served.put("sub/b.bin", b"b")
    served.put("<a>.txt", b"aa")
    os.mkfifo(served.root / "fifo")
    status, headers, page = await get(served, "/files/", Accept="text/html,application/json;q=0.5")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"<a>" not in page
    assert b"fifo" not in page
    for asked in ({"Accept": "application/json"}, {}):
        _, headers, body = await get(served, "/files/" if asked else "/files/?format=json", **asked)
        assert headers["Content-Type"] == "application/json"
        assert b'"<a>.txt"' in body
    assert headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "path", ["/files/a.bin/", "/files/none/", "/files/.meta4/", "/files/none.meta4", "/files/x/.meta4"]
)
async def test_what_is_not_there_is_404(served, path):
    served.put("a.bin", DATA)
    assert (await get(served, path))[0] == 404


async def test_a_metalink_tells_every_block(served):
    served.put("a&b.bin", DATA)
    status, headers, body = await get(served, "/files/a&b.bin.meta4")
    assert status == 200
    assert headers["Content-Type"] == "application/metalink4+xml"
    assert headers["Content-Disposition"] == 'attachment; filename="a&b.bin.meta4"'
    (file,) = ET.fromstring(body).findall(f"{META4}file")
    assert file.get("name") == "a&b.bin"
    assert file.findtext(f"{META4}size") == str(len(DATA))
    assert [found.text for found in file.findall(f"{META4}pieces/{META4}hash")] == sha1_blocks(DATA, BLOCK)
    assert file.findtext(f"{META4}url") == f"{served.url}/files/a%26b.bin"


async def test_a_folder_has_a_metalink_of_all_files_below(served):
    names = ["a.bin", "sub/b.bin", "sub/deep/c.bin", "empty"]
    for name in names:
        served.put(name, name.encode() if name != "empty" else b"")
    _, _, body = await get(served, "/files/.meta4")
    found = ET.fromstring(body).findall(f"{META4}file")
    assert sorted(file.get("name") for file in found) == sorted(names)


async def test_a_file_that_is_really_there_wins_over_what_is_made_up(served):
    for name in ("a.bin.meta4", "SHA256SUMS", "a.bin.torrent", ".meta4"):
        served.put(name, b"real")
        assert (await get(served, f"/files/{name}"))[2] == b"real"


async def test_a_torrent_has_the_length_it_says(served):
    served.put("a.bin", DATA)
    status, headers, body = await get(served, "/files/a.bin.torrent")
    assert status == 200
    assert headers["Content-Type"] == "application/x-bittorrent"
    assert int(headers["Content-Length"]) == len(body)
    assert b"".join(bytes.fromhex(digest) for digest in sha1_blocks(DATA, BLOCK)) in body
    served.put("empty", b"")
    assert (await get(served, "/files/empty.torrent"))[0] == 409


async def test_checksum_lists_are_of_one_folder_or_of_all_below(served):
    served.put("a.bin", b"a")
    served.put("sub/b.bin", b"b")
    lines = {name: f"{hashlib.sha1(name[-5:-4].encode()).hexdigest()}  {name}\n" for name in ("a.bin", "sub/b.bin")}
    assert (await get(served, "/files/SHA1SUMS"))[2].decode() == lines["a.bin"]
    assert (await get(served, "/files/SHA1SUMS?recursive=1"))[2].decode() == "".join(lines.values())


async def test_without_whole_digests_there_are_no_lists_and_the_rest_works(make_served: MakeServed):
    async with make_served({"full_digest": False}) as served:
        served.put("a.bin", DATA)
        assert (await get(served, "/files/SHA256SUMS"))[0] == 404
        status, _, body = await get(served, "/files/a.bin.meta4")
        assert status == 200
        assert ET.fromstring(body).find(f"{META4}file/{META4}pieces") is not None


async def test_a_folder_of_many_small_files_is_hashed_side_by_side(served):
    """One after another, each would wait for a transaction of its own."""
    for number in range(300):
        served.put(f"{number:03}", str(number).encode())
    async with asyncio.timeout(20):
        _, _, body = await get(served, "/files/SHA256SUMS")
    expected = [f"{hashlib.sha256(str(number).encode()).hexdigest()}  {number:03}" for number in range(300)]
    assert body.decode().splitlines() == expected


async def test_a_manifest_names_every_file_below(served):
    served.put("a.bin", DATA)
    served.put("sub/ü.bin", b"u")
    (served.root / "loop").symlink_to(".")
    async with served.gateway.session() as session, session.get("/rd/files/") as answer:
        body = await answer.json()
    assert answer.status == 200
    assert body["ok"] is True
    assert [(file["path"], file["url"], file["size"]) for file in body["files"]] == [
        ("a.bin", "a.bin", len(DATA)),
        ("sub/ü.bin", "sub/%C3%BC.bin", 1),
    ]
    assert body["files"][0]["etag"] == (await get(served, "/files/a.bin"))[1]["ETag"]


async def test_nginx_is_told_which_file_to_send(make_served: MakeServed):
    async with make_served({"accel": "nginx"}) as served:
        path = served.put("sub/a b.bin", DATA)
        status, headers, body = await get(served, "/files/sub/a%20b.bin", Range="bytes=0-9")
        assert (status, body) == (200, b"")
        assert headers["X-Accel-Redirect"] == "/_gateway_blocks/sub/a%20b.bin"
        etag = headers["ETag"]
        status, headers, body = await get(served, "/files/sub/a%20b.bin", Range="bytes=0-9", **{"If-Range": etag})
        assert (status, body) == (206, DATA[:10])
        assert "X-Accel-Redirect" not in headers
        assert (await get(served, "/files/sub/a%20b.bin", **{"If-None-Match": etag}))[0] == 304
        aged(path, seconds=90)
        assert (await get(served, "/files/sub/a%20b.bin", **{"If-Match": etag}))[0] == 412


async def test_a_file_is_served_from_the_data_folder_unless_told_otherwise(make_gateway, tmp_path):
    async with make_gateway({"plugins": "blocks"}, data_dir=tmp_path) as gateway:
        (tmp_path / "files" / "a.txt").write_text("here")
        async with gateway.session() as session, session.get("/files/a.txt") as answer:
            assert await answer.text() == "here"


async def test_a_prefix_goes_before_the_mount(make_served: MakeServed):
    async with make_served({"prefix": "/pre", "mount": "/data"}) as served:
        served.put("a.bin", DATA)
        assert (await get(served, "/pre/data/a.bin"))[2] == DATA
        assert (await complete(served, "/pre/data/a.bin"))["path"] == "pre/data/a.bin"
        assert (await get(served, "/data/a.bin"))[0] == 404


async def test_names_that_only_a_percent_can_write_are_served(served):
    name = "line\nbreak ?#%.txt"
    served.put(name, b"odd")
    _, _, body = await get(served, "/files/?format=json")
    (entry,) = json.loads(body)["entries"]
    url = URL(f"{served.url}/files/{entry['url']}", encoded=True)
    async with served.gateway.session() as session, session.get(url) as answer:
        assert (answer.status, await answer.read()) == (200, b"odd")
    async with served.gateway.session() as session:
        async with session.get(URL(f"{served.url}/rd/files/{entry['url']}", encoded=True)) as answer:
            assert (await answer.json())["path"] == f"files/{name}"


async def test_a_prefix_alone_leads_to_the_root(make_served: MakeServed):
    async with make_served({"prefix": "/pre", "mount": "/"}) as served:
        status, headers, _ = await get(served, "/pre")
        assert (status, headers["Location"]) == (301, "./pre/")


async def test_a_file_that_was_served_before_is_answered_the_same(served):
    served.put("a.txt", b"one")
    first = await get(served, "/files/a.txt")
    for _ in range(3):
        again = await get(served, "/files/a.txt")
        for _, headers, _ in (first, again):
            headers.popall("Date", None)
            headers.popall("X-Request-Id", None)
        assert again[1] == first[1]
        assert (again[0], again[2]) == (200, b"one")


async def test_a_file_that_was_served_before_and_changed_is_served_as_it_is_now(served):
    for content in (b"one", b"two", b"three", b""):
        path = served.put("a.txt", content)
        for _ in range(2):
            status, headers, body = await get(served, "/files/a.txt")
            assert (status, body) == (200, content)
        assert (await get(served, "/files/a.txt", **{"If-None-Match": headers["ETag"]}))[0] == 304
        assert (await get(served, "/files/a.txt", Range="bytes=0-0"))[0] == (206 if content else 416)
    path.unlink()
    assert (await get(served, "/files/a.txt"))[0] == 404
    path.mkdir()
    assert (await get(served, "/files/a.txt"))[0] == 301


async def test_a_digest_that_becomes_known_is_told_from_then_on(served):
    served.put("a.txt", b"one")
    for _ in range(2):
        assert "Repr-Digest" not in (await get(served, "/files/a.txt"))[1]
    await get(served, "/files/SHA256SUMS")
    for _ in range(2):
        assert "Repr-Digest" in (await get(served, "/files/a.txt"))[1]


async def test_readiness_tells_of_a_root_that_went_away(served):
    async def degraded(expected: list[str]) -> None:
        async with served.gateway.session() as session, asyncio.timeout(20):
            while True:  # what was found is good for a moment
                async with session.get("/readyz") as answer:
                    assert answer.status == 200
                    if (await answer.json()).get("degraded", []) == expected:
                        return
                await asyncio.sleep(0.05)

    await degraded([])
    away = served.root.rename(served.root.with_name("away"))
    await degraded(["blocks.root"])
    away.rename(served.root)
    await degraded([])
    served.root.rename(away)
    served.root.mkdir()
    await degraded(["blocks.root"])


async def test_the_doctor_finds_that_there_is_no_root(run_gateway: Run, tmp_path):
    done = await run_gateway("doctor", env={"GATEWAY_BLOCKS__ROOT": str(tmp_path / "none")})
    assert done.code == 1
    assert "blocks.root" in done.out
    assert "BLOCKS__ROOT" in done.out
