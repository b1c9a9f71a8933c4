"""No URL form, redirect or DNS answer reaches an inner address: judged by listeners and by every dial the kernel sees.

127.0.0.2 and names that are allowed play the public servers here: nothing but loopback is ever dialled.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientError, InvalidURL
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway_core.errors import SourceError, SourceFailed, SourceRefused
from gateway_core.sources.egress import ClientLimits, EgressPolicy, GuardedClient, OutgoingRequest
from gateway_core.sources.urls import parse_url
from tests.core.raw_servers import listening

LIMITS = ClientLimits(connect_s=2, dial_s=1, stall_s=1)

# {p} is a port where a listener waits on 127.0.0.1 and [::1]; the policy has it among its ports.
FORMS = [
    # IPv4 loopback
    "http://127.0.0.1:{p}/",
    "http://127.0.0.1.:{p}/",
    "http://127.1:{p}/",
    "http://127.0.1:{p}/",
    "http://2130706433:{p}/",
    "http://0x7f000001:{p}/",
    "http://0X7F.0.0.1:{p}/",
    "http://0x7f.1:{p}/",
    "http://017700000001:{p}/",
    "http://0177.0.0.1:{p}/",
    "http://0177.0x0.0.1:{p}/",
    "http://127.127.127.127:{p}/",
    "http://127.0.0.01:{p}/",
    "http://0:{p}/",
    "http://0.0.0.0:{p}/",
    "http://00000127.0.0.1:{p}/",
    "http://localhost:{p}/",
    "http://LOCALHOST.:{p}/",
    "HTTP://127.0.0.1:{p}/",
    "http://127.0.0.1:0{p}/",
    "http://127.0.0.1:+{p}/",
    "http://127.0.0.1: {p}/",
    # IPv6 loopback and embedded IPv4
    "http://[::1]:{p}/",
    "http://[0:0:0:0:0:0:0:1]:{p}/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{p}/",
    "http://[::]:{p}/",
    "http://[::ffff:127.0.0.1]:{p}/",
    "http://[::ffff:7f00:1]:{p}/",
    "http://[0:0:0:0:0:FFFF:7F00:1]:{p}/",
    "http://[::ffff:0.0.0.0]:{p}/",
    "http://[::127.0.0.1]:{p}/",
    "http://[::ffff:0:127.0.0.1]:{p}/",
    "http://[64:ff9b::127.0.0.1]:{p}/",
    "http://[64:ff9b::7f00:1]:{p}/",
    "http://[64:ff9b:1::7f00:1]:{p}/",
    "http://[2002:7f00:1::]:{p}/",
    "http://[2001:0:7f00:1::80ff:fffe]:{p}/",
    "http://[::1%25lo]:{p}/",
    "http://[::1%lo]:{p}/",
    "http://[fe80::1%25eth0]:{p}/",
    "http://[fe80::1]:{p}/",
    "http://[fc00::1]:{p}/",
    "http://[fd12:3456::1]:{p}/",
    "http://[fec0::1]:{p}/",
    "http://[ff02::1]:{p}/",
    "http://[2001:db8::1]:{p}/",
    "http://[3fff::1]:{p}/",
    "http://[5f00::1]:{p}/",
    "http://[100::1]:{p}/",
    # metadata services
    "http://169.254.169.254:{p}/latest/meta-data/",
    "http://[::ffff:169.254.169.254]:{p}/",
    "http://2852039166:{p}/",
    "http://0xA9FEA9FE:{p}/",
    "http://0251.0376.0251.0376:{p}/",
    "http://169.254.170.2:{p}/",
    "http://100.100.100.200:{p}/",
    "http://192.0.0.192:{p}/",
    "http://168.63.129.16:{p}/",
    "http://[fd00:ec2::254]:{p}/",
    # private and special ranges
    "http://10.0.0.1:{p}/",
    "http://172.16.0.1:{p}/",
    "http://172.31.255.255:{p}/",
    "http://192.168.1.1:{p}/",
    "http://100.64.0.1:{p}/",
    "http://198.18.0.1:{p}/",
    "http://192.0.2.1:{p}/",
    "http://224.0.0.1:{p}/",
    "http://240.0.0.1:{p}/",
    "http://255.255.255.255:{p}/",
    # what parsers disagree about
    "http://public.test@127.0.0.1:{p}/",
    "http://public.test:80@127.0.0.1:{p}/",
    "http://a@b@127.0.0.1:{p}/",
    "http://127.0.0.1:{p}#@public.test/",
    "http://127.0.0.1:{p}?@public.test/",
    "http://127.0.0.1:{p}\\@public.test/",
    "http://public.test\\@127.0.0.1:{p}/",
    "http://public.test#@127.0.0.1:{p}/",
    "http://127.0.0.1%00.public.test:{p}/",
    "http://127.0.0.1\x00.public.test:{p}/",
    "http://127.0.0.1%2f.public.test:{p}/",
    "http://%31%32%37.0.0.1:{p}/",
    "http://127.0.0.1\t:{p}/",
    "http://127.0.0.1\r\nHost: public.test\r\n:{p}/",
    "ht\ntp://127.0.0.1:{p}/",
    " http://127.0.0.1:{p}/",
    "//127.0.0.1:{p}/",
    "http:127.0.0.1:{p}/",
    "http:/127.0.0.1:{p}/",
    "http:///127.0.0.1:{p}/",
    "http:\\\\127.0.0.1:{p}\\",
    "http://[127.0.0.1]:{p}/",
    "http://[::1:{p}/",
    "http://::1:{p}/",
    # Unicode that turns into digits and dots
    "http://①②⑦.⓪.⓪.①:{p}/",
    "http://127。0。0。1:{p}/",
    "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{p}/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{p}/",
    "http://١٢٧.0.0.1:{p}/",
    "http://127.0.0.1\u200b:{p}/",
    # other schemes
    "https://127.0.0.1:{p}/",
    "file:///etc/passwd",
    "file://127.0.0.1:{p}/etc/passwd",
    "gopher://127.0.0.1:{p}/_GET",
    "ftp://127.0.0.1:{p}/",
    "dict://127.0.0.1:{p}/",
    "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "data:text/plain,hello",
    "ws://127.0.0.1:{p}/",
    "tcp://127.0.0.1:{p}/",
    "",
    "127.0.0.1:{p}",
    # ports of a public address
    "http://8.8.8.8:22/",
    "http://8.8.8.8:0/",
    "http://8.8.8.8:99999/",
    "http://[2001:4860:4860::8888]:6379/",
]

NAMES = {
    "private-a.test": [["10.1.2.3"]],
    "loopback-a.test": [["127.0.0.1"]],
    "metadata-a.test": [["169.254.169.254"]],
    "oracle-metadata.test": [["192.0.0.192"]],
    "loopback-aaaa.test": [["::1"]],
    "mapped-aaaa.test": [["::ffff:127.0.0.1"]],
    "compatible-aaaa.test": [["::127.0.0.1"]],
    "nat64-aaaa.test": [["64:ff9b::7f00:1"]],
    "sixtofour-aaaa.test": [["2002:7f00:1::"]],
    "unique-local.test": [["fd00::1"]],
    "unspecified.test": [["0.0.0.0"]],
    "zone.test": [["fe80::1%lo"]],
    "mixed-public-first.test": [["127.0.0.2", "127.0.0.1"]],
    "mixed-private-first.test": [["127.0.0.1", "127.0.0.2"]],
    "mixed-families.test": [["127.0.0.2", "::1"]],
    "many-private.test": [["10.0.0.1", "::1", "127.0.0.1", "fd00::1"]],
    "cname-to-inner.test": [["192.168.0.10"]],
    "alias-not-address.test": [["localhost"]],
    "empty.test": [[]],
    "unknown.test": [],
    "127.0.0.1.nip.test": [["127.0.0.1"]],
    "0x7f.inner.test": [["127.0.0.1"]],
}


class Names(AbstractResolver):
    """DNS of the tests: the n-th look-up of a name gets its n-th answer, later ones the last."""

    def __init__(self, answers: dict[str, list[list[str]]] | None = None) -> None:
        self.answers = {name: list(rounds) for name, rounds in (answers or {}).items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        self.asked.append(host)
        rounds = self.answers.get(host)
        if not rounds:
            raise OSError(None, "no such name")
        addresses = rounds.pop(0) if len(rounds) > 1 else rounds[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


class NumericNames(Names):
    """What a generous system resolver makes of numbers (``0x7f.1`` is 127.0.0.1), without asking any server."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        try:
            found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(None, "no such name") from error
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=family, proto=0, flags=0)
            for _, _, _, _, address in found
        ]


@dataclass
class Listeners:
    """Servers on one port of 127.0.0.1 and [::1] that count who comes."""

    port: int
    hits: list[str] = field(default_factory=list)


_dials: list[str] | None = None


def _note_dial(event: str, args: tuple[object, ...]) -> None:
    if event == "socket.connect" and _dials is not None and isinstance(args[1], tuple):
        address = str(args[1][0])
        _dials.append(address)
        if not ipaddress.ip_address(address).is_loopback:
            raise PermissionError("a test must not leave this machine")


sys.addaudithook(_note_dial)


@pytest.fixture
def dials() -> Iterator[list[str]]:
    """Every address any socket of this process is connected to."""
    global _dials
    _dials = []
    yield _dials
    _dials = None


@pytest.fixture
async def inner() -> AsyncIterator[Listeners]:
    listeners = Listeners(0)

    async def hit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listeners.hits.append(str(writer.get_extra_info("sockname")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
        await writer.drain()

    async with listening(hit) as listeners.port, listening(hit, "::1", port=listeners.port):
        yield listeners


Answer = Callable[[str], bytes]


@asynccontextmanager
async def outer(answer: Answer, address: str = "127.0.0.2") -> AsyncIterator[int]:
    """A server that plays a public one; ``answer`` makes the response from the request's target."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(head.split(b" ")[1].decode()))
        await writer.drain()

    async with listening(serve, address) as port:
        yield port


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def client(inner: Listeners, allow: list[str] | None = None, names: Names | None = None) -> GuardedClient:
    return GuardedClient(
        EgressPolicy(allow or [], [80, 443, inner.port]), limits=LIMITS, resolver=names or Names(NAMES)
    )


async def fetch(guarded: GuardedClient, url: str, **options: object) -> bytes:
    async with guarded.request(OutgoingRequest(url, **options)) as response:
        return await response.read()


async def fails(attempt: Awaitable[bytes]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await attempt
    return caught.value


@pytest.mark.parametrize("form", FORMS)
async def test_form_reaches_nothing(form: str, inner: Listeners, dials: list[str]) -> None:
    async with client(inner) as guarded:
        await fails(fetch(guarded, form.replace("{p}", str(inner.port))))
    assert (inner.hits, dials) == ([], [])


@pytest.mark.parametrize("form", FORMS)
async def test_the_dial_alone_stops_a_form_that_no_url_check_has_seen(
    form: str, inner: Listeners, dials: list[str]
) -> None:
    async with client(inner, names=NumericNames()) as guarded:
        with pytest.raises((ClientError, InvalidURL, ValueError)):
            await guarded._session.get(form.replace("{p}", str(inner.port)))
    assert (inner.hits, dials) == ([], [])


@pytest.mark.parametrize("name", NAMES)
async def test_name_that_leads_inside_reaches_nothing(name: str, inner: Listeners, dials: list[str]) -> None:
    async with client(inner, ["127.0.0.2"]) as guarded:
        await fails(fetch(guarded, f"http://{name}:{inner.port}/"))
    assert (inner.hits, dials) == ([], [])


async def test_system_name_of_this_machine_reaches_nothing(inner: Listeners, dials: list[str]) -> None:
    async with GuardedClient(EgressPolicy([], [inner.port]), limits=LIMITS) as guarded:
        assert isinstance(await fails(fetch(guarded, f"http://localhost:{inner.port}/")), SourceRefused)
    assert (inner.hits, dials) == ([], [])


async def test_listeners_would_count_a_hit(inner: Listeners, dials: list[str]) -> None:
    names = Names({"inner.test": [["127.0.0.1"]]})
    async with client(inner, ["inner.test", "::1"], names) as guarded:
        assert await fetch(guarded, f"http://inner.test:{inner.port}/") == b"secret"
        assert await fetch(guarded, f"http://[::1]:{inner.port}/") == b"secret"
    assert inner.hits == dials == ["127.0.0.1", "::1"]


TARGETS = [
    "http://127.0.0.1:{p}/",
    "http://[::1]:{p}/",
    "http://[::ffff:127.0.0.1]:{p}/",
    "http://loopback-a.test:{p}/",
    "//127.0.0.1:{p}/",
    "///127.0.0.1:{p}/",
    "/\\127.0.0.1:{p}/",
    "\\\\127.0.0.1:{p}/",
    "http:127.0.0.1:{p}/",
    "http://2130706433:{p}/",
    "http://0x7f.1:{p}/",
    "http://public.test@127.0.0.1:{p}/",
    "http://user:word@outer.test/",
    "HTTPS://127.0.0.1:{p}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{p}/",
    "http://8.8.8.8:22/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1",
    "http://127.0.0.1:{p}/\x00",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_reaches_nothing(status: int, target: str, inner: Listeners, dials: list[str]) -> None:
    location = target.replace("{p}", str(inner.port))
    names = Names(NAMES | {"outer.test": [["127.0.0.2"]]})
    async with outer(lambda path: redirect(location, status) if path == "/" else redirect("/")) as port:
        async with client(inner, ["outer.test"], names) as guarded:
            await fails(fetch(guarded, f"http://outer.test:{port}/"))
    assert inner.hits == []
    assert set(dials) == {"127.0.0.2"}


async def test_last_of_five_redirects_is_judged_like_the_first(inner: Listeners, dials: list[str]) -> None:
    def hop(path: str) -> bytes:
        number = int(path.strip("/"))
        return redirect(f"/{number + 1}" if number < 5 else f"http://127.0.0.1:{inner.port}/")

    async with outer(hop) as port, client(inner, ["127.0.0.2"]) as guarded:
        assert isinstance(await fails(fetch(guarded, f"http://127.0.0.2:{port}/1")), SourceRefused)
    assert (inner.hits, dials) == ([], ["127.0.0.2"] * 5)


async def test_loop_of_redirects_ends_after_five(inner: Listeners, dials: list[str]) -> None:
    async with outer(lambda path: redirect(f"/{len(path)}" + path)) as port, client(inner, ["127.0.0.2"]) as guarded:
        assert isinstance(await fails(fetch(guarded, f"http://127.0.0.2:{port}/")), SourceFailed)
    assert len(dials) == 6


async def test_name_that_changes_between_two_requests_is_judged_again(inner: Listeners, dials: list[str]) -> None:
    names = Names({"rebinding.test": [["127.0.0.2"], ["127.0.0.1"]]})
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    async with outer(lambda path: answer) as port, client(inner, ["127.0.0.2"], names) as guarded:
        assert await fetch(guarded, f"http://rebinding.test:{port}/") == b"ok"
        assert isinstance(await fails(fetch(guarded, f"http://rebinding.test:{inner.port}/")), SourceRefused)
    assert names.asked == ["rebinding.test"] * 2
    assert (inner.hits, dials) == ([], ["127.0.0.2"])


async def test_name_that_changes_between_two_hops_is_judged_again(inner: Listeners, dials: list[str]) -> None:
    names = Names({"rebinding.test": [["127.0.0.2"], ["127.0.0.1"]]})
    async with outer(lambda path: redirect(f"http://rebinding.test:{inner.port}/")) as port:
        async with client(inner, ["127.0.0.2"], names) as guarded:
            assert isinstance(await fails(fetch(guarded, f"http://rebinding.test:{port}/")), SourceRefused)
    assert (inner.hits, dials) == ([], ["127.0.0.2"])


async def test_name_that_changes_between_check_and_dial_is_judged_at_the_dial(
    inner: Listeners, dials: list[str]
) -> None:
    names = Names({"rebinding.test": [["127.0.0.1"]]})
    async with client(inner, names=names) as guarded:
        guarded.check(f"http://rebinding.test:{inner.port}/")
        assert names.asked == []
        assert isinstance(await fails(fetch(guarded, f"http://rebinding.test:{inner.port}/")), SourceRefused)
    assert (inner.hits, dials) == ([], [])


INNER_NETWORKS = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "0.0.0.0/8",
    "192.0.0.0/24",
    "168.63.129.16/32",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
_WIDE = str.maketrans("0123456789.", "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19\u3002")
_CIRCLED = str.maketrans("0123456789", "⓪①②③④⑤⑥⑦⑧⑨")


def _spellings(address: ipaddress.IPv4Address) -> list[str]:
    number, octets = int(address), address.packed
    dotted, high, low = str(address), number >> 16, number & 0xFFFF
    return [
        dotted,
        dotted + ".",
        dotted.translate(_WIDE),
        dotted.translate(_CIRCLED),
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(hex(octet) for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{low}",
        "".join(f"%{ord(char):02x}" for char in dotted),
        f"[::ffff:{dotted}]",
        f"[::ffff:{high:x}:{low:x}]",
        f"[0:0:0:0:0:FFFF:{high:04X}:{low:04X}]",
        f"[::{dotted}]",
        f"[::ffff:0:{dotted}]",
        f"[64:ff9b::{dotted}]",
        f"[64:ff9b:1::{dotted}]",
        f"[2002:{high:x}:{low:x}::1]",
        f"[2001:0:{high:x}:{low:x}::1]",
        f"[2001::{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}]",
        f"public.test@{dotted}",
        f"{dotted}@{dotted}",
    ]


inner_addresses = st.sampled_from(INNER_NETWORKS).flatmap(
    lambda network: st.ip_addresses(v=4, network=ipaddress.ip_network(network))
)


@settings(max_examples=500, deadline=None)
@given(address=inner_addresses, kind=st.integers(0, 23), scheme=st.sampled_from(["http", "HTTPS", "hTTp"]))
@example(address=ipaddress.IPv4Address("127.0.0.1"), kind=3, scheme="http")
def test_no_spelling_of_an_inner_address_is_permitted(address: ipaddress.IPv4Address, kind: int, scheme: str) -> None:
    policy = EgressPolicy()
    try:
        target = parse_url(f"{scheme}://{_spellings(address)[kind]}/")
    except SourceRefused:
        return
    assert not policy.decide(target.server.host, target.server.port, host=target.server.host).permitted


@settings(deadline=None)
@given(st.ip_addresses(v=6))
def test_no_address_outside_global_unicast_is_permitted(address: ipaddress.IPv6Address) -> None:
    if address in ipaddress.ip_network("2000::/3") or address.ipv4_mapped or str(address).startswith("64:ff9b::"):
        return
    assert not EgressPolicy().decide(str(address), 80).permitted


@settings(deadline=None)
@given(address=inner_addresses, prefix=st.sampled_from(["::ffff:", "64:ff9b::", "::", "64:ff9b:1::"]))
def test_no_embedding_of_an_inner_address_is_permitted(address: ipaddress.IPv4Address, prefix: str) -> None:
    assert not EgressPolicy().decide(f"{prefix}{address}", 443).permitted
