"""Gateways that are one by a common database and Redis, as processes, and nodes for them in the test's own loop."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import ClientError, ClientSession, TCPConnector
from redis import Redis

from gateway_core.testing.process import ServeProcess
from gateway_core.testing.services import PrivateRedis
from gateway_pipe.identity.urls import gateway_url
from gateway_pipe.link.model import Head, Hello, Incoming
from gateway_pipe.node.credentials import SecretIdentity
from gateway_pipe.node.dialer import Dialer
from tests.pipe.gateways import Watcher

PATIENCE_S = 20.0


class NodeHere:
    """A node in this process, which answers with its name and the body; ``ran`` are the targets it was asked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ran: list[str] = []
        self.watcher = Watcher()

    async def serve(self, incoming: Incoming) -> None:
        body = await incoming.read(1 << 20)
        self.ran.append(incoming.opening.target)
        answer = json.dumps({"who": self.name, "bytes": len(body)}).encode()
        await incoming.answer(Head(headers=(("Content-Type", "application/json"),)), answer)


@asynccontextmanager
async def node_here(url: str, name: str, secret: str) -> AsyncIterator[NodeHere]:
    """Connected when the block begins."""
    node = NodeHere(name)
    target = gateway_url(url)
    identity = SecretIdentity(name, secret, ca=None, secure=False)
    hello = Hello(name=name, instance=uuid.uuid4().hex, nouns=("who",))
    dialer = Dialer(target, identity, hello, serve=node.serve, observer=node.watcher)
    dialer.start()
    try:
        await dialer.wait_link(PATIENCE_S)
        yield node
    finally:
        await dialer.close(1.0)


@asynccontextmanager
async def connection(gateway: ServeProcess, secret: str) -> AsyncIterator[ClientSession]:
    """A client with one connection, which one of the gateway's processes holds."""
    headers = {"Authorization": secret, "X-Pipe-Status": "strict"}
    async with gateway.session(headers=headers, connector=TCPConnector(limit=1)) as session:
        yield session


async def who(session: ClientSession, name: str, *, timeout_s: float = 5.0) -> str:
    """Who answers a call of ``name``; what went wrong where nobody does."""
    try:
        async with session.get(f"/client/{name}/who", headers={"X-Request-Timeout": str(timeout_s)}) as answer:
            told = await answer.json()
            return str(told["who"]) if answer.status == 200 else f"{answer.status} {told.get('detail')}"
    except (ClientError, TimeoutError) as error:
        return repr(error)


async def places(session: ClientSession) -> dict[str, str]:
    """The gateway process of each node that is connected."""
    async with session.get("/pipe/nodes") as answer:
        return {node["name"]: node["gateway"] for node in await answer.json()}


async def hand_in(session: ClientSession, name: str, number: int) -> str:
    """Have a durable call accepted; where it can be asked after."""
    async with session.post(f"/client/{name}/who//{number}", headers={"Prefer": "respond-async"}) as answer:
        assert answer.status == 202, await answer.text()
        return answer.headers["Location"]


async def outcome(session: ClientSession, location: str) -> str:
    """Who answered a durable call, within 10 s: nothing that only a look every 30 s finds."""
    async with session.get(location, params={"wait": "10"}) as answer:
        return str((await answer.json()).get("result", {}).get("who"))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Raises TimeoutError where it does not come true."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.05)


async def empty(redis: PrivateRedis) -> None:
    """FLUSHALL."""

    def flush() -> None:
        with Redis.from_url(redis.url) as client:
            client.flushall()

    await asyncio.to_thread(flush)
