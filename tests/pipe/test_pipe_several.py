"""Several gateway processes as one: nodes on any of them, calls on any other, and Redis away in between."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from gateway_core.testing.process import ServeProcess, serve_process
from gateway_core.testing.services import PrivateRedis, private_postgres, private_redis, require
from gateway_pipe.link.model import Goodbye
from tests.pipe.campaign import Campaign, wait_connected
from tests.pipe.cutting import CuttingProxy
from tests.pipe.databases import migrate
from tests.pipe.node_process import node_process
from tests.pipe.several import NodeHere, connection, empty, hand_in, node_here, outcome, places, until, who

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECTIONS = 6
NAMES = [f"n{number}" for number in range(12)]
CONNECT = [f"pipe:connect:{name}" for name in NAMES]
ENV = {"GATEWAY_PLUGINS": "pipe", "GATEWAY_PIPE__PING": "1", "GATEWAY_DRAIN_TIMEOUT_S": "2"}


@dataclass
class Workers:
    """One gateway of two worker processes; ``nodes`` are on both of them."""

    gateway: ServeProcess
    redis: PrivateRedis
    own: str
    sessions: list[ClientSession]
    nodes: dict[str, NodeHere]

    async def all_answer(self) -> bool:
        """Whether every node is reached through every connection."""
        said = [[await who(session, name) for name in self.nodes] for session in self.sessions]
        return said == [list(self.nodes)] * len(self.sessions)


@pytest.fixture(scope="module")
def redis() -> Iterator[PrivateRedis]:
    require("redis")
    with private_redis() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def workers(redis: PrivateRedis, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workers]:
    env = {**ENV, "GATEWAY_WORKERS": "2", "GATEWAY_REDIS_URL": redis.url}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        gateway = await enter(serve_process(data_dir=tmp_path_factory.mktemp("workers"), env=env))
        secret, own = await asyncio.gather(gateway.secret(), gateway.secret(*CONNECT))
        sessions = [await enter(connection(gateway, secret)) for _ in range(CONNECTIONS)]
        nodes: dict[str, NodeHere] = {}
        for name in NAMES:  # each goes to the process that the kernel chooses
            nodes[name] = await enter(node_here(gateway.url, name, own))
            if len(nodes) > 1 and len({*(await places(sessions[0])).values()}) == 2:
                break
        yield Workers(gateway, redis, own, sessions, nodes)


async def test_every_connection_sees_and_reaches_the_nodes_of_all_workers(workers):
    await until(workers.all_answer)
    seen = [await places(session) for session in workers.sessions]
    assert seen == [seen[0]] * CONNECTIONS
    assert list(seen[0]) == list(workers.nodes)
    assert len({*seen[0].values()}) == 2


async def test_a_group_has_the_nodes_of_all_workers(workers):
    for session in workers.sessions:
        async with session.get("/group/n*/who") as answer:
            lines = [await answer.content.readline() for _ in workers.nodes]
        assert sorted(name for name in workers.nodes for line in lines if f'"{name}"'.encode() in line) == [
            *workers.nodes
        ]


async def test_durable_calls_are_delivered_whichever_worker_accepts_them(workers):
    places_of_calls = [
        (session, name, await hand_in(session, name, number))
        for number, session in enumerate(workers.sessions)
        for name in workers.nodes
    ]
    told = [await outcome(session, place) for session, _, place in places_of_calls]
    assert told == [name for _, name, _ in places_of_calls]
    for node in workers.nodes.values():
        assert [target for target in node.ran if "//" in target] == [f"who//{n}" for n in range(CONNECTIONS)]


async def test_a_redis_that_was_emptied_is_filled_again(workers):
    await empty(workers.redis)
    began = time.monotonic()
    await until(workers.all_answer)
    assert time.monotonic() - began < 10


async def test_without_redis_each_worker_still_reaches_its_own_nodes_and_afterwards_all(workers):
    held = await places(workers.sessions[0])
    own = [{name for name in held if held[name] == worker} for worker in {*held.values()}]
    workers.redis.kill()
    try:
        asked = [(session, name) for session in workers.sessions for name in workers.nodes]
        said = await asyncio.gather(*(who(session, name, timeout_s=0.5) for session, name in asked))
    finally:
        workers.redis.start()
    began = time.monotonic()
    for session in workers.sessions:
        reached = {name for (by, _), name in zip(asked, said, strict=True) if by is session}
        assert any(names <= reached for names in own), said
    await until(workers.all_answer)
    assert time.monotonic() - began < 10


# Two gateways over one PostgreSQL


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    require("postgres")
    with private_postgres() as server:
        url = server.create("gateways")
        migrate(url)
        yield url


@asynccontextmanager
async def two_gateways(redis: PrivateRedis, database: str, folder: Path) -> AsyncIterator[tuple[ServeProcess, ...]]:
    common = {
        "GATEWAY_REDIS_URL": redis.url,
        "GATEWAY_DB_URL": database,
        "GATEWAY_SECRET_KEY": "a key of both the gateways",
    }
    async with AsyncExitStack() as stack:
        yield tuple(
            [
                await stack.enter_async_context(serve_process(data_dir=folder / name, env={**ENV, **common}))
                for name in ("one", "two")
            ]
        )


@pytest.mark.slow
async def test_a_node_that_connects_to_the_other_gateway_is_there_and_nowhere_else(redis, database, tmp_path):
    async with two_gateways(redis, database, tmp_path) as (one, two), AsyncExitStack() as stack:
        enter = stack.enter_async_context
        secret, own = await asyncio.gather(one.secret(), one.secret(*CONNECT))
        sessions = [await enter(connection(gateway, secret)) for gateway in (one, two)]
        old = await enter(node_here(one.url, "n0", own))
        before = await places(sessions[0])
        new = await enter(node_here(two.url, "n0", own))
        farewell = await asyncio.wait_for(old.watcher.farewells.get(), 10)

        async def moved() -> bool:
            after = [await places(session) for session in sessions]
            return after[0] == after[1] and [*after[0]] == ["n0"] and after[0] != before

        await until(moved)
        old.ran.clear()
        said = [await who(session, "n0") for session in sessions for _ in range(10)]
    assert farewell.code is Goodbye.REPLACED
    assert said == ["n0"] * 20
    assert (old.ran, len(new.ran)) == ([], 20)


@pytest.mark.slow
async def test_nodes_of_a_killed_gateway_are_back_at_the_other_and_what_it_accepted_is_done_once(
    redis, database, tmp_path
):
    runs = tmp_path / "runs"
    env = {"CAMPAIGN_RUNS": str(runs), "XDG_STATE_HOME": str(tmp_path)}
    async with two_gateways(redis, database, tmp_path) as (one, two), AsyncExitStack() as stack:
        enter = stack.enter_async_context
        secret, own = await asyncio.gather(one.secret(), one.secret("pipe:connect:*"))
        way = await enter(CuttingProxy(address(one), seed=1, bytes_between=(1, 1)).running())
        lost = await enter(node_here(one.url, "n1", own))
        arguments = (f"http://127.0.0.1:{way.port}", "--name", "node1", "--secret", own, "--local", "off")
        await enter(node_process(*arguments, "--handlers", "campaign_handlers:Handlers", env=env))
        first, other = [await enter(connection(gateway, secret)) for gateway in (one, two)]
        await wait_connected(first, secret)
        await until(lambda: sees(other, ["n1", "node1"]))
        campaign = Campaign(first, secret, runs)
        campaign.stop.set()
        await campaign.run(durable=20, callers=0, pause_s=0)
        one.send_signal(signal.SIGKILL)
        way.lead_to(address(two))
        began = time.monotonic()
        await until(lambda: sees(other, ["node1"]))
        took_s = time.monotonic() - began
        done = await Campaign(other, secret, runs, accepted=campaign.accepted).results(timeout_s=30)
        assert (await asyncio.wait_for(lost.watcher.farewells.get(), 10)).code is None
    assert took_s < 12
    assert [done[number]["result"] for number in range(20)] == [{"ran": number} for number in range(20)]
    assert campaign.ran() == list(range(20))


@pytest.mark.slow
async def test_calls_of_local_nodes_never_fail_whatever_becomes_of_redis(redis, database, tmp_path):
    async with two_gateways(redis, database, tmp_path) as (one, two), AsyncExitStack() as stack:
        enter = stack.enter_async_context
        secret, own = await asyncio.gather(one.secret(), one.secret(*CONNECT))
        sessions = [await enter(connection(gateway, secret)) for gateway in (one, two)]
        for name, gateway in (("n2", one), ("n3", two)):
            await enter(node_here(gateway.url, name, own))
        stop = asyncio.Event()
        callers = [
            asyncio.create_task(calling(gateway, name, secret, stop)) for name, gateway in (("n2", one), ("n3", two))
        ]

        async def both_ways() -> bool:
            return [
                await who(session, name, timeout_s=1) for session, name in zip(sessions, ("n3", "n2"), strict=True)
            ] == [
                "n3",
                "n2",
            ]

        healed_s = []
        for harm in (empty, killed, frozen):
            await until(both_ways)
            await harm(redis)
            began = time.monotonic()
            await until(both_ways)
            healed_s.append(time.monotonic() - began)
        stop.set()
        said = await asyncio.gather(*callers)
    assert [{*answers} for answers in said] == [{"n2"}, {"n3"}]
    assert max(healed_s) < 10


async def calling(gateway: ServeProcess, name: str, secret: str, stop: asyncio.Event) -> list[str]:
    """What calls of ``name`` brought, one after another."""
    said = []
    async with connection(gateway, secret) as session:
        while not stop.is_set():
            said.append(await who(session, name))
            await asyncio.sleep(0.01)
    return said


async def killed(redis: PrivateRedis) -> None:
    await asyncio.to_thread(redis.kill)
    await asyncio.sleep(2)  # how long it is away, not something that is waited for
    await asyncio.to_thread(redis.start)


async def frozen(redis: PrivateRedis) -> None:
    redis.pause()
    await asyncio.sleep(5)  # as above; longer than a gateway waits for an answer
    redis.resume()


async def sees(session: ClientSession, names: list[str]) -> bool:
    return list(await places(session)) == names


def address(gateway: ServeProcess) -> tuple[str, int]:
    return "127.0.0.1", int(gateway.url.rpartition(":")[2])
