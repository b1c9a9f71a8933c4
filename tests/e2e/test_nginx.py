"""The gateway behind the real nginx, with the configuration of ``deploy/nginx`` but for addresses and ports."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError, ClientSession, TCPConnector, WSMsgType

from gateway_core.testing.process import ServeProcess, run_gateway, serve_process
from gateway_core.testing.requirements import require_program
from gateway_core.testing.services import free_port
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_behaviour import Cut, Endless, Stall

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONF = Path(__file__).parents[2] / "deploy" / "nginx" / "gateway.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
PATIENCE_S = 20.0
MIB = 1 << 20
TRUSTED = {"GATEWAY_TRUSTED_PROXIES": "127.0.0.1"}

MAIN_CONF = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/gateway.conf;
}}
"""


@dataclass
class Stand:
    """A gateway, a client's secret, and nginx at ``url`` in front of it."""

    gateway: ServeProcess
    secret: str
    url: str

    async def access(self, request_id: str) -> dict[str, Any]:
        """The line of the access log for that request, waited for."""
        async with asyncio.timeout(PATIENCE_S):
            count = 1
            while True:
                lines = await self.gateway.wait_log("request", count=count)
                for line in lines:
                    if line["request_id"] == request_id:
                        return line
                count = len(lines) + 1

    async def ticket(self, session: ClientSession, *urls: str, **order: Any) -> str:
        """Id of a new ticket, made through nginx."""
        url, headers = f"{self.url}/ticket/generate", {"Authorization": self.secret}
        body = io.BytesIO(json.dumps({"items": urls, **order}).encode())
        async with session.post(url, data=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            return (await response.json())["id"]

    async def exchange(self, text: str) -> str:
        """Send ``text`` to nginx as it stands, and what comes back until the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(self.url))
            writer.write(text.encode())
            answer = await reader.read()
            writer.close()
            return answer.decode("latin-1")


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def configuration(gateway_port: int, nginx_port: int, root: str) -> str:
    """What the sample says, with other ports and ``root``; each is there once, or it has changed and this must follow.

    ``root`` is the folder that nginx sends files of the blocks plugin from.
    """
    text = CONF.read_text()
    for old, new in (
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{gateway_port};"),
        ("listen 80;", f"listen 127.0.0.1:{nginx_port};"),
        ("listen [::]:80;", ""),
        ("alias /srv/files/;", f"alias {root}/;"),
        ("from=/srv/files/;", f"from={root}/;"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def nginx(folder: Path, gateway_port: int, root: str = "/srv/files") -> AsyncIterator[str]:
    """URL of an nginx of the test's own; as root its workers may not write there, so buffering would fail."""
    folder.mkdir(mode=0o700)
    port = free_port()
    (folder / "gateway.conf").write_text(configuration(gateway_port, port, root))
    (folder / "nginx.conf").write_text(MAIN_CONF.format(folder=folder))
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await listens(port):
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def stand(folder: Path, prepared: tuple[Path, str], **settings: str) -> AsyncIterator[Stand]:
    data_dir, secret = prepared
    await asyncio.to_thread(shutil.copytree, data_dir, folder / "data")
    env = {"GATEWAY_EGRESS_ALLOW": "127.0.0.0/8", "GATEWAY_PLUGINS": "archive", **settings}
    async with serve_process(data_dir=folder / "data", env=env) as gateway:
        async with nginx(folder / "nginx", port_of(gateway.url)) as url:
            yield Stand(gateway, secret, url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared(tmp_path_factory) -> tuple[Path, str]:
    """A data folder in which a client has been made, and its secret."""
    require_program("nginx")
    data_dir = tmp_path_factory.mktemp("prepared") / "data"
    env = {"GATEWAY_PLUGINS": "archive,pipe"}
    made = await run_gateway("client", "add", "visitor", "--json", data_dir=data_dir, env=env)
    return data_dir, json.loads(made.out)["secret"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory, prepared) -> AsyncIterator[Stand]:
    """The stand that most tests share; it believes nginx."""
    settings = {**TRUSTED, "GATEWAY_ARCHIVE__RESUME_TRIES": "0", "GATEWAY_PLUGINS": "archive,pipe"}
    async with stand(tmp_path_factory.mktemp("stand"), prepared, **settings) as shared:
        yield shared


@pytest_asyncio.fixture(loop_scope="module")
async def upstream():
    async with Upstream() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def session():
    async with ClientSession() as client:
        yield client


async def read_until(response, wanted: bytes) -> bytes:
    """What has come when ``wanted`` is among it; raises TimeoutError when it is held back on the way."""
    got = b""
    async with asyncio.timeout(PATIENCE_S / 2):
        while wanted not in got:
            piece = await response.content.readany()
            assert piece, "the answer ended early"
            got += piece
    return got


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


async def test_a_piece_of_a_zip_arrives_before_its_source_goes_on(behind, upstream, session):
    ticket = await behind.ticket(session, upstream.add("/slow.bin", 2 * MIB, Stall(after=1000)))
    async with session.get(f"{behind.url}/ticket/{ticket}/download") as response:
        begun = await read_until(response, upstream.content("/slow.bin")[:1000])
        upstream.release("/slow.bin")
        rest = await response.read()
    assert unpacked(begun + rest) == {"slow.bin": upstream.content("/slow.bin")}


async def test_a_piece_of_a_single_file_arrives_before_its_source_goes_on(behind, upstream, session):
    """It has a Content-Length: there nginx would wait for a full buffer, while it hands on chunks at any rate."""
    ticket = await behind.ticket(session, upstream.add("/slow.bin", 2 * MIB, Stall(after=1000)), type="stream")
    async with session.get(f"{behind.url}/ticket/{ticket}/download") as response:
        begun = await read_until(response, upstream.content("/slow.bin")[:1000])
        upstream.release("/slow.bin")
        rest = await response.read()
    assert begun + rest == upstream.content("/slow.bin")


async def test_a_request_is_answered_before_its_body_is_there(behind):
    head = "POST /ticket/generate HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n"
    answer = await behind.exchange(head)
    assert answer.startswith("HTTP/1.1 401 ")


async def test_a_ticket_larger_than_what_nginx_takes_by_default(behind, session):
    urls = [f"http://127.0.0.1/{number:0400}" for number in range(5000)]
    ticket = await behind.ticket(session, *urls)
    assert re.fullmatch(r"[0-9a-f-]{36}", ticket)


async def test_a_large_download_arrives_whole(behind, upstream, session):
    urls = [upstream.add(f"/{number}.bin", 24 * MIB) for number in range(3)]
    ticket = await behind.ticket(session, *urls)
    async with session.get(f"{behind.url}/ticket/{ticket}/download") as response:
        data = await response.read()
    assert unpacked(data) == {f"{number}.bin": upstream.content(f"/{number}.bin") for number in range(3)}


async def test_a_client_that_leaves_frees_the_source_within_five_seconds(behind, upstream, session):
    ticket = await behind.ticket(session, upstream.add("/endless.bin", 2 * MIB, Endless()))
    async with session.get(f"{behind.url}/ticket/{ticket}/download") as response:
        await response.content.readexactly(MIB)
        response.close()
    await upstream.wait_disconnected(timeout_s=5)


async def test_an_archive_that_breaks_off_is_seen_to_break_off(behind, upstream, session):
    broken = upstream.add("/broken.bin", 2 * MIB, Cut(after=MIB))
    ticket = await behind.ticket(session, broken, options={"on_error": "abort"})
    async with session.get(f"{behind.url}/ticket/{ticket}/download") as response:
        with pytest.raises(ClientPayloadError):
            await response.read()


async def test_links_name_the_path_prefix(behind, session):
    async with session.get(f"{behind.url}/fpx/openapi.json") as response:
        described = await response.json()
    assert described["servers"][0]["url"] == f"{behind.url}/fpx"


async def test_a_download_under_the_path_prefix(behind, upstream, session):
    ticket = await behind.ticket(session, upstream.add("/a.txt", b"hello"))
    async with session.get(f"{behind.url}/fpx/ticket/{ticket}/download") as response:
        assert unpacked(await response.read()) == {"a.txt": b"hello"}


async def test_a_client_cannot_change_links(behind, session):
    lies = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=192.0.2.1;host=evil.example;proto=https",
    }
    async with session.get(f"{behind.url}/openapi.json", headers=lies) as response:
        described = await response.json()
    assert described["servers"][0]["url"] == behind.url


@pytest.mark.parametrize("name", ["Client-Cert", "X-SSL-Cert", "X-SSL-Verify"])
async def test_a_client_cannot_say_which_nodes_certificate_was_seen(behind, session, name):
    """The gateway gives a reason where it is shown a certificate, or what stands for one."""
    answers = []
    for url in (behind.gateway.url, behind.url):
        async with session.get(f"{url}/pipe/link/laptop", headers={name: "FAILED:by-nobody"}) as response:
            answers.append((response.status, "error_description" in response.headers["WWW-Authenticate"]))
    assert answers == [(401, True), (401, False)]


async def test_the_log_names_the_client_and_not_what_the_client_says(behind):
    async with ClientSession(connector=TCPConnector(local_addr=("127.0.0.2", 0))) as session:
        async with session.get(f"{behind.url}/docs", headers={"X-Forwarded-For": "203.0.113.9"}) as response:
            request_id = response.headers["X-Request-Id"]
    line = await behind.access(request_id)
    assert line["client"] == "127.0.0.2"


async def test_a_proxy_that_is_not_trusted_is_not_believed(tmp_path, prepared):
    async with ClientSession(connector=TCPConnector(local_addr=("127.0.0.2", 0))) as session:
        async with stand(tmp_path, prepared) as doubting:
            async with session.get(f"{doubting.url}/fpx/openapi.json") as response:
                described, request_id = await response.json(), response.headers["X-Request-Id"]
            line = await doubting.access(request_id)
    assert (line["client"], described["servers"][0]["url"]) == ("127.0.0.1", doubting.url)


async def test_a_page_of_another_origin_waits_for_its_turn_under_the_path_prefix(tmp_path, prepared, upstream, session):
    queue = {"GATEWAY_ARCHIVE__QUEUE": "true", "GATEWAY_ARCHIVE__MAX_ACTIVE_DOWNLOADS": "1"}
    async with stand(tmp_path, prepared, **TRUSTED, **queue) as queued:
        first = await queued.ticket(session, upstream.add("/first.bin", 2 * MIB, Stall(after=1000)))
        second = await queued.ticket(session, upstream.add("/second.txt", b"mine"))
        async with session.get(f"{queued.url}/fpx/ticket/{first}/download") as downloading:
            await read_until(downloading, upstream.content("/first.bin")[:1000])
            wait = f"{queued.url}/fpx/ticket/{second}/wait".replace("http:", "ws:")
            async with session.ws_connect(wait, origin="https://portal.example") as socket_:
                waiting = await socket_.receive_json(timeout=PATIENCE_S)
                upstream.release("/first.bin")
                await downloading.read()
                called = await socket_.receive_json(timeout=PATIENCE_S)
                closed = await socket_.receive(timeout=PATIENCE_S)
        async with session.get(f"{queued.url}/fpx/ticket/{second}/download") as response:
            taken = await response.read()
    assert (waiting, called) == ({"position": 0, "available": False}, {"position": 0, "available": True})
    assert (closed.type, closed.extra) == (WSMsgType.CLOSE, "available")
    assert unpacked(taken) == {"second.txt": b"mine"}


async def test_sigterm_lets_downloads_through_nginx_complete(tmp_path, prepared, upstream, session):
    names = [f"{number}.bin" for number in range(5)]
    async with stand(tmp_path, prepared, **TRUSTED) as stopping, AsyncExitStack() as stack:
        urls = [upstream.add(f"/{name}", 2 * MIB, Stall(after=1000)) for name in names]
        tickets = [await stopping.ticket(session, url) for url in urls]
        gets = [session.get(f"{stopping.url}/ticket/{ticket}/download") for ticket in tickets]
        answers = [await stack.enter_async_context(get) for get in gets]
        begun = [await read_until(a, upstream.content(f"/{n}")[:1000]) for a, n in zip(answers, names, strict=True)]
        stopping.gateway.send_signal(signal.SIGTERM)
        await stopping.gateway.wait_log("draining")
        await refused(session, f"{stopping.url}/docs")
        for name in names:
            upstream.release(f"/{name}")
        whole = [part + await answer.read() for part, answer in zip(begun, answers, strict=True)]
        code = await stopping.gateway.wait()
    assert [unpacked(data) for data in whole] == [{name: upstream.content(f"/{name}")} for name in names]
    assert code == 0


async def refused(session: ClientSession, url: str) -> None:
    """Wait until nginx finds nobody behind it: the port is closed after the log says that it will be."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(url) as response:
                if response.status == 502:
                    return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/fpx/metrics",
        "//metrics",
        "/%6detrics",
        "/a/../metrics",
        "/fpx//metrics",
        "/fpx/%2fmetrics",
        "/fpx/../metrics",
        "/fpx/%2e%2e/metrics",
        "/metrics?format=text",
    ],
)
async def test_metrics_are_not_for_the_outside(behind, session, path):
    async with session.get(f"{behind.gateway.url}/metrics") as response:
        assert "gateway_requests_total" in await response.text()
    answer = await behind.exchange(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
    assert answer.startswith("HTTP/1.1 404 ")
