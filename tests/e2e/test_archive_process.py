"""The archive plugin in real processes: what operators start, stop, kill and read the logs of."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sqlite3
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientConnectionError, ClientError, ClientResponse, ClientSession

from gateway_core.testing import ServeProcess, Upstream
from gateway_core.testing.curl import curl
from gateway_core.testing.plugin import Run, Serve
from gateway_core.testing.upstream_behaviour import Cut, Stall, Status

MIB = 1 << 20
ENV = {"GATEWAY_EGRESS_ALLOW": "127.0.0.0/8", "GATEWAY_PLUGINS": "archive"}
SOON_S = 15
"""Long for a busy machine, and short of the 30 s after which a silent source or client is given up anyhow."""
OLD_SECRET = "h9mYt5XmZ0-as_long_as_those_of_fpx-43_charact"


def entries(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


async def ticket(session: ClientSession, secret: str, *items: Any, **order: Any) -> str:
    body = io.BytesIO(json.dumps({"items": items, **order}).encode())
    async with session.post("/ticket/generate", data=body, headers={"Authorization": secret}) as answer:
        assert answer.status == 200, await answer.text()
        return (await answer.json())["id"]


async def download(session: ClientSession, made: str) -> bytes:
    async with session.get(f"/ticket/{made}/download") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


# Stopping and killing


@asynccontextmanager
async def ten_downloads(server: ServeProcess, upstream: Upstream) -> AsyncIterator[list[ClientResponse]]:
    """Ten that have begun, and go on when ``/slow`` is released."""
    secret = await server.secret()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(server.session())
        slow, small = upstream.add("/slow", 3 * MIB, Stall(MIB)), upstream.add("/small", 1000)
        made = [await ticket(session, secret, small, slow, small) for _ in range(10)]
        begun = [await stack.enter_async_context(session.get(f"/ticket/{one}/download")) for one in made]
        assert [answer.status for answer in begun] == [200] * 10
        yield begun


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sigterm_lets_ten_downloads_complete(serve_process: Serve, upstream: Upstream, workers: str):
    async with serve_process("--workers", workers, env=ENV) as server, ten_downloads(server, upstream) as begun:
        await server.wait_log("ready", count=1 if workers == "1" else 3)  # each worker, and their parent
        await upstream.wait_requests(10, path="/slow")
        server.send_signal(signal.SIGTERM)
        await server.wait_log("draining", count=int(workers))
        await refused(server)
        upstream.release("/slow")
        archives = [await answer.read() for answer in begun]
        truth = {"small": upstream.content("/small"), "slow": upstream.content("/slow")}
        assert all(entries(archive) == {**truth, "small (2)": truth["small"]} for archive in archives)
        assert await server.wait() == 0


async def refused(server: ServeProcess) -> None:
    """Wait until nobody listens any more."""
    host, port = server.url.removeprefix("http://").split(":")
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionResetError:  # taken by the kernel just before the port was closed
                continue
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_second_sigterm_cuts_downloads_so_that_clients_see_it(serve_process: Serve, upstream: Upstream):
    async with serve_process(env=ENV) as server, ten_downloads(server, upstream) as begun:
        await upstream.wait_requests(10, path="/slow")
        server.send_signal(signal.SIGTERM)
        await server.wait_log("draining")
        server.send_signal(signal.SIGTERM)
        outcomes = await asyncio.gather(*(answer.read() for answer in begun), return_exceptions=True)
        assert all(isinstance(outcome, ClientConnectionError | OSError) or is_cut(outcome) for outcome in outcomes)
        await server.wait()


def is_cut(outcome: object) -> bool:
    return type(outcome).__name__ == "ClientPayloadError"


async def test_tickets_survive_a_kill(serve_process: Serve, upstream: Upstream):
    url = upstream.add("/a", 100_000)
    async with serve_process(env=ENV) as server, server.session() as session:
        secret = await server.secret()
        made = await ticket(session, secret, url)
        async with session.get(f"/ticket/{made}/download"):
            last = await ticket(session, secret, url)
            server.send_signal(signal.SIGKILL)
            assert await server.wait() == -signal.SIGKILL
    async with serve_process(env=ENV) as server, server.session() as session:
        for one in (made, last):
            assert entries(await download(session, one)) == {"a": upstream.content("/a")}
        assert await ticket(session, secret, url)


# Several workers


async def test_two_workers_serve_the_same_tickets(serve_process: Serve, upstream: Upstream):
    async with serve_process("--workers", "2", env=ENV) as server:
        secret = await server.secret()
        urls = [upstream.add(f"/{n}", 50_000) for n in range(20)]

        async def one() -> bytes:  # on a connection of its own, so that both workers get some
            async with server.session() as session:
                return await download(session, await ticket(session, secret, *urls))

        archives = await asyncio.gather(*(one() for _ in range(20)))
        truth = {str(n): upstream.content(f"/{n}") for n in range(20)}
        assert all(entries(archive) == truth for archive in archives)
        async with server.session() as session:
            await shows(session, 'gateway_archive_downloads_total{outcome="completed"} 20.0')
        assert await server.stop() == 0


async def shows(session: ClientSession, metric: str) -> None:
    """Wait until that line is among the metrics: what counts a download runs on after the client has its last byte."""
    async with asyncio.timeout(SOON_S):
        while metric not in (await (await session.get("/metrics")).text()).splitlines():
            await asyncio.sleep(0.05)


# Nothing left behind


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def settled_descriptors(pid: int) -> int:
    """Their number when it has not changed for 0.2 s."""
    seen = [-1]
    async with asyncio.timeout(SOON_S):
        while len(seen) < 4 or len(set(seen[-4:])) > 1:
            await asyncio.sleep(0.05)
            seen.append(descriptors(pid))
    return seen[-1]


async def breaks_off(server: ServeProcess, made: str, number: int) -> None:
    """Begin a download on a connection of its own, and leave at some point: orderly, or with a reset."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /ticket/{made}/download HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    if number % 10:
        await reader.readexactly(1 + 5000 * (number % 7))
    if number % 2:
        writer.transport.abort()
    else:
        writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def break_off(server: ServeProcess, tickets: list[str], count: int) -> None:
    gate = asyncio.Semaphore(20)

    async def one(number: int) -> None:
        async with gate:
            await breaks_off(server, tickets[number % len(tickets)], number)

    await asyncio.gather(*(one(number) for number in range(count)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_broken_downloads_leave_nothing(serve_process: Serve, upstream: Upstream, tmp_path: Path, count: int):
    env = {**ENV, "GATEWAY_ARCHIVE__MAX_ACTIVE_DOWNLOADS": "500"}
    async with serve_process(env=env) as server, server.session() as session:
        secret = await server.secret()
        small = [upstream.add(f"/{n}", 30_000) for n in range(30)]
        large, silent = upstream.add("/large", 64 * MIB), upstream.add("/silent", 3 * MIB, Stall(MIB))
        tickets = [
            await ticket(session, secret, *small, large),
            await ticket(session, secret, large, *small),
            await ticket(session, secret, *small, silent),
            await ticket(session, secret, large, type="stream"),
        ]
        await break_off(server, tickets, 200)
        await quiet(session, upstream)
        base = await settled_descriptors(server.pid), resident_mib(server.pid)
        await break_off(server, tickets, count)
        await quiet(session, upstream)
        with suppress(TimeoutError):  # what is still too much then, the assertions tell
            async with asyncio.timeout(SOON_S):
                while descriptors(server.pid) > base[0] or resident_mib(server.pid) >= base[1] + 20:
                    await asyncio.sleep(0.05)
        assert descriptors(server.pid) <= base[0]
        assert resident_mib(server.pid) < base[1] + 20  # the heap settles after about a thousand
        left = [path.name for path in (tmp_path / "gateway" / "scratch").rglob("*") if path.is_file()]
        assert left == [".lock"]
        assert entries(await download(session, tickets[0])).keys() == {*(str(n) for n in range(30)), "large"}
        assert await server.stop() == 0
        assert [line for line in server.logs if line.get("level") != "info"] == []


async def quiet(session: ClientSession, upstream: Upstream) -> None:
    """Wait for the end of every upstream request and with it of every download, and drop idle connections."""
    await upstream.wait_idle(timeout_s=SOON_S)
    await shows(session, "gateway_archive_active_downloads 0.0")
    await upstream.stop()
    await upstream.start()


async def test_slow_clients_cost_no_memory(serve_process: Serve, upstream: Upstream):
    async with serve_process(env=ENV) as server, server.session() as session:
        secret = await server.secret()
        made = await ticket(session, secret, upstream.add("/big", 512 * MIB))
        await download(session, await ticket(session, secret, upstream.add("/a", 8 * MIB)))
        base = resident_mib(server.pid)
        slow = [await session.get(f"/ticket/{made}/download") for _ in range(8)]
        sent = -1
        while sent != (sent := sum(request.sent_bytes for request in upstream.seen("/big"))):
            await asyncio.sleep(0.5)
        assert sent < 8 * 96 * MIB  # the kernel's buffers
        assert resident_mib(server.pid) < base + 30
        for answer in slow:
            answer.close()
        await upstream.wait_idle(timeout_s=SOON_S)


# Private upstreams


async def test_private_upstream_is_refused_with_the_line_that_allows_it(serve_process: Serve, upstream: Upstream):
    url = upstream.add("/a", b"a")
    async with serve_process(env={"GATEWAY_PLUGINS": "archive"}) as server, server.session() as session:
        secret = await server.secret()
        body = io.BytesIO(json.dumps({"items": [url]}).encode())
        async with session.post("/ticket/generate", data=body, headers={"Authorization": secret}) as answer:
            assert answer.status == 422
            told = await answer.json()
        assert told == {"errors": {"json": {"items": ["item 0: this address may not be fetched"]}}}
        assert upstream.total_connections == 0
        refusal = f"refused {upstream.base_url}: not a public address; to permit it: GATEWAY_EGRESS_ALLOW=127.0.0.1/32"
        await server.wait_log(refusal)
        name, _, value = refusal.rpartition(" ")[2].partition("=")
    async with serve_process(env={"GATEWAY_PLUGINS": "archive", name: value}) as server, server.session() as session:
        assert entries(await download(session, await ticket(session, secret, url))) == {"a": b"a"}


# FPX's users


async def test_calls_of_fpx_readme_work_as_they_stand(serve_process: Serve, upstream: Upstream, tmp_path: Path):
    async with serve_process(env=ENV) as server:
        added = await server.command("client", "add", "my-first-client")
        secret = re.fullmatch(r"Client created: my-first-client - (\S+)\n", added.out)[1]
        urls = [upstream.add("/", b"front page"), upstream.add("/search", b"results")]
        items = json.dumps({"items": [urls[0].rstrip("/"), urls[1]]}, separators=(",", ":"))
        made = await curl("-X", "POST", f"{server.url}/ticket/generate", "-H", f"Authorization: {secret}", "-d", items)
        assert json.loads(made.body).keys() == {"created", "type", "id"}
        link = f"{server.url}/ticket/{json.loads(made.body)['id']}/download"
        target = tmp_path / "collection.zip"
        await curl(link, "-o", str(target))
        assert entries(target.read_bytes()) == {"127.0.0.1": b"front page", "search": b"results"}


async def test_clients_of_fpx_keep_their_secrets(
    serve_process: Serve, run_gateway: Run, upstream: Upstream, tmp_path: Path
):
    with closing(sqlite3.connect(tmp_path / "fpx.db")) as database, database:
        database.execute("CREATE TABLE clients (id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL UNIQUE)")
        database.execute("INSERT INTO clients VALUES (?, 'ckan')", [OLD_SECRET])
    done = await run_gateway("client", "import", "fpx", str(tmp_path / "fpx.db"), env=ENV)
    assert done.code == 0, done.err
    env = {**ENV, "GATEWAY_ARCHIVE__PREFIX": "/fpx"}
    async with serve_process(env=env) as server, server.session() as session:
        headers = {"authorize": OLD_SECRET}
        body = io.BytesIO(json.dumps({"items": [upstream.add("/a", b"a")]}).encode())
        async with session.post("/fpx/ticket/generate", data=body, headers=headers) as answer:
            assert answer.status == 200
        token = jwt.encode({"url": upstream.add("/b", b"b")}, OLD_SECRET, algorithm="HS256")
        async with session.get(f"/fpx/stream/url/{token}?client=ckan") as answer:
            assert await answer.read() == b"b"


# Logs


async def test_secrets_never_appear_in_a_log(serve_process: Serve, upstream: Upstream):
    env = {**ENV, "GATEWAY_LOG_LEVEL": "debug", "GATEWAY_ARCHIVE__RESUME_TRIES": "1"}
    planted = "PLANTED"
    async with serve_process(env=env) as server, server.session() as session:
        added = json.loads((await server.command("client", "add", "ckan", "--json")).out)
        secret = added["secret"]
        good, gone = upstream.add("/good", b"good"), upstream.add("/gone", b"", Status(404))
        cut = upstream.add("/cut", 2 * MIB, Cut(MIB // 2))
        moved = upstream.redirect("/moved", f"http://10.0.0.1/?{planted}")
        nobody = f"http://u:{planted}@127.0.0.1:1/?{planted}#{planted}"
        urls = [f"{url}?signature={planted}" for url in (good, gone, cut, moved)] + [nobody]
        items = [{"url": url, "headers": {"Authorization": f"Bearer {planted}", "X-Key": planted}} for url in urls]
        made = await ticket(session, secret, *items, options={"filename": f"{planted}.zip"})
        assert entries(await download(session, made)).keys() == {"good", "_DOWNLOAD-REPORT.txt"}
        aborted = await ticket(session, secret, *items, options={"on_error": "abort"})
        token = jwt.encode({"url": f"{cut}?{planted}", "response_headers": {"X": planted}}, secret, algorithm="HS256")
        for path in (f"/ticket/{aborted}/download", f"/stream/url/{token}?client=ckan", f"/stream/url/{planted}"):
            with suppress(ClientError):
                async with session.get(path) as answer:
                    await answer.read()
        for headers in ({"Authorization": secret}, {"Authorize": planted}, {"X-Fpx-Authorize": secret + planted}):
            for body in (b"{}", json.dumps({"items": items, planted: planted}).encode(), f"{planted}".encode()):
                for path in ("/ticket/generate", "/ticket/check"):
                    await (await session.post(path, data=io.BytesIO(body), headers=headers)).read()
            await (await session.get(f"/ticket/?page={planted}", headers=headers)).read()
        assert await server.stop() == 0
        routes = {line["route"] for line in server.logs if line["event"] == "request"}
        assert routes == {f"archive:{name}" for name in ("generate", "check", "index", "download", "stream")}
        assert "answer cut" in {line["event"] for line in server.logs}
        log = json.dumps(server.logs, ensure_ascii=False)
        for hidden in (planted, secret, made, aborted, token.split(".")[2]):
            assert hidden not in log
