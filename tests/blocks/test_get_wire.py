"""TLS and proxies of the download client."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway_blocks.get.connection import HttpClient
from gateway_blocks.get.model import Unreachable
from gateway_core.errors import ConfigError
from gateway_core.testing.upstream import Upstream, upstream_thread
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Cut, Stall
from tests.blocks.get_serving import MakeClient, clients, stops, without_proxies
from tests.core.certificates import Certificates
from tests.core.raw_servers import listening

DATA = os.urandom(300_000)


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    without_proxies(monkeypatch)


@pytest.fixture
def up() -> Iterator[Upstream]:
    with upstream_thread() as upstream:
        yield upstream


@pytest.fixture
def certificates(tmp_path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def trusting(certificates) -> ssl.SSLContext:
    return certificates.client(None)


@pytest.fixture
def secure(certificates) -> Iterator[Upstream]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.listener)
    with upstream_thread(ssl=context) as upstream:
        yield upstream


@pytest.fixture
def make() -> Iterator[MakeClient]:
    with clients() as make:
        yield make


def get(client: HttpClient, url: str) -> bytes:
    with client.open("GET", url, {}) as answer:
        return answer.read_all(1 << 20)


@asynccontextmanager
async def client_in_thread(url: str, **options: object) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    with clients() as make:
        client = make(url, **options)
        yield lambda: asyncio.to_thread(get, client, url)


@pytest.mark.parametrize("framing", list(Framing))
def test_bodies_come_whole_through_tls(secure, trusting, make, framing):
    url = secure.add("/a", Resource(DATA, framing=framing))
    client = make(url, tls=trusting)
    assert get(client, url) == get(client, url) == DATA
    assert secure.total_connections == (2 if framing is Framing.CLOSE else 1)


def test_a_stranger_is_not_trusted(secure, make):
    url = secure.add("/a", DATA)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ has a certificate that is not trusted"):
        get(make(url), url)
    assert secure.requests == []


def test_a_certificate_for_another_name_is_not_trusted(secure, trusting, make):
    url = secure.add("/a", DATA).replace("127.0.0.1", "localhost")
    with pytest.raises(Unreachable, match="not trusted: Hostname mismatch"):
        get(make(url, tls=trusting), url)


def test_a_handshake_that_hangs_is_given_up(up, make):
    url = up.add("/a").replace("http://", "https://")
    with pytest.raises(Unreachable, match="did not answer in time"):
        get(make(url, connect_s=0.6), url)


def test_a_stop_ends_a_handshake(up, make):
    stop, url = threading.Event(), up.add("/a").replace("http://", "https://")
    client = make(url, stop=stop, connect_s=60)
    connected = lambda: up.sync(up.wait_for(lambda: up.total_connections == 1))  # noqa: E731
    assert stops(lambda: get(client, url), stop, once=connected)


def test_a_stop_ends_a_receive_through_tls(secure, trusting, make):
    stop, url = threading.Event(), secure.add("/a", DATA, Stall(after=1000))
    client = make(url, stop=stop, tls=trusting, stall_s=60)
    assert stops(lambda: get(client, url), stop, once=lambda: secure.sync(secure.wait_requests(1)))


def test_silence_through_tls_is_given_up(secure, trusting, make):
    url = secure.add("/a", DATA, Stall(after=1000))
    with pytest.raises(Unreachable, match=r"sent nothing for 0\.3 s"):
        get(make(url, tls=trusting, stall_s=0.3), url)


def test_a_kept_connection_that_was_closed_under_tls_is_replaced(secure, trusting, make):
    first, second = secure.add("/first", b"x"), secure.add("/second", DATA, Cut(times=1))
    client = make(first, tls=trusting)
    get(client, first)
    assert get(client, second) == DATA


def test_credentials_do_not_go_from_https_to_http(secure, up, trusting, make):
    url = secure.redirect("/a", up.add("/b", b"x"))
    get(make(url, tls=trusting, headers={"Authorization": "secret"}), url)
    assert "Authorization" in secure.requests[0].headers
    assert "Authorization" not in up.requests[0].headers


async def test_a_server_without_tls_is_told():
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(plain) as port, client_in_thread(f"https://127.0.0.1:{port}/a") as fetch:
        with pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port} failed in TLS"):
            await fetch()


# Proxies


@dataclass
class Tunnels:
    """A proxy that connects; ``answer`` is what it says to CONNECT, ``heads`` what it was asked."""

    port: int = 0
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        writer.write(self.answer)
        if not self.answer.startswith(b"HTTP/1.1 200"):
            return
        host, _, port = head.split(" ")[1].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pass_on(reader, far_writer))
                both.create_task(pass_on(far_reader, writer))
        finally:
            far_writer.transport.abort()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def tunnels() -> AsyncIterator[Tunnels]:
    found = Tunnels()
    async with listening(found.serve) as found.port:
        yield found


async def test_https_goes_through_a_tunnel(secure, trusting, tunnels, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://us%65r:p%40ss@127.0.0.1:{tunnels.port}")
    url = secure.add("/a", DATA)
    async with client_in_thread(url, tls=trusting) as fetch:
        assert await fetch() == DATA
        assert await fetch() == DATA
    [head] = tunnels.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1\r\nHost: 127.0.0.1:{secure.port}\r\n")
    assert f"\r\nProxy-Authorization: Basic {b64encode(b'user:p@ss').decode()}\r\n" in head
    assert "Proxy-Authorization" not in secure.requests[0].headers


async def test_a_proxy_that_refuses_is_told(secure, trusting, tunnels, monkeypatch):
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{tunnels.port}")
    tunnels.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    url = secure.add("/a", DATA)
    async with client_in_thread(url, tls=trusting) as fetch:
        with pytest.raises(Unreachable, match=rf"proxy 127\.0\.0\.1 does not connect to .*:{secure.port}: status 407"):
            await fetch()


def test_http_goes_to_the_proxy_with_the_whole_url(up, make, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:pass@127.0.0.1:{up.port}")
    up.add("http://files.example:8082/a%20b", DATA)
    url = "http://files.example:8082/a%20b?q=1"
    assert get(make(url), url) == DATA
    assert up.requests[0].target == url
    assert up.requests[0].headers["Host"] == "files.example:8082"
    assert up.requests[0].headers["Proxy-Authorization"] == f"Basic {b64encode(b'user:pass').decode()}"


@pytest.mark.parametrize("excepted", ["127.0.0.1", "*"])
def test_no_proxy_is_heeded(up, make, monkeypatch, excepted):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", excepted)
    url = up.add("/a", DATA)
    assert get(make(url), url) == DATA


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128", "http://", "http://h:99999"])
def test_a_proxy_of_another_kind_is_refused_by_the_name_of_its_variable(make, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigError, match="http_proxy names a proxy that cannot be used"):
        get(make("http://h"), "http://h/")
