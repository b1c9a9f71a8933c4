"""``/pipe/link/<node>``: how nodes come in, and who does not."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession, WSServerHandshakeError

from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_core.testing.plugin import MakeGateway
from gateway_pipe.link.frames import Type, frame
from gateway_pipe.link.handshake import Refused, greet
from gateway_pipe.link.model import Farewell, Goodbye, Hello, Kind, Opening, Reset, StreamReset
from gateway_pipe.service import SERVICE_KEY
from tests.pipe.web_nodes import PATIENCE_S, gone, node, wire_to

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    """One for all; every test has nodes of its own."""
    settings = {"plugins": "pipe", "pipe": {"ping": 7.5, "max_streams": 99}}
    async with running_gateway(
        tmp_path_factory.mktemp("links"), settings=settings, templates=gateway_templates
    ) as running:
        yield running


def entered(gateway: RunningGateway, name: str, secret: str):
    """A WebSocket on which nothing was said yet."""
    return wire_to(f"{gateway.url}/pipe/link/{name}", {"Authorization": secret})


def greeting(name: str) -> Hello:
    return Hello(name=name, instance=uuid.uuid4().hex)


async def refusal(gateway: RunningGateway, name: str, **options) -> WSServerHandshakeError:
    """How the gateway refuses to upgrade."""
    async with ClientSession() as session:
        with pytest.raises(WSServerHandshakeError) as refused:
            await session.ws_connect(f"{gateway.url}/pipe/link/{name}", **{"protocols": ("pipe.v1",), **options})
    return refused.value


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1:8000",
        "http://localhost",
        "null",
        "file://",
        "chrome-extension://abcdefghijklmnop",
    ],
)
async def test_no_web_page_may_connect(gateway: RunningGateway, origin: str) -> None:
    secret = await gateway.secret("pipe:connect:page")
    error = await refusal(gateway, "page", headers={"Authorization": secret}, origin=origin)
    assert error.status == 403


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        ((), 403),
        (("pipe:connect:other",), 403),
        (("pipe:call:*", "admin"), 403),
        (None, 401),
    ],
    ids=["any new client", "another node", "no node", "nobody"],
)
async def test_a_node_needs_the_scope_of_its_name(
    gateway: RunningGateway, scopes: tuple[str, ...] | None, status: int
) -> None:
    headers = {} if scopes is None else {"Authorization": await gateway.secret(*scopes)}
    assert (await refusal(gateway, "named", headers=headers)).status == status


@pytest.mark.parametrize("protocols", [(), ("pipe.v2",), ("graphql-ws", "pipe")])
async def test_a_link_needs_its_subprotocol(gateway: RunningGateway, protocols: tuple[str, ...]) -> None:
    headers = {"Authorization": await gateway.secret("pipe:connect:spoken")}
    assert (await refusal(gateway, "spoken", headers=headers, protocols=protocols)).status == 400


async def test_a_plain_request_is_told_that_it_has_to_upgrade(gateway: RunningGateway) -> None:
    headers = {"Authorization": await gateway.secret("pipe:connect:plain")}
    async with gateway.session(headers=headers) as session, session.get("/pipe/link/plain") as answer:
        assert (answer.status, answer.headers["Upgrade"]) == (400, "websocket")
        assert "pipe.v1" in (await answer.json())["detail"]


@pytest.mark.parametrize("name", ["-a", "a%20b", "a:b", "a" * 129, "%C3%BC"])
async def test_a_name_that_no_node_can_have_is_a_bad_request(gateway: RunningGateway, name: str) -> None:
    headers = {"Authorization": await gateway.secret("pipe:connect:*")}
    assert (await refusal(gateway, name, headers=headers)).status == 400


async def test_a_revoked_node_is_told_so_instead_of_an_upgrade(gateway: RunningGateway) -> None:
    revocations = gateway.core.state[SERVICE_KEY].authority.revocations
    secret = await gateway.secret("pipe:connect:thief")
    await revocations.revoke("thief")
    refused = await refusal(gateway, "thief", headers={"Authorization": secret})
    assert refused.status == 403
    await revocations.undo("thief")
    async with node(gateway, "thief"):
        pass


async def test_a_node_is_welcomed_with_what_holds_for_the_link(gateway: RunningGateway) -> None:
    async with entered(gateway, "welcome", await gateway.secret("pipe:connect:welcome")) as wire:
        told = await greet(wire, greeting("welcome"))
    assert (told.ping_s, told.streams, told.instance) == (7.5, 99, gateway.core.instance)
    assert told.epoch >= 1
    assert {"time", "cat"} <= set(told.nouns)


async def test_a_node_that_calls_itself_otherwise_is_turned_away(gateway: RunningGateway) -> None:
    async with entered(gateway, "one", await gateway.secret("pipe:connect:*")) as wire:
        with pytest.raises(Refused) as refused:
            await greet(wire, greeting("two"))
    assert refused.value.farewell.code is Goodbye.PROTOCOL
    assert "two" in refused.value.farewell.reason


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"garbage",
        frame(Type.HELLO, 0, b"{}"),
        frame(Type.HELLO, 0, b"[" * 10_000),
        frame(Type.PING, 0, bytes(12)),
        frame(Type.HELLO, 0, b"{}") * 2,
    ],
    ids=["nothing", "garbage", "empty hello", "deep", "a ping", "two"],
)
async def test_a_first_message_that_is_no_hello_ends_it(gateway: RunningGateway, first: bytes) -> None:
    async with entered(gateway, "rude", await gateway.secret("pipe:connect:rude")) as wire:
        await wire.send(first)
        async with asyncio.timeout(PATIENCE_S):
            assert await wire.receive() is None


async def test_the_newest_connection_of_a_node_counts(gateway: RunningGateway) -> None:
    async with node(gateway, "twice") as old, node(gateway, "twice") as new:
        async with asyncio.timeout(PATIENCE_S):
            assert (await old.leaving()).code is Goodbye.REPLACED
        assert new.alive
        assert new.peer.epoch > old.peer.epoch


async def test_a_node_calls_the_servers_handlers(gateway: RunningGateway) -> None:
    async with node(gateway, "asking") as link:
        opening = Opening(kind=Kind.NOUN, method="GET", target="cat//hello%20/world")
        async with link.call(opening, timeout_s=PATIENCE_S, whole=True) as answer:
            assert json.loads(await answer.read(1000)) == {"result_from_server": "hello world"}


@pytest.mark.parametrize(
    "opening",
    [Opening(kind=Kind.APP, method="GET", target="web/"), Opening(kind=Kind.CONTROL, method="POST", target="reboot")],
)
async def test_a_gateway_serves_nothing_else(gateway: RunningGateway, opening: Opening) -> None:
    async with node(gateway, "wanting") as link:
        with pytest.raises(StreamReset) as refused:
            async with link.call(opening, timeout_s=PATIENCE_S):
                pass
    assert refused.value.code is Reset.FORBIDDEN


async def test_a_node_that_came_with_a_secret_gets_no_certificate(gateway: RunningGateway) -> None:
    async with node(gateway, "secretive") as link:
        opening = Opening(kind=Kind.CONTROL, method="POST", target="renew")
        async with link.call(opening, b"csr", timeout_s=PATIENCE_S, whole=True) as answer:
            assert answer.head.status == 403
            assert json.loads(await answer.read(10_000))["status"] == 403


async def test_a_node_leaves_with_its_link(gateway: RunningGateway) -> None:
    async with node(gateway, "leaving"):
        pass
    await gone(gateway, "leaving")


async def test_a_closed_link_is_no_error(gateway: RunningGateway) -> None:
    async with node(gateway, "polite") as link:
        link.say_goodbye(Farewell(Goodbye.SHUTDOWN, "bye"))
        async with asyncio.timeout(PATIENCE_S):
            await link.closed()
    await gone(gateway, "polite")


async def test_many_nodes_come_at_once(gateway: RunningGateway) -> None:
    secret = await gateway.secret("pipe:connect:*")

    async def come(name: str) -> Hello:
        async with entered(gateway, name, secret) as wire:
            return await greet(wire, greeting(name))

    welcomes = await asyncio.gather(*(come(f"crowd{n}") for n in range(20)))
    assert len(welcomes) == 20


async def test_who_is_too_many_is_asked_to_come_again(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "pipe", "pipe": {"connecting": 1}}) as gateway:
        secret = await gateway.secret("pipe:connect:*")
        headers = {"Authorization": secret}
        async with entered(gateway, "slow", secret):  # says nothing
            others = {asyncio.create_task(refusal(gateway, name, headers=headers)) for name in ("second", "third")}
            done, queued = await asyncio.wait(others, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            for each in queued:
                each.cancel()
            await asyncio.wait(others)
    error = done.pop().result()
    assert error.status == 503
    assert 1 <= int(error.headers["Retry-After"]) <= 10


async def test_nobody_comes_while_the_gateway_drains(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "pipe"}) as gateway:
        secret = await gateway.secret("pipe:connect:late")
        gateway.core.draining.set()
        error = await refusal(gateway, "late", headers={"Authorization": secret})
    assert error.status == 503
    assert "Retry-After" in error.headers


async def test_a_closing_gateway_says_goodbye_and_waits_for_nobody(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "pipe"}) as gateway, node(gateway, "told") as link:
        gateway.core.draining.set()
        gateway.core.closing.set()
        async with asyncio.timeout(PATIENCE_S):
            farewell = await link.leaving()
            await link.closed()
    assert farewell.code is Goodbye.SHUTDOWN
