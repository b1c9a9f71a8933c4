"""``/pipe/nodes``, and ``gateway pipe nodes``: who is here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_core.testing.plugin import MakeGateway, Run
from gateway_pipe.cli.nodes import nodes as command
from tests.pipe.web_nodes import node

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIELDS = {"name", "since", "nouns", "apps", "tags", "rtt_ms", "version", "via", "address", "gateway"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    """With two nodes."""
    async with running_gateway(
        tmp_path_factory.mktemp("nodes"), settings={"plugins": "pipe"}, templates=gateway_templates
    ) as running:
        async with node(running, "beta"), node(running, "alpha", nouns=("time", "cat"), tags=("web", "lab")):
            yield running


async def listed(gateway: RunningGateway, *scopes: str) -> list[dict]:
    headers = {"Authorization": await gateway.secret(*scopes)}
    async with gateway.session(headers=headers) as session, session.get("/pipe/nodes") as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        return await answer.json()


async def test_a_node_is_told_with_all_that_is_known_of_it(gateway: RunningGateway) -> None:
    alpha, beta = await listed(gateway)
    assert set(alpha) == FIELDS
    assert (alpha["name"], alpha["nouns"], alpha["tags"]) == ("alpha", ["time", "cat"], ["web", "lab"])
    assert (alpha["version"], alpha["via"], alpha["address"]) == ("1.2.3", "secret", "127.0.0.1")
    assert (beta["name"], beta["gateway"]) == ("beta", gateway.core.instance)
    assert time.time() - 60 < alpha["since"] <= time.time()


@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        (("pipe:call:beta",), ["beta"]),
        (("pipe:call:*",), ["alpha", "beta"]),
        (("admin",), ["alpha", "beta"]),
        (("pipe:connect:alpha",), []),
    ],
)
async def test_callers_see_whom_they_may_call(
    gateway: RunningGateway, scopes: tuple[str, ...], names: list[str]
) -> None:
    assert [each["name"] for each in await listed(gateway, *scopes)] == names


async def test_the_list_needs_a_credential(gateway: RunningGateway) -> None:
    async with gateway.session() as session, session.get("/pipe/nodes") as answer:
        assert answer.status == 401


async def test_without_call_auth_everybody_sees_and_calls_all(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "pipe", "pipe": {"call_auth": "off"}}) as gateway:
        async with node(gateway, "open"), gateway.session() as session:
            async with session.get("/pipe/nodes") as answer:
                assert [each["name"] for each in await answer.json()] == ["open"]
            async with session.get("/group/*/x") as answer:
                assert json.loads(await answer.content.readline())["node"] == "open"
            for value, arrives in [
                ("Basic dXNlcjpwYXNz", True),
                ("Bearer some.other.token", True),
                (await gateway.secret(), False),
                (f"Bearer {await gateway.secret()}", False),
                ("Bearer gw_" + "A" * 46, False),
            ]:
                async with session.get("/client/open/x", headers={"Authorization": value}) as answer:
                    seen = {name.lower() for name, _ in (await answer.json())["headers"]}
                    assert ("authorization" in seen) is arrives


async def test_without_call_auth_pages_of_other_hosts_change_nothing(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "pipe", "pipe": {"call_auth": "off"}}) as gateway:
        async with node(gateway, "open"), gateway.session() as session:
            for path in ("/client/open/x", "/group/*/x"):
                for headers, status in (
                    ({"Origin": "https://evil.example"}, 403),
                    ({"Origin": "null"}, 403),
                    ({"Sec-Fetch-Site": "same-site"}, 403),
                    ({"Origin": gateway.url}, 200),
                    ({}, 200),
                ):
                    async with session.post(path, data=b"{}", headers=headers) as answer:
                        assert answer.status == status
                async with session.get(path, headers={"Origin": "https://evil.example"}) as answer:
                    assert answer.status == 200


async def test_the_command_prints_a_table(gateway: RunningGateway, run_gateway: Run) -> None:
    env = {"GATEWAY_PLUGINS": "pipe", "GATEWAY_URL": gateway.url, "GATEWAY_SECRET": await gateway.secret()}
    done = await run_gateway("pipe", "nodes", env=env)
    head, alpha, beta = done.out.splitlines()
    assert head.split() == ["NAME", "SINCE", "RTT", "VERSION", "VIA", "ADDRESS", "TAGS", "APPS", "NOUNS"]
    assert (alpha.split()[0], beta.split()[0]) == ("alpha", "beta")
    assert head.index("TAGS") == alpha.index("web,lab")
    assert alpha.endswith("time,cat")


@asynccontextmanager
async def answering(body: bytes, status: str = "200 OK") -> AsyncIterator[str]:
    """The URL of a server that answers every request so."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /base/pipe/nodes HTTP/1.1\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base"


async def asked(url: str, *options: str) -> Result:
    """The command's end, in a thread, since it waits for this loop."""
    return await asyncio.to_thread(CliRunner().invoke, command, ["--server", url, *options])


async def test_the_command_prints_json() -> None:
    told = [{"name": "alpha", "nouns": ["grün"]}]
    async with answering(json.dumps(told).encode()) as url:
        done = await asked(url, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, told)
    assert "grün" in done.stdout


async def test_the_command_says_what_the_gateway_says() -> None:
    async with answering(b'{"title": "t", "detail": "no valid\\u001b credential"}', "401 Unauthorized") as url:
        done = await asked(url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no valid? credential" in done.stderr


async def test_the_command_says_that_nobody_is_there() -> None:
    done = await asked("http://127.0.0.1:9")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "http://127.0.0.1:9: " in done.stderr


@pytest.mark.parametrize("page", [b"<html>", b"{}", b'["a"]', b"\xff"])
async def test_the_command_takes_no_other_page_for_a_list(page: bytes) -> None:
    async with answering(page) as url:
        done = await asked(url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert url in done.stderr


async def test_what_a_list_says_is_not_obeyed_by_the_terminal() -> None:
    page = json.dumps([{"name": "a\x1b[2J", "since": "then", "rtt_ms": None, "nouns": ["b\n"], "tags": None}])
    async with answering(page.encode()) as url:
        output = (await asked(url)).stdout
    assert "a?[2J" in output
    assert output.count("\n") == 2
