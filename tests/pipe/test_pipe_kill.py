"""Nodes and gateways that are killed and frozen: what was accepted is done, and callers are told in time."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from gateway_core.testing.process import ServeProcess
from gateway_core.testing.process import serve_process as serve
from tests.pipe.campaign import Campaign, node_secret, wait_connected
from tests.pipe.node_process import NodeProcess, node_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENV = {"GATEWAY_PLUGINS": "pipe", "GATEWAY_PIPE__PING": "0.4"}
HANDLERS = ("--handlers", "campaign_handlers:Handlers")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stand(tmp_path_factory) -> AsyncIterator[Stand]:
    """A gateway for the tests that leave it alone; each has nodes of its own."""
    folder = tmp_path_factory.mktemp("kill")
    async with serve(data_dir=folder, env=ENV) as server, server.session() as session:
        yield Stand(server, session, await server.secret("pipe:call:*", "pipe:connect:*", "admin"))


@dataclass
class Stand:
    """A gateway, and a secret that may do everything there."""

    server: ServeProcess
    session: ClientSession
    secret: str

    def campaign(self, name: str, folder: Path) -> Campaign:
        return Campaign(self.session, self.secret, folder / "runs", node=name)

    def node(self, campaign: Campaign, *handlers: str) -> AbstractAsyncContextManager[NodeProcess]:
        """A process of the node with what its journal remembers."""
        folder = campaign.runs.parent
        arguments = ("--name", campaign.node, "--secret", self.secret, "--local", "off", *(handlers or HANDLERS))
        env = {"CAMPAIGN_RUNS": str(campaign.runs), "XDG_STATE_HOME": str(folder), "WHO": campaign.node}
        return node_process(self.server.url, *arguments, env=env)


async def test_three_nodes_behind_one_address_answer_for_themselves(stand, tmp_path):
    names = ("one", "two", "three")
    handlers = ("--handlers", "who_handlers:Handlers")

    async def who(name: str) -> str:
        async with stand.session.get(f"/client/{name}/who", headers={"Authorization": stand.secret}) as answer:
            return (await answer.json())["who"]

    async with AsyncExitStack() as stack:
        campaigns = [stand.campaign(name, tmp_path) for name in names]
        nodes = [await stack.enter_async_context(stand.node(campaign, *handlers)) for campaign in campaigns]
        for node in nodes:
            await node.wait_log("connected")
        assert [await who(name) for name in names] == list(names)
        await nodes[1].stop(signal.SIGKILL)
        assert [await who("one"), await who("three")] == ["one", "three"]


async def test_a_node_that_was_killed_does_what_it_had_not_finished_when_it_is_back(stand, tmp_path):
    campaign = stand.campaign("killed", tmp_path)
    campaign.stop.set()
    async with stand.node(campaign) as node:
        await wait_connected(stand.session, stand.secret, name="killed")
        await campaign.run(durable=3, callers=0, pause_s=0)
        await campaign.results(timeout_s=30)
        await node.stop(signal.SIGKILL)
    headers = {**campaign.headers, "X-Request-Timeout": "0.3", "X-Pipe-Status": "strict"}
    async with stand.session.post("/client/killed/echo", headers=headers) as away:
        assert away.status in {503, 504}
    await campaign.accept(3)
    async with stand.node(campaign):
        results = await campaign.results(timeout_s=30)
    assert campaign.ran() == [0, 1, 2, 3]
    assert [told["result"] for told in results.values()] == [{"ran": number} for number in range(4)]


async def test_a_frozen_node_is_noticed_and_comes_back(stand, tmp_path):
    campaign = stand.campaign("frozen", tmp_path)
    headers = {**campaign.headers, "X-Pipe-Status": "strict"}
    async with stand.node(campaign) as node:
        await wait_connected(stand.session, stand.secret, name="frozen")
        node.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            url = "/client/frozen/run//1"
            async with stand.session.post(url, headers={**headers, "X-Request-Timeout": "3"}) as answer:
                assert answer.status in {502, 503, 504}
            assert time.monotonic() - began < 8
            async with asyncio.timeout(10):
                while "frozen" in await names(stand.session, campaign.headers):
                    await asyncio.sleep(0.05)
        finally:
            node.process.send_signal(signal.SIGCONT)
        async with stand.session.post("/client/frozen/echo", data=b"x", headers=headers) as answer:
            assert await answer.read() == b"x"


async def test_a_gateway_that_was_killed_still_has_what_it_accepted(serve_process, tmp_path):
    runs = tmp_path / "runs"
    env = {"CAMPAIGN_RUNS": str(runs), "XDG_STATE_HOME": str(tmp_path)}
    async with serve_process(env=ENV) as server, server.session() as session:
        secret, own = await server.secret(), await node_secret(server)
        headers = {"Authorization": secret, "Prefer": "respond-async"}
        port = server.url.rpartition(":")[2]
        arguments = (server.url, "--name", "node1", "--secret", own, "--local", "off", *HANDLERS)
        async with node_process(*arguments, env=env) as node:
            await wait_connected(session, secret)
            node.process.send_signal(signal.SIGSTOP)
            async with session.post("/client/node1/run//7", headers=headers) as accepted:
                assert accepted.status == 202
                location = accepted.headers["Location"]
            server.send_signal(signal.SIGKILL)
            await server.wait()
            node.process.send_signal(signal.SIGCONT)
            async with serve_process("--port", port, env=ENV) as again, again.session() as new:
                campaign = Campaign(new, secret, runs, accepted={7: location})
                results = await campaign.results(timeout_s=30)
    assert results[7]["result"] == {"ran": 7}
    assert campaign.ran() == [7]


async def names(session, headers) -> list[str]:
    async with session.get("/pipe/nodes", headers=headers) as answer:
        return [node["name"] for node in json.loads(await answer.read())]
