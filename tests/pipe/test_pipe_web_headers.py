"""What crosses the link and what does not: credentials, headers, and who may call at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_core.testing.plugin import MakeGateway
from gateway_pipe.link.model import Head
from tests.pipe.web_nodes import answering, exchange, node

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    """One for all; every test has nodes of its own."""
    folder = tmp_path_factory.mktemp("headers")
    async with running_gateway(folder, settings={"plugins": "pipe"}, templates=gateway_templates) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secret(gateway: RunningGateway) -> str:
    """Of a client as any new one is."""
    return await gateway.secret()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(gateway: RunningGateway, secret: str) -> AsyncIterator[ClientSession]:
    async with gateway.session(headers={"Authorization": secret}) as http:
        yield http


async def headers_seen(session: ClientSession, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """What the node was sent, by name in lower case."""
    async with session.get(path, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return {name.lower(): value for name, value in (await answer.json())["headers"]}


async def test_the_gateways_credential_never_reaches_a_node(gateway: RunningGateway, secret: str) -> None:
    carriers = [
        {"Authorization": secret},
        {"Authorization": f"Bearer {secret}"},
        {"X-Gateway-Authorization": secret},
        {"X-Gateway-Authorization": f"Bearer {secret}", "Authorization": secret},
        {"X-Gateway-Authorization": secret, "Authorization": f"Bearer {secret}"},
        {"Authorization": secret, "Authorize": secret, "X-Fpx-Authorize": secret},
    ]
    async with node(gateway, "curious"), gateway.session() as bare:
        for headers in carriers:
            async with bare.get("/client/curious/x", headers=headers) as answer:
                assert answer.status == 200
                assert secret not in await answer.text()


async def test_the_gateways_own_header_leaves_authorization_to_the_application(
    gateway: RunningGateway, secret: str
) -> None:
    async with node(gateway, "application"), gateway.session() as bare:
        given = {"X-Gateway-Authorization": secret, "Authorization": "Basic dXNlcjpwYXNz"}
        found = await headers_seen(bare, "/client/application/x", given)
    assert found["authorization"] == "Basic dXNlcjpwYXNz"
    assert "x-gateway-authorization" not in found


async def test_headers_about_the_connection_and_the_proxy_stay_here(
    gateway: RunningGateway, session: ClientSession
) -> None:
    stays = {
        "Connection": "keep-alive, X-Secret-Hop",
        "X-Secret-Hop": "1",
        "TE": "trailers",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "Basic x",
        "Client-Cert": ":x:",
        "X-SSL-Cert": "x",
        "X-SSL-Verify": "SUCCESS",
        "X-Forwarded-Client-Cert": "x",
        "Cookie": "session=of-the-whole-domain",
    }
    async with node(gateway, "hops"):
        found = await headers_seen(session, "/client/hops/x", {**stays, "Accept": "text/x", "X-Mine": "yes"})
    assert not set(found) & {name.lower() for name in stays}
    assert (found["accept"], found["x-mine"]) == ("text/x", "yes")


async def test_an_answers_headers_arrive_but_those_that_speak_for_the_origin(
    gateway: RunningGateway, session: ClientSession
) -> None:
    given = {
        "X-Mine": "yes",
        "Cache-Control": "max-age=5",
        "Set-Cookie": "a=b",
        "Strict-Transport-Security": "max-age=1",
        "Clear-Site-Data": '"*"',
        "Content-Security-Policy": "script-src *",
        "Connection": "close, X-Hop",
        "X-Hop": "1",
        "Transfer-Encoding": "gzip",
        "Upgrade": "h2c",
        "X-Event-Return-Code": "99",
        "NEL": "{}",
        "Report-To": "{}",
        "X-Content-Type-Options": "none",
        "X-Accel-Redirect": "/internal/secret",
        "Access-Control-Allow-Origin": "*",
        "WWW-Authenticate": "Basic",
        "Refresh": "0; url=https://elsewhere.example/",
    }
    async with node(gateway, "origin", answering(Head(headers=tuple(given.items())), b"x")):
        async with session.get("/client/origin/x") as answer:
            found = answer.headers
            assert await answer.read() == b"x"
    assert (found["X-Mine"], found["Cache-Control"]) == ("yes", "max-age=5")
    assert found.getall("X-Event-Return-Code") == ["0"]
    assert found.getall("Content-Security-Policy") == ["sandbox; default-src 'none'"]
    assert found.getall("X-Content-Type-Options") == ["nosniff"]
    gone_ones = set(given) - {"X-Mine", "Cache-Control", "X-Event-Return-Code", "X-Content-Type-Options"}
    assert not (gone_ones - {"Content-Security-Policy", "Connection"}) & set(found)


async def test_a_node_leads_no_caller_and_its_credential_to_another(
    gateway: RunningGateway, session: ClientSession
) -> None:
    headers = (("Location", "/client/other/remove"), ("Content-Location", "/client/other/x"))
    async with node(gateway, "leads", answering(Head(status=307, headers=headers), b"x")):
        async with session.get("/client/leads/x", headers={"X-Pipe-Status": "strict"}, allow_redirects=False) as answer:
            assert not {"Location", "Content-Location"} & set(answer.headers)


async def test_answers_may_have_headers_beyond_ascii(gateway: RunningGateway, session: ClientSession) -> None:
    odd = (("X-Latin", "\udcff"), ("X-Utf", "ü"))
    async with node(gateway, "odd", answering(Head(headers=odd), b"x")), session.get("/client/odd/x") as answer:
        assert (answer.status, await answer.read()) == (200, b"x")
        assert (answer.headers["X-Latin"], answer.headers["X-Utf"]) == ("?", "ü")


async def test_a_status_that_is_no_end_is_none(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "interim", answering(Head(status=101), b"x")):
        async with session.get("/client/interim/x", headers={"X-Pipe-Status": "strict"}) as answer:
            assert (answer.status, await answer.read()) == (502, b"x")


# Who may call


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        (("pipe:call:guarded",), 200),
        (("pipe:call:*",), 200),
        (("pipe:*",), 200),
        (("pipe:call:other",), 403),
        (("pipe:connect:guarded",), 403),
        (("admin",), 403),
    ],
)
async def test_a_call_needs_the_nodes_scope(gateway: RunningGateway, scopes: tuple[str, ...], status: int) -> None:
    async with node(gateway, "guarded"), gateway.session() as bare:
        headers = {"Authorization": await gateway.secret(*scopes)}
        async with bare.get("/client/guarded/x", headers=headers) as answer:
            assert answer.status == status


async def test_a_call_without_a_credential_is_401(gateway: RunningGateway) -> None:
    async with gateway.session() as bare, bare.get("/client/guarded/x") as answer:
        assert answer.status == 401


async def test_everything_stands_below_the_plugins_prefix(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "pipe", "pipe": {"prefix": "/deep/er"}}) as gateway:
        assert b" 404 " in await exchange(gateway, "GET /client/n/x HTTP/1.1\r\nHost: h\r\n")
        assert b" 401 " in await exchange(gateway, "GET /deep/er/client/n/x HTTP/1.1\r\nHost: h\r\n")
        async with gateway.session(headers={"Authorization": await gateway.secret("pipe:connect:n")}) as http:
            async with http.ws_connect("/deep/er/pipe/link/n", protocols=("pipe.v1",)) as socket:
                assert socket.protocol == "pipe.v1"
