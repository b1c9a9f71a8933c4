"""Nodes and gateways that are killed and frozen: what was accepted is done, and callers are told in time."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack

from tests.pipe.campaign import Campaign, node_secret, wait_connected
from tests.pipe.node_process import node_process

ENV = {"GATEWAY_PLUGINS": "pipe", "GATEWAY_PIPE__PING": "0.4"}
HANDLERS = ("--handlers", "campaign_handlers:Handlers")


async def test_three_nodes_behind_one_address_answer_for_themselves(serve_process, tmp_path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve_process(env=ENV))
        session = await stack.enter_async_context(server.session())
        secret = await server.secret()
        names = ("one", "two", "three")
        nodes = {}
        for name in names:
            own = await node_secret(server, name)
            nodes[name] = await stack.enter_async_context(
                node_process(
                    server.url,
                    *("--name", name, "--secret", own, "--local", "off", "--handlers", "who_handlers:Handlers"),
                    env={"WHO": name, "XDG_STATE_HOME": str(tmp_path)},
                )
            )
        headers = {"Authorization": secret}

        async def who(name: str) -> str:
            async with session.get(f"/client/{name}/who", headers=headers) as answer:
                return (await answer.json())["who"]

        for node in nodes.values():
            await node.wait_log("connected")
        assert [await who(name) for name in names] == list(names)
        await nodes["two"].stop(signal.SIGKILL)
        assert [await who("one"), await who("three")] == ["one", "three"]


async def test_a_node_that_was_killed_does_what_it_had_not_finished_when_it_is_back(serve_process, tmp_path):
    runs = tmp_path / "runs"
    env = {"CAMPAIGN_RUNS": str(runs), "XDG_STATE_HOME": str(tmp_path)}
    async with serve_process(env=ENV) as server, server.session() as session:
        secret, own = await server.secret(), await node_secret(server)
        arguments = (server.url, "--name", "node1", "--secret", own, "--local", "off", *HANDLERS)
        campaign = Campaign(session, secret, runs)
        campaign.stop.set()
        async with node_process(*arguments, env=env) as node:
            await wait_connected(session, secret)
            await campaign.run(durable=3, callers=0, pause_s=0)
            await campaign.results(timeout_s=30)
            await node.stop(signal.SIGKILL)
        async with session.get("/client/node1/time", headers={**campaign.headers, "X-Request-Timeout": "0.3"}) as away:
            assert away.status in {503, 504}
        headers = {**campaign.headers, "Prefer": "respond-async"}
        async with session.post("/client/node1/run//3", headers=headers) as accepted:
            assert accepted.status == 202
            campaign.accepted[3] = accepted.headers["Location"]
        async with node_process(*arguments, env=env):
            results = await campaign.results(timeout_s=30)
    assert campaign.ran() == [0, 1, 2, 3]
    assert [told["result"] for told in results.values()] == [{"ran": number} for number in range(4)]


async def test_a_frozen_node_is_noticed_and_comes_back(serve_process, tmp_path):
    runs = tmp_path / "runs"
    env = {"CAMPAIGN_RUNS": str(runs), "XDG_STATE_HOME": str(tmp_path)}
    async with serve_process(env=ENV) as server, server.session() as session:
        secret, own = await server.secret(), await node_secret(server)
        arguments = (server.url, "--name", "node1", "--secret", own, "--local", "off", *HANDLERS)
        headers = {"Authorization": secret}
        async with node_process(*arguments, env=env) as node:
            await wait_connected(session, secret)
            node.process.send_signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                async with session.post(
                    "/client/node1/run//1", headers={**headers, "X-Request-Timeout": "3"}
                ) as answer:
                    assert answer.status in {502, 503, 504}
                assert time.monotonic() - began < 8
                async with asyncio.timeout(10):
                    while await names(session, headers):
                        await asyncio.sleep(0.05)
            finally:
                node.process.send_signal(signal.SIGCONT)
            async with session.get("/client/node1/who", headers=headers) as answer:
                assert answer.headers["X-Event-Return-Code"] == "255"


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
