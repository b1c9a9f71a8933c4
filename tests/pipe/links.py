"""Two ends of a link at work, over a wire in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway_pipe.link.model import Head, Hello, Incoming, Kind, Limits, Opening, Serve
from gateway_pipe.link.session import Link
from tests.pipe.wires import MemoryWire, wire_pair


@dataclass
class Pair:
    """A server's end and a node's, with their wires."""

    server: Link
    node: Link
    server_wire: MemoryWire
    node_wire: MemoryWire


_LIMITS = Limits()


async def nobody(incoming: Incoming) -> None:
    """Serves nothing."""
    await incoming.answer(Head(status=404, code=255))


def noun(target: str = "time", *, method: str = "GET", timeout_ms: int | None = None) -> Opening:
    return Opening(kind=Kind.NOUN, method=method, target=target, timeout_ms=timeout_ms)


@asynccontextmanager
async def linked(
    *,
    node: Serve = nobody,
    server: Serve = nobody,
    limits: Limits = _LIMITS,
    ping_s: float = 5.0,
    room: int = 64,
) -> AsyncIterator[Pair]:
    """Both ends run, and are ticked by nobody."""
    server_wire, node_wire = wire_pair(room=room)
    here = Hello(name="gateway", instance="g1", window=limits.window, streams=limits.streams)
    there = Hello(name="node1", instance="n1", window=limits.window, streams=limits.streams)
    one = Link(server_wire, opens="server", serve=server, peer=there, limits=limits, ping_s=ping_s)
    two = Link(node_wire, opens="node", serve=node, peer=here, limits=limits, ping_s=ping_s)
    runs = [asyncio.create_task(one.run()), asyncio.create_task(two.run())]
    try:
        yield Pair(one, two, server_wire, node_wire)
    finally:
        one.drop("the test is over")
        two.drop("the test is over")
        async with asyncio.timeout(10):
            await asyncio.gather(*runs)
