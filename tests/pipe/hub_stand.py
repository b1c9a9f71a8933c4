"""A hub in a real gateway, and nodes that connect to it over wires in memory."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway_core import Event, Gateway, Role, hookimpl
from gateway_core.app.compose import compose
from gateway_core.settings import Inputs
from gateway_pipe.hub.directory import Change, Directory, LocalDirectory, NodeInfo
from gateway_pipe.hub.hub import Hub
from gateway_pipe.hub.nodes import Connected, Entrance, Via
from gateway_pipe.link.model import Farewell, Head, Hello, Incoming, Kind, Opening, Serve
from gateway_pipe.link.session import Link
from gateway_pipe.settings import PipeSettings
from tests.pipe.wires import MemoryWire, wire_pair


def noun(target: str = "time", *, timeout_ms: int | None = None) -> Opening:
    return Opening(kind=Kind.NOUN, method="GET", target=target, timeout_ms=timeout_ms)


async def silent(incoming: Incoming) -> None:
    """Never answers."""
    await asyncio.get_running_loop().create_future()


def saying(text: bytes) -> Serve:
    """Reads the request, then answers with ``text``."""

    async def serve(incoming: Incoming) -> None:
        await incoming.read(1 << 20)
        await incoming.answer(Head(headers=(("X-Node", incoming.opening.node),)), text)

    return serve


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Node:
    """A node that is connected: the hub's entry for it, and its own end."""

    entry: Connected
    link: Link
    wire: MemoryWire

    async def farewell(self) -> Farewell:
        """What the hub told it, or how the link broke."""
        async with asyncio.timeout(10):
            return await self.link.leaving()

    async def gone(self) -> None:
        """Wait until the hub has forgotten the link."""
        async with asyncio.timeout(10):
            await self.link.closed()
            await self.entry.link.closed()
        await asyncio.sleep(0)


@dataclass
class HubStand:
    """``told`` are hooks of handlers, ``events`` the names of events of nodes with their data."""

    gateway: Gateway
    hub: Hub
    told: list[tuple[Any, ...]]
    events: list[Event]
    ping_s: float = 5.0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def connect(
        self,
        name: str = "node1",
        serve: Serve | None = None,
        *,
        hub: Hub | None = None,
        hello: Mapping[str, Any] | None = None,
        **entrance: Any,
    ) -> Node:
        """Connect as the web does, without a handshake."""
        hub = hub or self.hub
        entrance = {"via": Via.CERTIFICATE, "address": "192.0.2.1", **entrance}
        if "epoch" not in entrance:
            entrance["epoch"] = await hub.next_epoch(name, "1.0")
        said = Hello(**{"name": name, "instance": "i", "version": "1.0", **(hello or {})})
        here, there = wire_pair()
        ping_s = self.ping_s
        link = Link(here, opens="server", serve=silent, peer=said, ping_s=ping_s)
        entry = hub.attach(link, said, Entrance(**entrance))
        peer = Hello(name="gateway", instance="g")
        own = Link(there, opens="node", serve=serve or saying(name.encode()), peer=peer, ping_s=ping_s)
        self.keep(self._run(entry))
        self.keep(own.run())
        return Node(entry, own, there)

    def keep(self, work: Any) -> asyncio.Task[Any]:
        """Run it until the end of the test, at most."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        return task

    async def ask(self, name: str = "node1", body: Any = b"", **how: Any) -> bytes:
        """What the node answers."""
        async with asyncio.timeout(10), self.hub.call(name, noun(), body, **how) as called:
            return await called.answer.read(1 << 20)

    @staticmethod
    async def _run(entry: Connected) -> None:
        with entry:
            await entry.link.run()


@asynccontextmanager
async def gateway_of_a_hub(data_dir: Path, migrated: Path, events: list[Event]) -> AsyncIterator[Gateway]:
    """An open gateway without ports and plugins; ``migrated`` is the SQLite file that it begins with a copy of."""

    @hookimpl
    def gateway_event(event: Event) -> None:
        events.append(event)

    observer = SimpleNamespace(gateway_event=gateway_event, __name__="observer")
    options = {"plugins": "pipe", "data_dir": data_dir}
    gateway = compose(Inputs(options=options), role=Role.SERVER, extra={"pipe": observer}).gateway
    gateway.make_data_dir()
    shutil.copy(migrated, data_dir / "gateway.db")
    async with gateway.opened():
        yield gateway


@asynccontextmanager
async def hub_stand(
    data_dir: Path,
    migrated: Path,
    *,
    directory: Directory | None = None,
    pipe: Mapping[str, Any] | None = None,
    ping_s: float = 5.0,
) -> AsyncIterator[HubStand]:
    """A hub with those settings of the plugin; ``migrated`` is the fixture ``pipe_sqlite_file``."""
    events: list[Event] = []
    told: list[tuple[Any, ...]] = []
    async with gateway_of_a_hub(data_dir, migrated, events) as gateway:
        hub = Hub(
            gateway,
            PipeSettings(ping=ping_s, **(pipe or {})),
            directory=directory or LocalDirectory(),
            notify=lambda *arguments: told.append(arguments),
        )
        await hub.start()
        stand = HubStand(gateway, hub, told, events, ping_s)
        try:
            yield stand
        finally:
            await hub.stop()
            for task in stand.tasks:
                task.cancel()
            if stand.tasks:
                await asyncio.wait(stand.tasks)


class Directories:
    """The directory of a cluster in one process: ``one`` and ``two`` are what two gateways see of each other."""

    def __init__(self) -> None:
        self.one, self.two = _Side(self), _Side(self)
        self.one.other, self.two.other = self.two, self.one


class _Side:
    def __init__(self, owner: Directories) -> None:
        self.other = self
        self.held: dict[str, NodeInfo] = {}
        self.link: Link | None = None
        self._changed: list[Change] = []

    def announce(self, info: NodeInfo) -> None:
        self.held[info.name] = info
        self.other.tell(info.name, info.epoch)

    def withdraw(self, name: str, epoch: int) -> None:
        held = self.held.get(name)
        if held is not None and held.epoch == epoch:
            del self.held[name]
            self.other.tell(name, 0)

    async def where(self, name: str) -> NodeInfo | None:
        return self.other.held.get(name)

    async def everywhere(self) -> list[NodeInfo]:
        return list(self.other.held.values())

    async def link_to(self, info: NodeInfo) -> Link:
        assert self.link is not None
        return self.link

    def on_change(self, changed: Change) -> None:
        self._changed.append(changed)

    def tell(self, name: str, epoch: int) -> None:
        for changed in self._changed:
            changed(name, epoch)
