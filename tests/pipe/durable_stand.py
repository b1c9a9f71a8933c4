"""Durable calls between a hub and nodes whose links a test can cut after any message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_pipe.durable.deliveries import Deliveries
from gateway_pipe.durable.journal import Journal
from gateway_pipe.durable.model import Call, CallState, NewCall
from gateway_pipe.durable.serve import DurableServe
from gateway_pipe.durable.store import CallStore
from gateway_pipe.link.model import Body, Head, Incoming, Kind, Opening
from gateway_pipe.settings import PipeSettings
from tests.pipe.hub_stand import HubStand, Node, hub_stand
from tests.pipe.wires import MemoryWire

PATIENCE_S = 30.0


@dataclass
class Machine:
    """What runs on a node: it answers with the body it got, and keeps what it ran, call by call."""

    ran: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    async def __call__(self, incoming: Incoming) -> None:
        self.ran.append(incoming.opening.target)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        await asyncio.sleep(0)
        body = await incoming.read(1 << 30)
        self.busy -= 1
        await incoming.answer(Head(code=len(body) % 200, headers=(("Content-Type", "x/y"),)), body)


@dataclass
class DurableStand:
    """``serve`` is the node's side, the same for all its links."""

    hubs: HubStand
    store: CallStore
    deliveries: Deliveries
    machine: Machine
    serve: DurableServe

    async def connect(self, name: str = "node1", **how: Any) -> Node:
        return await self.hubs.connect(name, **{"serve": self.serve, **how})

    async def known(self, name: str = "node1") -> None:
        """The node was here and is away."""
        await self.hubs.hub.next_epoch(name, "1.0")

    async def accept(self, target: str, body: Body = b"", *, ttl_s: float = 60.0, announced: bool = True) -> Call:
        """A call for node1, as the web accepts it."""
        opening = Opening(kind=Kind.NOUN, method="POST", target=target)
        call = await self.store.accept(NewCall(client_id="c1", node="node1", opening=opening, ttl_s=ttl_s), body)
        if announced:
            self.deliveries.announce("node1")
        return call

    async def ended(self, call: Call) -> Call:
        """The call in its final state."""
        async with asyncio.timeout(PATIENCE_S):
            while (found := await self.store.find(call.id, "c1")).state is CallState.WAITING:
                await asyncio.sleep(0.01)
            return found

    async def result(self, call: Call) -> bytes:
        """What the call brought."""
        done = await self.ended(call)
        async with self.store.result(done) as body:
            return body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])


@asynccontextmanager
async def durable_stand(
    data_dir: Path, migrated: Path, *, pipe: dict[str, Any] | None = None
) -> AsyncIterator[DurableStand]:
    """One gateway, and one node's memory; nothing is connected."""
    machine = Machine()
    async with hub_stand(data_dir, migrated, pipe=pipe) as hubs, Journal(data_dir / "calls.db") as journal:
        gateway = hubs.gateway
        store = CallStore(gateway.db, gateway.storage, PipeSettings(**(pipe or {})), keyring=gateway.keyring)
        deliveries = Deliveries(gateway.wakeups, store, hubs.hub)
        await deliveries.start()
        serve = DurableServe(machine, journal)
        try:
            yield DurableStand(hubs, store, deliveries, machine, serve)
        finally:
            await deliveries.stop()
            await serve.stop()


def cut_after(wire: MemoryWire, messages: int) -> None:
    """Break the connection instead of the next message after so many, counted both ways."""
    left = messages

    def counted(end: MemoryWire) -> None:
        send = end.send

        async def send_or_cut(message: bytes) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                wire.cut()
            await send(message)

        end.send = send_or_cut  # type: ignore[method-assign]

    counted(wire)
    counted(wire.other)
