"""``gateway serve --workers``: what the first process owes its children, its operators and its successor."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from gateway_core.testing.process import ServeProcess
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_behaviour import Stall
from tests.prepared import serve_process

MIB = 1 << 20
TWO = {"GATEWAY_WORKERS": "2", "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8", "GATEWAY_PLUGINS": "archive"}


def children(gateway: ServeProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()]


async def in_progress(gateway: ServeProcess) -> float:
    """Requests under way in all workers, but for the one that asks."""
    async with gateway.session() as session, session.get("/metrics") as response:
        (value,) = re.findall(r"^gateway_requests_in_progress (\S+)$", await response.text(), re.MULTILINE)
    return float(value) - 1


async def test_the_first_process_is_ready_when_all_workers_are(tmp_path):
    async with serve_process(data_dir=tmp_path, env=TWO) as gateway:
        said = [line["logger"] for line in await gateway.wait_log("ready", count=3)]
    assert said == ["gateway.server", "gateway.server", "gateway.supervisor"]


async def test_what_a_killed_worker_was_doing_is_not_counted_any_more(tmp_path):
    async with Upstream() as upstream, serve_process(data_dir=tmp_path, env=TWO) as gateway:
        url, secret = upstream.add("/slow.bin", 2 * MIB, Stall(after=1000)), await gateway.secret()
        await gateway.wait_log("ready", count=3)
        async with gateway.session(headers={"Authorization": secret}) as session:
            async with session.post("/ticket/generate", json={"items": [url]}) as response:
                ticket = (await response.json())["id"]
            async with session.get(f"/ticket/{ticket}/download"):
                before = await in_progress(gateway)
                for pid in children(gateway):
                    os.kill(pid, signal.SIGKILL)
                await gateway.wait_log("ready", count=5)
        after = await in_progress(gateway)
    assert (before, after) == (1, 0)


@pytest.mark.parametrize("killed", ["first process", "all at once"])
async def test_a_killed_gateway_leaves_nothing_that_hinders_or_outlives_the_next(tmp_path, killed):
    async with serve_process(data_dir=tmp_path, env=TWO) as gateway:
        await gateway.wait_log("ready", count=3)
        pids = children(gateway) if killed == "all at once" else []
        for pid in (gateway.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        await gateway.wait()
    async with serve_process(data_dir=tmp_path, env=TWO) as gateway:
        await gateway.wait_log("ready", count=3)
        folders = sorted((tmp_path / "scratch").iterdir())
        owners = sorted([gateway.pid, *children(gateway)])
    assert sorted(int(folder.name.partition("-")[0]) for folder in folders) == owners
