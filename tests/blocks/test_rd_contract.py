"""``/rd/`` as the clients of reliable-download know it, and what we tell besides."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import socket
import stat

import pytest

from tests.blocks.conftest import BLOCK, MakeServed, Served
from tests.blocks.files import aged, sha1_blocks

REQUIRED = {"ok", "msg", "path", "filepath", "block_size", "file_size", "block_count", "blocks"}
DATA = os.urandom(5 * BLOCK + 1000)


async def rd(served: Served, path: str, **params: str) -> dict:
    async with served.gateway.session() as session, session.get(f"/rd{path}", params=params) as answer:
        body = await answer.json()
        assert answer.status == (200 if body["ok"] else answer.status)
        return body


async def complete(served: Served, path: str) -> dict:
    """The answer once all blocks are known."""
    async with asyncio.timeout(20):
        while True:
            body = await rd(served, path)
            assert body["ok"], body
            if body["hashed_blocks"] == body["block_count"]:
                return body
            await asyncio.sleep(0.02)


async def test_the_root_of_rd_says_what_it_is(served):
    async with served.gateway.session() as session, session.get("/rd/") as answer:
        body = await answer.json()
    assert answer.status == 200
    assert body["app"] == "reliable-download api"
    assert body["ok"] is True
    assert isinstance(body["version"], str)


async def test_blocks_are_told_as_rd_needs_them(served):
    served.put("a.bin", DATA)
    body = await complete(served, "/files/a.bin")
    assert body.keys() >= REQUIRED
    assert (body["ok"], body["msg"], body["path"], body["filepath"]) == (True, "", "files/a.bin", "./files/a.bin")
    assert (body["block_size"], body["file_size"], body["block_count"]) == ("64KiB", len(DATA), 6)
    spans = [(at, min(at + BLOCK, len(DATA)) - 1) for at in range(0, len(DATA), BLOCK)]
    assert body["blocks"] == [
        [index, first, last, digest]
        for index, ((first, last), digest) in enumerate(zip(spans, sha1_blocks(DATA, BLOCK), strict=True))
    ]


async def test_a_path_is_told_decoded(served):
    served.put("sp ace/ä.bin", b"x")
    body = await complete(served, "/files/sp%20ace/%C3%A4.bin")
    assert body["path"] == "files/sp ace/ä.bin"


async def test_the_first_answer_lists_every_block_pending_or_known(make_served: MakeServed):
    async with make_served({"hash_workers": 1}) as served:
        with (served.root / "big.bin").open("wb") as file:
            file.truncate(2000 * BLOCK)
        aged(served.root / "big.bin")
        body = await rd(served, "/files/big.bin")
        zero = hashlib.sha1(bytes(BLOCK)).hexdigest()
        assert [row[0] for row in body["blocks"]] == list(range(2000))
        assert {row[3] for row in body["blocks"]} <= {"pending", zero}
        body = await complete(served, "/files/big.bin")
        assert {row[3] for row in body["blocks"]} == {zero}


async def test_an_empty_file_has_no_blocks(served):
    served.put("empty", b"")
    body = await rd(served, "/files/empty")
    assert (body["ok"], body["file_size"], body["block_count"], body["blocks"]) == (True, 0, 0, [])


async def test_a_gzip_answer_is_the_same(served):
    served.put("a.bin", os.urandom(200 * BLOCK))
    body = await complete(served, "/files/a.bin")
    async with served.gateway.session(auto_decompress=False) as session:
        async with session.get("/rd/files/a.bin", headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert json.loads(gzip.decompress(await answer.read()))["blocks"] == body["blocks"]


async def test_mounted_at_the_root_files_and_rd_are_where_rd_api_has_them(make_served: MakeServed):
    async with make_served({"mount": "/"}) as served:
        served.put("a.bin", DATA)
        body = await complete(served, "/a.bin")
        assert (body["path"], body["filepath"]) == ("a.bin", "./a.bin")
        async with served.gateway.session() as session:
            async with session.get("/a.bin") as answer:
                assert await answer.read() == DATA
            async with session.get("/rd/") as answer:
                assert (await answer.json())["app"] == "reliable-download api"
            async with session.get("/healthz") as answer:
                assert await answer.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/files/none", "/files/none/x", "/none", "/files/folder", "/files/a.bin/", "/a.bin"])
async def test_what_is_not_there_is_told_in_the_shape_that_rd_shows(served, path):
    served.put("a.bin", b"x")
    (served.root / "folder").mkdir()
    async with served.gateway.session() as session, session.get(f"/rd{path}") as answer:
        body = await answer.json()
    assert answer.status == 404
    assert body.keys() >= REQUIRED
    assert body["ok"] is False
    assert body["msg"]
    assert body["file_size"] == -1


async def test_head_of_rd_is_answered(served):
    served.put("a.bin", DATA)
    async with served.gateway.session() as session, session.head("/rd/files/a.bin") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/debug/count", "/debug/t1", "/test-rd/"])
async def test_nothing_of_the_inside_is_exposed(served, path):
    async with served.gateway.session() as session, session.get(path) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/..%2fsecret", "/out", "/outdir/secret"])
async def test_nothing_outside_the_root_is_told_of(served, path):
    secret = served.root.parent / "secret"
    secret.write_bytes(b"top secret" * 1000)
    (served.root / "out").symlink_to(secret)
    (served.root / "outdir").symlink_to(served.root.parent)
    for before in ("/rd/files", "/files"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2]))
        writer.write(f"GET {before}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert answer.split()[1] == b"404"
        assert b"10000" not in answer.partition(b"\r\n\r\n")[2]
        assert b"top secret" not in answer


async def test_a_changed_large_file_gets_new_checksums(make_served: MakeServed):
    """rd-api keeps those of a file of 100 MiB or more for ever."""
    async with make_served({"block_size": "16M"}) as served:
        path = served.root / "large.bin"
        with path.open("wb") as file:
            file.truncate(101 << 20)
        aged(path)
        before = await complete(served, "/files/large.bin")
        with path.open("r+b") as file:
            file.seek(20 << 20)
            file.write(b"changed in place")
        after = await complete(served, "/files/large.bin")
        changed = [a[0] for a, b in zip(before["blocks"], after["blocks"], strict=True) if a != b]
        assert changed == [1]


async def test_a_restored_time_stamp_does_not_hide_a_change(served):
    path = served.put("a.bin", DATA)
    await complete(served, "/files/a.bin")
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    body = await complete(served, "/files/a.bin")
    assert body["blocks"][0][3] == hashlib.sha1(b"other" + DATA[5:BLOCK]).hexdigest()


async def test_a_file_that_is_deleted_while_it_waits_does_no_harm(make_served: MakeServed):
    async with make_served({"hash_workers": 1}) as served:
        with (served.root / "big.bin").open("wb") as file:
            file.truncate(2000 * BLOCK)
        names = [f"small-{number}" for number in range(40)]
        for name in names:
            served.put(name, name.encode())
        await rd(served, "/files/big.bin")
        await asyncio.gather(*(rd(served, f"/files/{name}") for name in names))
        for name in names[::2]:
            (served.root / name).unlink()
        for name in names[1::2]:
            body = await complete(served, f"/files/{name}")
            assert body["blocks"][0][3] == hashlib.sha1(name.encode()).hexdigest()


async def test_checksums_outlive_the_process(make_served: MakeServed):
    async with make_served() as served:
        served.put("a.bin", DATA)
        before = await complete(served, "/files/a.bin")
    async with make_served() as served:
        first = await rd(served, "/files/a.bin")
    assert first["blocks"] == before["blocks"]


async def test_an_answer_waits_for_the_next_block(served):
    with (served.root / "big.bin").open("wb") as file:
        file.truncate(4000 * BLOCK)
    aged(served.root / "big.bin")
    after = -1
    async with asyncio.timeout(30):
        while after < 3999:
            body = await rd(served, "/files/big.bin", after=str(after), wait="20")
            assert body["blocks"][0][0] == after + 1
            assert body["blocks"][0][3] != "pending"
            after = next((row[0] - 1 for row in body["blocks"] if row[3] == "pending"), 3999)
    body = await rd(served, "/files/big.bin", after="3999", wait="20")
    assert body["blocks"] == []


@pytest.mark.parametrize("query", ["after=x", "after=-2", "wait=61", "wait=-1", "wait=nan"])
async def test_a_bad_question_is_named(served, query):
    served.put("a.bin", DATA)
    async with served.gateway.session() as session, session.get(f"/rd/files/a.bin?{query}") as answer:
        body = await answer.json()
    assert answer.status == 422
    assert query.partition("=")[0] in body["msg"]


async def test_what_we_tell_besides(served):
    served.put("a.bin", DATA)
    body = await complete(served, "/files/a.bin")
    async with served.gateway.session() as session, session.get("/files/a.bin") as answer:
        assert body["etag"] == answer.headers["ETag"]
    assert body["block_bytes"] == BLOCK
    assert (body["hashed_blocks"], body["eta_s"]) == (6, 0.0)


async def test_a_private_server_wants_the_scope(make_served: MakeServed):
    async with make_served({"public": False}) as served:
        served.put("a.bin", DATA)
        good, bad = await served.gateway.secret("blocks:read"), await served.gateway.secret("archive:ticket")
        async with served.gateway.session() as session:
            for path in ("/files/a.bin", "/rd/files/a.bin", "/files/", "/files/a.bin.meta4", "/rd/files/"):
                for secret, status in ((good, 200), (bad, 403), ("", 401)):
                    headers = {"Authorization": secret} if secret else {}
                    async with session.get(path, headers=headers) as answer:
                        assert answer.status == status, path


async def test_things_that_are_no_files_are_not_there(served):
    os.mkfifo(served.root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(served.root / "socket"))
    if os.geteuid() == 0:
        os.mknod(served.root / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    async with served.gateway.session() as session, asyncio.timeout(10):
        for name in ("fifo", "socket", "device"):
            for before in ("/files", "/rd/files"):
                async with session.get(f"{before}/{name}") as answer:
                    assert answer.status == 404


async def test_names_that_are_too_long_are_said_to_be(served):
    async with served.gateway.session() as session:
        for before in ("/files", "/rd/files"):
            async with session.get(f"{before}/{'x' * 300}") as answer:
                assert answer.status == 414


async def test_the_queue_shows_what_is_hashed(make_served: MakeServed):
    async with make_served({"hash_workers": 1}) as served:
        with (served.root / "big.bin").open("wb") as file:
            file.truncate(20_000 * BLOCK)
        aged(served.root / "big.bin")
        await rd(served, "/files/big.bin")
        headers = {"Authorization": await served.gateway.secret("blocks:read")}
        async with served.gateway.session(headers=headers) as session, session.get("/blocks/queue") as answer:
            state = await answer.json()
        assert [(file["path"], file["blocks"]) for file in state["active"]] == [("big.bin", 20_000)]
