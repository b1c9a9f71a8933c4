"""A node whose network is cut without a word: both ends notice, callers are told, and what was accepted is done."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from tests.pipe.campaign import Campaign, wait_connected
from tests.pipe.netns import SERVER, Machine, two_machines
from tests.pipe.node_process import MODULES, NodeProcess, node_process

PORT = 8000
DEAD_AFTER_PINGS = 2.5


@dataclass
class Stand:
    """A gateway on one machine, its node on another, and callers beside the gateway."""

    machines: Mapping[str, Machine]
    server: NodeProcess
    node: NodeProcess
    campaign: Campaign
    ping_s: float


@asynccontextmanager
async def process(*command: str, env: Mapping[str, str] | None = None) -> AsyncIterator[NodeProcess]:
    running = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env={**os.environ, **(env or {})}
    )
    logs = NodeProcess(running)
    try:
        yield logs
    finally:
        await logs.stop()


@asynccontextmanager
async def apart(tmp_path: Path, run_gateway, *, ping_s: float) -> AsyncIterator[Stand]:
    """The two machines, connected."""
    state = {"XDG_STATE_HOME": str(tmp_path), "CAMPAIGN_RUNS": str(tmp_path / "runs")}
    env = {
        "GATEWAY_DATA_DIR": str(tmp_path / "gateway"),
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_PLUGINS": "pipe",
        "GATEWAY_PIPE__PING": str(ping_s),
    }
    door = tmp_path / "door"
    async with two_machines() as (here, there):
        serve = (*here.prefix, sys.executable, "-P", "-m", "gateway_core", "serve", "--host", "0.0.0.0")
        relay = (*here.prefix, sys.executable, str(MODULES / "unix_relay.py"), str(door), str(PORT))
        async with process(*serve, "--port", str(PORT), env=env) as server, process(*relay) as relaying:
            await server.wait_log("ready")
            await relaying.wait_log("ready")
            added = await run_gateway(
                "client", "add", "all", "--scope", "pipe:connect:*", "--scope", "pipe:call:*", env=env
            )
            secret = added.out.split()[-1]
            connect = (f"http://{SERVER}:{PORT}", "--name", "node1", "--secret", secret, "--local", "off")
            handlers = ("--handlers", "campaign_handlers:Handlers")
            async with (
                node_process(*connect, *handlers, env=state, prefix=there.prefix) as node,
                ClientSession("http://gateway", connector=UnixConnector(str(door))) as session,
            ):
                await wait_connected(session, secret)
                campaign = Campaign(session, secret, tmp_path / "runs")
                yield Stand({"server": here, "node": there}, server, node, campaign, ping_s)


def moment(line: Mapping[str, Any]) -> float:
    """When a log line was written, in Unix seconds."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


async def answered(stand: Stand, *, timeout_s: float) -> tuple[int, float]:
    """Status of a call, and how long it took."""
    headers = {**stand.campaign.headers, "X-Request-Timeout": str(timeout_s), "X-Pipe-Status": "strict"}
    began = time.monotonic()
    async with stand.campaign.session.post("/client/node1/echo", data=b"hello", headers=headers) as answer:
        await answer.read()
        return answer.status, time.monotonic() - began


async def cut_for_longer(stand: Stand, end: str) -> None:
    """The cable is out until both have noticed."""
    campaign, limit_s = stand.campaign, DEAD_AFTER_PINGS * stand.ping_s + 1
    machine = stand.machines[end]
    gone, connected = (
        len([line for line in logs.logs if line["event"] == event])
        for logs, event in ((stand.server, "node gone"), (stand.node, "connected"))
    )
    number = len(campaign.accepted)
    await machine.unplug()
    cut = time.time()
    await campaign.accept(number)
    status, took_s = await answered(stand, timeout_s=1)
    assert status in {502, 503, 504}
    assert took_s < 2.5
    here = await stand.server.wait_log("node gone", count=gone + 1)
    there = await stand.node.wait_log("link lost", count=gone + 1)
    assert moment(here) - cut < limit_s
    assert moment(there) - cut < limit_s
    waiting = asyncio.create_task(answered(stand, timeout_s=15))
    await machine.plug()
    mended = time.time()
    again = await stand.node.wait_log("connected", count=connected + 1)
    assert moment(again) - mended < 5
    assert (await waiting)[0] == 200
    results = await campaign.results(timeout_s=10)
    assert results[number]["result"] == {"ran": number}
    assert campaign.ran() == list(range(number + 1))


async def test_a_cable_that_is_out_for_long_is_noticed_at_both_ends_and_for_a_moment_at_none(tmp_path, run_gateway):
    async with apart(tmp_path, run_gateway, ping_s=0.6) as stand:
        await stand.machines["node"].unplug()
        calling = asyncio.create_task(answered(stand, timeout_s=10))
        await asyncio.wait({calling}, timeout=0.25)
        await stand.machines["node"].plug()
        assert (await calling)[0] == 200
        assert [line["event"] for line in stand.server.logs].count("node gone") == 0
        await cut_for_longer(stand, "server")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_cables_are_pulled_again_and_again_at_either_end(tmp_path, run_gateway):
    async with apart(tmp_path, run_gateway, ping_s=5.0) as stand:
        for end in ("server", "node") * 4:
            await cut_for_longer(stand, end)
