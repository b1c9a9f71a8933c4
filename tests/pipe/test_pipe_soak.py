"""Minutes of load on three nodes while everything fails in turn: what was accepted is done once, in order, in time."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from gateway_core.testing.process import ServeProcess
from tests.pipe.campaign import Campaign, node_secret
from tests.pipe.cutting import CuttingProxy
from tests.pipe.node_process import NodeProcess, node_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 150.0
BACK_S = 5.5  # the longest pause before a try is 5 s; the rest is for the try
ENV = {"GATEWAY_PLUGINS": "pipe", "GATEWAY_PIPE__PING": "2"}
LONGEST_FREEZE_S = 20.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Gateway:
    """A gateway at one address, however often it is killed."""

    def __init__(self, serve_process) -> None:
        self.port = free_port()
        self._serve = serve_process
        self._stack = AsyncExitStack()
        self.process: ServeProcess

    async def start(self) -> None:
        self.process = await self._stack.enter_async_context(self._serve("--port", str(self.port), env=ENV))

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> None:
        await self._stack.aclose()


@dataclass
class Machine:
    """A node behind a line that can be cut, and the load on it."""

    name: str
    proxy: CuttingProxy
    secret: str
    folder: Path
    campaign: Campaign
    kills: int = 0
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    node: NodeProcess = field(init=False)

    async def start(self) -> None:
        arguments = ("--name", self.name, "--secret", self.secret, "--local", "off")
        env = {"CAMPAIGN_RUNS": str(self.campaign.runs), "XDG_STATE_HOME": str(self.folder)}
        self.node = await self.stack.enter_async_context(
            node_process(
                f"http://127.0.0.1:{self.proxy.port}",
                *arguments,
                *("--handlers", "campaign_handlers:Handlers"),
                env=env,
            )
        )

    async def answers(self) -> float:
        """How long until a call gets through that does not wait for the node."""
        began = time.monotonic()
        headers = {**self.campaign.headers, "X-Pipe-Status": "strict", "X-Request-Timeout": "0.5"}
        async with asyncio.timeout(60):
            while True:
                try:
                    url = f"/client/{self.name}/echo"
                    async with self.campaign.session.post(url, data=b"x", headers=headers) as answer:
                        if answer.status == 200:
                            return time.monotonic() - began
                except ClientError:
                    pass
                await asyncio.sleep(0.05)


@dataclass
class Faults:
    """What is done to a gateway and its nodes, one thing at a time; ``back_s`` is how long each took to be back."""

    gateway: Gateway
    machines: list[Machine]
    chance: random.Random
    back_s: list[tuple[str, float]] = field(default_factory=list)

    async def go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        ways = [self.kill_node, self.freeze_node, self.cut_line, self.cut_often, self.kill_gateway]
        while time.monotonic() < end:
            for way in self.chance.sample(ways, len(ways)):
                hit = await way()
                took = await asyncio.gather(*(machine.answers() for machine in hit))
                self.back_s += [(way.__name__, round(s, 2)) for s in took]
                await asyncio.sleep(self.chance.uniform(0.2, 2))

    def any(self) -> Machine:
        return self.chance.choice(self.machines)

    async def kill_node(self) -> list[Machine]:
        machine = self.any()
        machine.kills += 1
        await machine.node.stop(signal.SIGKILL)
        await asyncio.sleep(self.chance.uniform(0, 4))
        await machine.start()
        return [machine]

    async def freeze_node(self) -> list[Machine]:
        machine = self.any()
        machine.node.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self.chance.uniform(1, LONGEST_FREEZE_S))
        finally:
            machine.node.process.send_signal(signal.SIGCONT)
        return [machine]

    async def cut_line(self) -> list[Machine]:
        machine = self.any()
        machine.proxy.cut_all()
        return [machine]

    async def cut_often(self) -> list[Machine]:
        for machine in self.machines:
            machine.proxy.cutting = True
        await asyncio.sleep(self.chance.uniform(2, 6))
        for machine in self.machines:
            machine.proxy.cutting = False
        return self.machines

    async def kill_gateway(self) -> list[Machine]:
        await self.gateway.kill()
        await asyncio.sleep(self.chance.uniform(0, 4))
        await self.gateway.start()
        return self.machines


def once(ran: list[int]) -> list[int]:
    """Without the repetitions of a number right behind it: of the one that a killed node had under way."""
    return [number for place, number in enumerate(ran) if place == 0 or ran[place - 1] != number]


async def test_minutes_of_all_faults_lose_nothing(serve_process, tmp_path):
    gateway = Gateway(serve_process)
    async with AsyncExitStack() as stack:
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        session = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{gateway.port}"))
        secret = await gateway.process.secret()
        machines = []
        for seed, name in enumerate(("one", "two", "three")):
            proxy = CuttingProxy(("127.0.0.1", gateway.port), seed=seed, bytes_between=(2_000, 400_000))
            await stack.enter_async_context(proxy.running())
            own = await node_secret(gateway.process, name)
            campaign = Campaign(session, secret, tmp_path / f"runs-{name}", seed=seed, node=name)
            machine = Machine(name, proxy, own, tmp_path / name, campaign)
            stack.push_async_callback(machine.stack.aclose)
            await machine.start()
            machines.append(machine)
        await asyncio.gather(*(machine.answers() for machine in machines))
        load = asyncio.gather(*(m.campaign.run(durable=None, callers=2, pause_s=0.05) for m in machines))
        faults = Faults(gateway, machines, random.Random(1))
        try:
            await faults.go_on(SECONDS)
        finally:
            for machine in machines:
                machine.campaign.stop.set()
            await load
        results = [await machine.campaign.results(timeout_s=60) for machine in machines]
    told = {
        "durable": [len(found) for found in results],
        "answered": sum(m.campaign.answered for m in machines),
        "failed": sum(m.campaign.failed for m in machines),
        "kills": [m.kills for m in machines],
        "cuts": sum(m.proxy.cuts for m in machines),
        "run again": [len(m.campaign.ran()) - len(once(m.campaign.ran())) for m in machines],
        "back": sorted(faults.back_s, key=lambda each: each[1])[-8:],
        "faults": len(faults.back_s),
    }
    print(told)
    for machine, found in zip(machines, results, strict=True):
        campaign = machine.campaign
        ran = campaign.ran()
        assert campaign.wrong == []
        assert campaign.late == []
        assert campaign.answered > SECONDS
        assert once(ran) == list(range(len(campaign.accepted)))
        assert len(ran) - len(once(ran)) <= machine.kills
        assert {number: each["result"] for number, each in found.items()} == {n: {"ran": n} for n in found}
    assert [(way, s) for way, s in faults.back_s if s > BACK_S] == []
