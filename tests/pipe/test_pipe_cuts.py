"""Links that are cut at random bytes under load: nothing durable is lost or run twice, and nobody waits in vain."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.pipe.campaign import Campaign, node_secret, wait_connected
from tests.pipe.cutting import CuttingProxy
from tests.pipe.node_process import node_process


async def cut_under_load(serve_process, tmp_path, *, cuts: int, durable: int, callers: int) -> None:
    runs = tmp_path / "runs"
    async with serve_process(env={"GATEWAY_PLUGINS": "pipe"}) as server:
        target = ("127.0.0.1", urlsplit(server.url).port)
        secret, own = await server.secret(), await node_secret(server)
        async with CuttingProxy(target, seed=cuts, bytes_between=(2_000, 400_000)).running() as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            arguments = ("--name", "node1", "--secret", own, "--local", "off")
            env = {"CAMPAIGN_RUNS": str(runs), "XDG_STATE_HOME": str(tmp_path)}
            async with (
                node_process(url, *arguments, "--handlers", "campaign_handlers:Handlers", env=env),
                server.session() as session,
            ):
                await wait_connected(session, secret)
                campaign = Campaign(session, secret, runs, seed=cuts)
                proxy.cutting = True
                load = asyncio.create_task(campaign.run(durable=durable, callers=callers, pause_s=0.02))
                async with asyncio.timeout(60 + cuts * 3):
                    while proxy.cuts < cuts:
                        await asyncio.sleep(0.05)
                proxy.cutting = False
                campaign.stop.set()
                await load
                results = await campaign.results(timeout_s=60)
    assert campaign.wrong == []
    assert campaign.late == []
    assert campaign.answered > cuts / 10
    assert campaign.ran() == list(range(durable))
    assert {number: told["result"] for number, told in results.items()} == {n: {"ran": n} for n in range(durable)}


async def test_durable_calls_survive_cuts_once_and_in_order(serve_process, tmp_path):
    await cut_under_load(serve_process, tmp_path, cuts=6, durable=40, callers=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_five_hundred_cuts_lose_nothing(serve_process, tmp_path):
    await cut_under_load(serve_process, tmp_path, cuts=500, durable=2000, callers=8)
