"""Hubs of several gateways: a call on any of them reaches a node, wherever it is connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from gateway_core.errors import Unavailable
from gateway_pipe.hub.hub import Hub
from gateway_pipe.hub.nodes import Entrance, Via
from gateway_pipe.link.model import Goodbye, Head, Incoming, Serve
from gateway_pipe.link.session import Link
from gateway_pipe.settings import PipeSettings
from tests.pipe.links import linked, noun
from tests.pipe.members import Member

pytest_plugins = ["tests.pipe.clusters"]


def saying(text: bytes) -> Serve:
    async def serve(incoming: Incoming) -> None:
        await incoming.answer(Head(), text)

    return serve


@asynccontextmanager
async def hub_of(member: Member) -> AsyncIterator[Hub]:
    hub = Hub(member.gateway, PipeSettings(), directory=member.directory)

    def link_of(name: str) -> Link | None:
        node = hub.node(name)
        return node.link if node is not None else None

    member.link_of = link_of
    await hub.start()
    yield hub
    await hub.stop()


@pytest.fixture
async def hubs(two_members) -> AsyncIterator[tuple[Hub, Hub]]:
    async with AsyncExitStack() as stack:
        yield tuple([await stack.enter_async_context(hub_of(member)) for member in two_members])


@asynccontextmanager
async def connected(hub: Hub, name: str, serve: Serve) -> AsyncIterator[Link]:
    """A node with a new connection; yields the node's end of it."""
    epoch = await hub.next_epoch(name, "1")
    async with linked(node=serve) as pair:
        with hub.attach(pair.server, replace(pair.server.peer, name=name), Entrance(epoch=epoch, via=Via.CERTIFICATE)):
            yield pair.node


async def ask(hub: Hub, name: str, *, wait_s: float = 10) -> bytes:
    async with hub.call(name, noun(), timeout_s=20, wait_s=wait_s) as called:
        return await called.answer.read(100)


async def test_both_gateways_reach_both_nodes(hubs):
    one, two = hubs
    async with connected(one, "a", saying(b"I am a")), connected(two, "b", saying(b"I am b")):
        assert [await ask(hub, "a") for hub in hubs] == [b"I am a"] * 2
        assert [await ask(hub, "b") for hub in hubs] == [b"I am b"] * 2
        assert [[info.name for info in await hub.nodes()] for hub in hubs] == [["a", "b"]] * 2


async def test_a_call_waits_for_a_node_that_then_connects_to_another_gateway(hubs):
    one, two = hubs
    async with connected(two, "a", saying(b"before")):
        pass
    asked = asyncio.create_task(ask(one, "a"))
    while not len(one.waiting):
        await asyncio.sleep(0.005)
    async with connected(two, "a", saying(b"after")):
        assert await asked == b"after"


async def test_the_old_connection_is_told_when_the_node_connects_to_another_gateway(hubs):
    one, two = hubs
    async with connected(one, "a", saying(b"old")) as old, connected(two, "a", saying(b"new")):
        async with asyncio.timeout(10):
            farewell = await old.leaving()
        assert farewell.code is Goodbye.REPLACED
        assert await ask(one, "a") == b"new"


async def test_a_node_that_is_away_everywhere_is_unavailable(hubs):
    one, two = hubs
    async with connected(two, "a", saying(b"here")):
        await ask(one, "a")
    with pytest.raises(Unavailable):
        await ask(one, "a", wait_s=0.1)


async def test_calls_to_local_nodes_go_on_without_redis(hubs, cluster_redis):
    one, _ = hubs
    async with connected(one, "a", saying(b"here")):
        cluster_redis.kill()
        try:
            assert await ask(one, "a") == b"here"
        finally:
            cluster_redis.start()
