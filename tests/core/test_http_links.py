from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web

from gateway_core.errors import BadRequest
from gateway_core.http.links import client_address, external_base
from tests.core.http_serving import Serving, read_all, serving

LOOPBACK = [ip_network("127.0.0.0/8")]
PROXIES = [*LOOPBACK, ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


async def base(*fields: str, public_url: str | None = None, trusted=LOOPBACK, version: str = "1.1") -> str:
    """The base a real server sees for a request with the header ``fields``."""
    found: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        found.append(external_base(request, public_url, trusted))
        return web.Response()

    async with serving(handler) as server:
        await asked(server, fields, version)
    return found[0].replace(f":{server.port}", ":PORT")


async def address(*fields: str, trusted=PROXIES) -> str:
    found: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        found.append(client_address(request, trusted))
        return web.Response()

    async with serving(handler) as server:
        await asked(server, ("Host: h", *fields), "1.1")
    return found[0]


async def asked(server: Serving, fields: tuple[str, ...], version: str) -> None:
    head = "\r\n".join([f"GET / HTTP/{version}", *fields, "Connection: close", "", ""])
    await server.exchange(head.encode("utf-8", "surrogateescape"))
    error = await server.end()
    if error is not None:
        raise error


async def test_the_public_url_wins_over_everything() -> None:
    fields = ("Host: evil", "X-Forwarded-Host: evil", "X-Forwarded-Proto: http")
    assert await base(*fields, public_url="https://files.example/gw/") == "https://files.example/gw"


async def test_a_direct_client_sees_the_host_it_asked() -> None:
    assert await base("Host: Files.example:8080", trusted=[]) == "http://files.example:8080"
    assert await base("Host: [::1]:8000", trusted=[]) == "http://[::1]:8000"


async def test_http_1_0_without_a_host_gets_the_address_it_reached() -> None:
    assert await base(version="1.0", trusted=[]) == "http://127.0.0.1:PORT"


async def test_an_untrusted_peer_cannot_forward_anything() -> None:
    fields = ("X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /evil", "Forwarded: host=evil")
    assert await base("Host: h", *fields, trusted=[ip_network("10.0.0.0/8")]) == "http://h"


async def test_a_trusted_proxy_tells_scheme_host_and_prefix() -> None:
    fields = ("X-Forwarded-Host: files.example", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /gw/")
    assert await base("Host: backend", *fields) == "https://files.example/gw"


async def test_a_proxy_that_only_tells_the_scheme_passes_the_host_on() -> None:
    assert await base("Host: files.example", "X-Forwarded-Proto: https") == "https://files.example"
    assert await base("Host: files.example", "X-Forwarded-Proto: wss") == "https://files.example"


async def test_a_forwarded_field_is_read() -> None:
    field = 'Forwarded: for=192.0.2.1;proto=https;host="files.example:444"'
    assert await base("Host: backend", field) == "https://files.example:444"


async def test_x_forwarded_fields_win_over_a_forwarded_field_that_a_client_may_have_sent() -> None:
    fields = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "Forwarded: host=evil;proto=http")
    assert await base("Host: files.example", *fields) == "https://files.example"


async def test_what_the_client_put_before_the_proxy_s_own_words_does_not_count() -> None:
    fields = (
        "X-Forwarded-For: 10.0.0.9, 192.0.2.1",
        "X-Forwarded-Host: evil, files.example",
        "X-Forwarded-Proto: http, https",
    )
    assert await base("Host: backend", *fields, trusted=PROXIES) == "https://files.example"
    field = "Forwarded: for=10.0.0.9;host=evil, for=192.0.2.1;host=files.example;proto=https"
    assert await base("Host: backend", field, trusted=PROXIES) == "https://files.example"


async def test_the_outermost_trusted_proxy_speaks() -> None:
    fields = (
        "X-Forwarded-For: 192.0.2.1, 10.0.0.2",
        "X-Forwarded-Host: files.example, inner",
        "X-Forwarded-Proto: https, http",
    )
    assert await base("Host: backend", *fields, trusted=PROXIES) == "https://files.example"


@pytest.mark.parametrize(
    "host",
    [
        *("a b", "a/b", "a@b", "a?b", "a#b", "<script>", "h:0", "h:65536", "h:x", "h:", "[::1", "[zz]", "[::1]x", "é"),
        *("h,i", "-a", "a..:", "\\", "[127.0.0.1]:1:2", "%41"),
    ],
)
async def test_a_host_that_cannot_be_in_a_link_is_refused(host: str) -> None:
    with pytest.raises(BadRequest):
        await base(f"Host: {host}")


@pytest.mark.parametrize(
    "field",
    [
        *(
            "X-Forwarded-Host: a/b",
            "X-Forwarded-Proto: javascript",
            "X-Forwarded-Prefix: //evil",
            'Forwarded: host="a b"',
        ),
        *(
            "X-Forwarded-Prefix: /a/../b",
            "X-Forwarded-Prefix: evil",
            "X-Forwarded-Prefix: /a?b",
            "X-Forwarded-Prefix: /<",
        ),
    ],
)
async def test_forwarded_values_that_cannot_be_in_a_link_are_refused(field: str) -> None:
    with pytest.raises(BadRequest):
        await base("Host: h", field)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), "127.0.0.1"),
        (("X-Forwarded-For: 192.0.2.1",), "192.0.2.1"),
        (("X-Forwarded-For: 6.6.6.6, 192.0.2.1",), "192.0.2.1"),
        (("X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.1.1.1",), "192.0.2.1"),
        (("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"), "192.0.2.1"),
        (("X-Forwarded-For: 192.0.2.1:4711",), "192.0.2.1"),
        (("X-Forwarded-For: [2001:db8::1]:4711",), "2001:db8::1"),
        (("X-Forwarded-For: 2001:DB8::1",), "2001:db8::1"),
        (("X-Forwarded-For: ::ffff:192.0.2.1",), "192.0.2.1"),
        (("X-Forwarded-For: 10.0.0.1, 10.0.0.2",), "10.0.0.1"),
        (("X-Forwarded-For: 192.0.2.1, unknown",), "127.0.0.1"),
        (("X-Forwarded-For: 192.0.2.1, nonsense, 10.0.0.2",), "10.0.0.2"),
        (("X-Forwarded-For: ,,",), "127.0.0.1"),
        (('Forwarded: for="[2001:db8::1]:4711";proto=https',), "2001:db8::1"),
        (("Forwarded: for=6.6.6.6, for=192.0.2.1", "Forwarded: for=10.0.0.2"), "192.0.2.1"),
        (("Forwarded: for=192.0.2.1, for=_hidden",), "127.0.0.1"),
        (('Forwarded: for="6.6.6.6, for=192.0.2.1',), "192.0.2.1"),
        (("X-Forwarded-For: 192.0.2.1", "Forwarded: for=6.6.6.6"), "192.0.2.1"),
    ],
)
async def test_the_client_is_the_right_most_hop_that_is_no_proxy(fields: tuple[str, ...], expected: str) -> None:
    assert await address(*fields) == expected


async def test_an_untrusted_peer_is_the_client_whatever_it_says() -> None:
    assert await address("X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", trusted=[]) == "127.0.0.1"


async def test_a_proxy_on_a_unix_socket_is_trusted_as_loopback(tmp_path: Path) -> None:
    found: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        found.append(client_address(request, LOOPBACK))
        found.append(client_address(request, []))
        found.append(external_base(request, None, LOOPBACK))
        return web.Response()

    async with serving(handler, unix_path=str(tmp_path / "s")) as server:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(
            b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
            b"Connection: close\r\n\r\n"
        )
        await read_all(reader)
        writer.close()
        await writer.wait_closed()
        assert await server.end() is None
    assert found == ["192.0.2.1", "127.0.0.1", "https://h"]
