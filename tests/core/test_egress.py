"""The egress guard: what the policy permits, what crosses a redirect, what a caller and an operator get to read."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway_core.errors import ConfigError, SourceError, SourceFailed, SourceRefused, SourceStalled
from gateway_core.sources.egress import ClientLimits, EgressPolicy, GuardedClient, OutgoingRequest
from gateway_core.sources.urls import parse_url
from tests.core.raw_servers import listening

LIMITS = ClientLimits(connect_s=1, dial_s=0.3, stall_s=0.3)
LOOPBACK = EgressPolicy(["127.0.0.0/8"])


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Upstream:
    """A plain server: ``answer`` makes the response, ``seen`` and ``connections`` tell who came."""

    def __init__(self, answer: Callable[[Seen], bytes]) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.seen.append(Seen(method, target, headers, body))
            writer.write(self.answer(self.seen[-1]))
            await writer.drain()


@asynccontextmanager
async def upstream(
    answer: Callable[[Seen], bytes], address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    server = Upstream(answer)
    async with listening(server.serve, address, tls=tls) as server.port:
        yield server


def ok(seen: Seen | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


class Names(AbstractResolver):
    """DNS of the tests: every known name has these addresses."""

    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        if host not in self.addresses:
            raise OSError(None, "no such name")
        await asyncio.sleep(0)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses[host]
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def fetch(client: GuardedClient, url: str, **options: object) -> bytes:
    async with client.request(OutgoingRequest(url, **options)) as response:
        return await response.read()


async def failure(client: GuardedClient, url: str, **options: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await fetch(client, url, **options)
    return caught.value


# The policy


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_address_is_permitted_on_the_web_ports(address: str) -> None:
    policy = EgressPolicy()
    assert [policy.decide(address, port).permitted for port in (80, 443, 22, 8080)] == [True, True, False, False]


@pytest.mark.parametrize(
    "address",
    [
        "192.0.0.192",
        "168.63.129.16",
        "224.0.0.1",
        "::127.0.0.1",
        "64:ff9b:1::1",
        "5f00::1",
        "3fff::1",
        "2002:101:101::",
    ],
)
def test_address_that_python_calls_global_or_unknown_is_refused(address: str) -> None:
    assert not EgressPolicy().decide(address, 443).permitted


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "0x7f.1", "example.com", "1.2.3.4.5", "::g"])
def test_what_is_no_address_is_refused_even_for_an_allowed_host(address: str) -> None:
    assert not EgressPolicy(["h.test"]).decide(address, 443, host="h.test").permitted


@pytest.mark.parametrize(
    ("entry", "address", "host"),
    [
        ("127.0.0.0/8", "127.9.9.9", ""),
        ("10.1.2.3", "10.1.2.3", ""),
        ("10.0.0.0/8", "::ffff:10.1.2.3", ""),
        ("::1", "::1", ""),
        ("[fd00::/8]", "fd12::1", ""),
        ("files.example", "169.254.169.254", "files.example"),
        (" Files.EXAMPLE. ", "::1", "files.example"),
        ("bücher.example", "10.0.0.1", "xn--bcher-kva.example"),
    ],
)
def test_allowed_network_or_host_is_open_on_any_port(entry: str, address: str, host: str) -> None:
    assert EgressPolicy([entry]).decide(address, 6379, host=host).permitted


def test_allowed_host_opens_nothing_for_another_host() -> None:
    assert not EgressPolicy(["files.example"]).decide("10.0.0.1", 80, host="sub.files.example").permitted


@pytest.mark.parametrize(
    "entry", ["10.1.2.3/8", "", "http://h", "*.example", "h:80", "300.1.1.1", "127.1", "a b", "::1/200"]
)
def test_entry_that_is_nothing_is_a_config_error_that_shows_it(entry: str) -> None:
    with pytest.raises(ConfigError, match="EGRESS_ALLOW"):
        EgressPolicy([entry])


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("10.1.2.3", "GATEWAY_EGRESS_ALLOW=10.1.2.3/32"),
        ("::ffff:10.1.2.3", "GATEWAY_EGRESS_ALLOW=10.1.2.3/32"),
        ("fd00::1", "GATEWAY_EGRESS_ALLOW=fd00::1/128"),
    ],
)
def test_remedy_is_the_line_that_permits(address: str, remedy: str) -> None:
    assert EgressPolicy().decide(address, 80).remedy == remedy
    assert EgressPolicy([remedy.partition("=")[2]]).decide(address, 80).permitted


def test_remedy_keeps_what_is_allowed_already() -> None:
    policy = EgressPolicy(["h.example", "127.0.0.0/8"], [80])
    assert policy.decide("10.1.2.3", 80).remedy == "GATEWAY_EGRESS_ALLOW=10.1.2.3/32,h.example,127.0.0.0/8"
    assert policy.decide("8.8.8.8", 8080).remedy == "GATEWAY_EGRESS_PORTS=80,8080"


# Reading URLs


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("http://h/a%2Fb%7Ec%2fd?sig=a%3D%3D%20b+c%3a&x=%40", "/a%2Fb%7Ec%2fd?sig=a%3D%3D%20b+c%3a&x=%40"),
        ("http://h", "/"),
        ("http://h?x=1", "/?x=1"),
        ("http://h/a b", "/a%20b"),
        ("http://h/ü?ü", "/%C3%BC?%C3%BC"),
        ("http://h/100%", "/100%25"),
        ("http://h/a/../b#part", "/b"),
        ("http://h//a//b?c=//d", "//a//b?c=//d"),
    ],
)
async def test_path_and_query_are_sent_as_given_or_made_valid(text: str, sent: str) -> None:
    async with upstream(ok) as server, GuardedClient(LOOPBACK) as client:
        await fetch(client, text.replace("//h", f"//127.0.0.1:{server.port}", 1))
    assert server.seen[0].target == sent


def test_origin_is_one_spelling() -> None:
    spellings = ["http://Example.COM", "HTTP://example.com.:80/a?b", "http://u:p@example.com:0080/#c"]
    assert {parse_url(text).server.origin for text in spellings} == {"http://example.com:80"}
    assert parse_url("https://[2001:DB8:0::1]/").server.origin == "https://[2001:db8::1]:443"


def test_credentials_in_a_url_are_not_shown() -> None:
    target = parse_url("https://user:pa%40ss@h.test/x")
    assert target.authorization == "Basic " + base64.b64encode(b"user:pa@ss").decode()
    assert "pa" not in repr(target).replace("path", "")


# Dialling


async def test_allowed_host_is_reached_by_its_name_only(caplog: pytest.LogCaptureFixture) -> None:
    names = Names({"files.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    async with upstream(ok) as server, GuardedClient(EgressPolicy(["files.test"]), resolver=names) as client:
        assert await fetch(client, f"http://files.test:{server.port}/") == b"ok"
        # a kept-alive connection to that very address is waiting now
        assert isinstance(await failure(client, f"http://other.test:{server.port}/"), SourceRefused)
        assert isinstance(await failure(client, f"http://127.0.0.1:{server.port}/"), SourceRefused)
        assert await fetch(client, f"http://FILES.test.:{server.port}/") == b"ok"
    assert (server.connections, len(server.seen)) == (1, 2)


async def test_allowances_of_concurrent_requests_do_not_mix() -> None:
    names = Names({f"{kind}{n}.test": ["::1", "127.0.0.1"] for kind in "ab" for n in range(20)})
    policy = EgressPolicy([f"a{n}.test" for n in range(20)])
    async with upstream(ok) as server, GuardedClient(policy, resolver=names) as client:
        urls = [f"http://{kind}{n}.test:{server.port}/" for n in range(20) for kind in "ab"]
        results = await asyncio.gather(*(fetch(client, url) for url in urls), return_exceptions=True)
    assert [isinstance(result, SourceRefused) for result in results] == [False, True] * 20
    assert results[::2] == [b"ok"] * 20


async def test_connection_is_kept_alive_and_used_again() -> None:
    async with upstream(ok) as server, GuardedClient(LOOPBACK) as client:
        for _ in range(3):
            await fetch(client, f"http://127.0.0.1:{server.port}/")
    assert (server.connections, len(server.seen)) == (1, 3)


async def test_refusal_tells_the_operator_the_line_and_the_caller_nothing(caplog: pytest.LogCaptureFixture) -> None:
    names = Names({"intranet.test": ["10.1.2.3"]})
    async with GuardedClient(EgressPolicy(), resolver=names) as client:
        errors = [
            await failure(client, url)
            for url in ("http://intranet.test/", "http://169.254.169.254/", "http://[::1]:22/", "http://8.8.8.8:22/")
        ]
    assert {(type(error), str(error)) for error in errors} == {(SourceRefused, "this address may not be fetched")}
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "GATEWAY_EGRESS_ALLOW=10.1.2.3/32" in logged[0]
    assert "http://intranet.test:80" in logged[0]
    assert len(logged) == len(errors)


async def test_ways_of_not_connecting_look_the_same_to_a_caller() -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    deaf = socket.socket()  # has a port and does not listen: refuses, and nobody else gets the port
    deaf.bind(("127.0.0.1", 0))
    async with (
        upstream(lambda seen: b"") as server,
        GuardedClient(LOOPBACK, limits=LIMITS, resolver=Names({})) as client,
    ):
        errors = [
            await failure(client, url)
            for url in (
                f"http://127.0.0.1:{deaf.getsockname()[1]}/",
                f"http://127.0.0.1:{full.getsockname()[1]}/",
                f"https://127.0.0.1:{server.port}/",
                "http://unknown.test/",
            )
        ]
    for one in (*waiting, full, deaf):
        one.close()
    assert [(type(error), str(error)) for error in errors] == [(SourceFailed, "connection failed")] * 4


async def test_slow_name_server_is_a_failed_connection() -> None:
    class Slow(Names):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            await asyncio.Event().wait()
            return []

    async with GuardedClient(LOOPBACK, limits=LIMITS, resolver=Slow({})) as client:
        assert str(await failure(client, "http://slow.test/")) == "connection failed"


async def test_secrets_of_a_failing_url_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with upstream(lambda seen: b"SSH-2.0-x\r\n\r\n") as server, GuardedClient(LOOPBACK, limits=LIMITS) as client:
        for scheme in ("http", "https"):
            url = f"{scheme}://user:Canary1@127.0.0.1:{server.port}/?sig=Canary2"
            await failure(client, url, headers={"X-Key": "Canary3"})
    assert "gateway.egress" in {record.name for record in caplog.records}
    assert "Canary" not in caplog.text


async def test_answer_that_is_not_http_is_not_echoed() -> None:
    async with upstream(lambda seen: b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as server, GuardedClient(LOOPBACK) as client:
        error = await failure(client, f"http://127.0.0.1:{server.port}/")
    assert (type(error), str(error)) == (SourceFailed, "not a valid HTTP answer")


async def test_silent_server_is_stalled() -> None:
    limits = ClientLimits(stall_s=0.3)
    async with upstream(lambda seen: b"") as server, GuardedClient(LOOPBACK, limits=limits) as client:
        assert isinstance(await failure(client, f"http://127.0.0.1:{server.port}/"), SourceStalled)


async def test_headers_that_trickle_are_stalled() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    limits = ClientLimits(connect_s=0.2, stall_s=0.2)
    async with listening(trickle) as port, GuardedClient(LOOPBACK, limits=limits) as client:
        assert isinstance(await failure(client, f"http://127.0.0.1:{port}/"), SourceStalled)


async def test_leaving_before_the_end_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        closed.set()

    async with listening(endless) as port, GuardedClient(LOOPBACK) as client:
        async with client.request(OutgoingRequest(f"http://127.0.0.1:{port}/")) as response:
            assert await response.content.readany() == b"x"
        await asyncio.wait_for(closed.wait(), 5)


# What is sent


async def test_identity_is_asked_for_whatever_the_caller_says() -> None:
    headers = {"accept-encoding": "gzip", "Host": "inner.test", "Connection": "upgrade", "X-Own": "1"}
    async with upstream(ok) as server, GuardedClient(LOOPBACK) as client:
        await fetch(client, f"http://127.0.0.1:{server.port}/", headers=headers)
    sent = server.seen[0].headers
    assert sent["accept-encoding"] == "identity"
    assert sent["host"] == f"127.0.0.1:{server.port}"
    assert sent["x-own"] == "1"
    assert "connection" not in sent
    assert sent["user-agent"].startswith("content-gateway/")


@pytest.mark.parametrize(
    "headers",
    [{"X": "a\r\nY: b"}, {"X": "a\x00"}, {"X": "\ud800"}, {"X\r\nY": "a"}, {"": "a"}, {"X Y": "a"}, {"X:": "a"}],
)
async def test_header_that_would_break_the_message_is_refused(headers: dict[str, str]) -> None:
    async with upstream(ok) as server, GuardedClient(LOOPBACK) as client:
        error = await failure(client, f"http://127.0.0.1:{server.port}/", headers=headers)
    assert isinstance(error, SourceRefused)
    assert server.connections == 0


async def test_credentials_in_the_url_become_a_header() -> None:
    async with upstream(ok) as server, GuardedClient(LOOPBACK) as client:
        await fetch(client, f"http://us%C3%A9r:pa%3Ass@127.0.0.1:{server.port}/")
    expected = base64.b64encode("usér:pa:ss".encode()).decode()
    assert server.seen[0].headers["authorization"] == f"Basic {expected}"


# Redirects


async def test_caller_headers_stay_with_their_origin_and_do_not_come_back() -> None:
    secret = {"Authorization": "Bearer t", "Cookie": "c=1", "X-Api-Key": "k"}
    async with upstream(lambda seen: redirect(f"http://127.0.0.1:{home.port}/end"), "127.0.0.2") as other:
        pages = {"/": lambda: redirect("/same"), "/same": lambda: redirect(f"http://127.0.0.2:{other.port}/x")}
        async with upstream(lambda seen: pages.get(seen.target, ok)()) as home, GuardedClient(LOOPBACK) as client:
            url = f"http://127.0.0.1:{home.port}/"
            assert await fetch(client, url, headers=secret, common={"Range": "bytes=0-"}) == b"ok"
    carried = [
        [name for name in ("authorization", "cookie", "x-api-key", "range") if name in seen.headers]
        for seen in (home.seen[0], home.seen[1], other.seen[0], home.seen[2])
    ]
    assert carried == [
        ["authorization", "cookie", "x-api-key", "range"],
        ["authorization", "cookie", "x-api-key", "range"],
        ["range"],
        ["range"],
    ]


@pytest.mark.parametrize("how", ["port", "host"])
async def test_credentials_of_the_url_do_not_follow_to_another(how: str) -> None:
    names = Names({"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]})
    async with upstream(ok) as other, upstream(lambda seen: redirect(target) if seen.target == "/" else ok()) as home:
        target = f"http://a.test:{other.port}/x" if how == "port" else f"http://b.test:{home.port}/x"
        async with GuardedClient(LOOPBACK, resolver=names) as client:
            await fetch(client, f"http://u:p@a.test:{home.port}/")
    last = other.seen[-1] if how == "port" else home.seen[-1]
    assert "authorization" in home.seen[0].headers
    assert (last.target, "authorization" in last.headers) == ("/x", False)


@pytest.mark.parametrize(
    ("status", "method", "then", "body"),
    [
        (301, "POST", "GET", b""),
        (302, "POST", "GET", b""),
        (303, "POST", "GET", b""),
        (303, "PUT", "GET", b""),
        (307, "POST", "POST", b"data"),
        (308, "POST", "POST", b"data"),
        (301, "PUT", "PUT", b"data"),
    ],
)
async def test_method_and_body_after_a_redirect(status: int, method: str, then: str, body: bytes) -> None:
    async with upstream(lambda seen: redirect("/x", status) if seen.target == "/" else ok()) as server:
        async with GuardedClient(LOOPBACK) as client:
            url = f"http://127.0.0.1:{server.port}/"
            await fetch(client, url, method=method, body=b"data", headers={"Content-Type": "text/plain"})
    assert [(seen.method, seen.body) for seen in server.seen] == [(method, b"data"), (then, body)]
    assert ("content-type" in server.seen[1].headers) == (body != b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_head_stays_head_after_a_redirect(status: int) -> None:
    async with upstream(
        lambda seen: redirect("/x", status) if seen.target == "/" else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    ) as server:
        async with GuardedClient(LOOPBACK) as client:
            await fetch(client, f"http://127.0.0.1:{server.port}/", method="HEAD")
    assert [seen.method for seen in server.seen] == ["HEAD", "HEAD"]


async def test_body_is_not_sent_to_another_server() -> None:
    async with upstream(ok) as other, upstream(lambda seen: redirect(f"http://127.0.0.1:{other.port}/", 307)) as home:
        async with GuardedClient(LOOPBACK) as client:
            error = await failure(client, f"http://127.0.0.1:{home.port}/", method="POST", body=b"data")
    assert isinstance(error, SourceRefused)
    assert other.seen == []


async def test_redirect_is_an_answer_when_none_may_be_followed() -> None:
    async with upstream(lambda seen: redirect("/x", 307)) as server, GuardedClient(LOOPBACK) as client:
        request = OutgoingRequest(f"http://127.0.0.1:{server.port}/", max_redirects=0)
        async with client.request(request) as response:
            assert response.status == 307
    assert len(server.seen) == 1


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server called ``secure.test`` and for a client that trusts it."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("secure.test").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return serving, trusting


async def test_redirect_from_https_to_http_is_refused(authority: trustme.CA) -> None:
    serving, trusting = contexts(authority)
    async with upstream(ok) as plain:
        async with upstream(lambda seen: redirect(f"http://secure.test:{plain.port}/"), tls=serving) as secure:
            names = Names({"secure.test": ["127.0.0.1"]})
            async with GuardedClient(LOOPBACK, resolver=names, tls=trusting) as client:
                error = await failure(client, f"https://secure.test:{secure.port}/")
    assert (type(error), str(error)) == (SourceRefused, "redirect from https to http")
    assert (len(secure.seen), len(plain.seen)) == (1, 0)


async def test_certificate_of_another_host_is_a_failed_connection(authority: trustme.CA) -> None:
    serving, trusting = contexts(authority)
    async with upstream(ok, tls=serving) as secure, GuardedClient(LOOPBACK, tls=trusting) as client:
        assert str(await failure(client, f"https://127.0.0.1:{secure.port}/")) == "connection failed"
    assert secure.seen == []
