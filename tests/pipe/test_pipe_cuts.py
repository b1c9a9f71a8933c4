"""Links that are cut at random bytes under load: nothing durable is lost or run twice, and nobody waits in vain."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest

from tests.pipe.campaign import Campaign, node_secret, wait_connected
from tests.pipe.cutting import CuttingProxy
from tests.pipe.node_process import node_process


async def cut_under_load(serve_process, tmp_path, *, nodes: int, cuts: int, durable: int, callers: int) -> None:
    """``cuts`` of all lines together; ``durable`` calls and ``callers`` are of each node."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve_process(env={"GATEWAY_PLUGINS": "pipe"}))
        session = await stack.enter_async_context(server.session())
        target = ("127.0.0.1", urlsplit(server.url).port)
        secret, own = await server.secret(), await node_secret(server, "*")
        proxies, campaigns = [], []
        for number in range(nodes):
            name, folder = f"node{number}", tmp_path / str(number)
            proxy = CuttingProxy(target, seed=number, bytes_between=(2_000, 1_000_000))
            proxies.append(await stack.enter_async_context(proxy.running()))
            campaigns.append(Campaign(session, secret, folder.with_name(f"runs{number}"), seed=number, node=name))
            arguments = (f"http://127.0.0.1:{proxy.port}", "--name", name, "--secret", own, "--local", "off")
            env = {"CAMPAIGN_RUNS": str(campaigns[-1].runs), "XDG_STATE_HOME": str(folder)}
            handlers = ("--handlers", "campaign_handlers:Handlers")
            await stack.enter_async_context(node_process(*arguments, *handlers, env=env))
        for campaign in campaigns:
            await wait_connected(session, secret, name=campaign.node)
        for proxy in proxies:
            proxy.cutting = True
        load = asyncio.gather(*(each.run(durable=durable, callers=callers, pause_s=0.02) for each in campaigns))
        async with asyncio.timeout(60 + cuts * 3):
            while sum(proxy.cuts for proxy in proxies) < cuts:
                await asyncio.sleep(0.05)
        for proxy, campaign in zip(proxies, campaigns, strict=True):
            proxy.cutting = False
            campaign.stop.set()
        await load
        results = [await campaign.results(timeout_s=60) for campaign in campaigns]
    for campaign, found in zip(campaigns, results, strict=True):
        assert campaign.wrong == []
        assert campaign.late == []
        assert campaign.ran() == list(range(durable))
        assert {number: told["result"] for number, told in found.items()} == {n: {"ran": n} for n in range(durable)}
    assert sum(campaign.answered for campaign in campaigns) > cuts


async def test_durable_calls_survive_cuts_once_and_in_order(serve_process, tmp_path):
    await cut_under_load(serve_process, tmp_path, nodes=1, cuts=4, durable=20, callers=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_five_hundred_cuts_lose_nothing(serve_process, tmp_path):
    await cut_under_load(serve_process, tmp_path, nodes=5, cuts=500, durable=400, callers=3)
