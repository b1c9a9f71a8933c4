"""The nodes of this process, the way to those of others, and what happens when one comes or goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

from gateway_core.errors import Conflict, Unavailable
from gateway_core.observe.logs import get_logger
from gateway_pipe.handlers.statsd import SEND, SEND_TIMING
from gateway_pipe.hub import groups, metrics
from gateway_pipe.hub.admission import Admission
from gateway_pipe.hub.calls import Called, Patience
from gateway_pipe.hub.directory import LocalDirectory
from gateway_pipe.hub.finding import Finding
from gateway_pipe.hub.nodes import Connected, Entrance, Match, Reached
from gateway_pipe.hub.presence import Notify, Presence
from gateway_pipe.hub.rights import Rights
from gateway_pipe.hub.rows import NodeRows
from gateway_pipe.hub.ticker import Ticker
from gateway_pipe.hub.waiting import WaitingCalls
from gateway_pipe.link.model import Body, Farewell, Goodbye, Hello, Opening

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway
    from gateway_pipe.handlers.statsd import Statsd
    from gateway_pipe.hub.directory import Directory, NodeInfo
    from gateway_pipe.link.session import Link
    from gateway_pipe.settings import PipeSettings

log = get_logger("gateway.pipe")

Observer = Callable[[Connected], None]
"""Called when a node has come, or gone; never blocks."""

NEEDS_REDIS = "with several workers nodes need REDIS_URL: a call would not find its node in another process"
_RANDOM = random.SystemRandom()
_RETRY_S = 5
_CUT_S = {Goodbye.REPLACED: 1.0, Goodbye.REVOKED: 0.1}
_NODES_A_SECOND = 200
_LONGEST_SPREAD_S = 20.0
_TOLD_AT_ONCE = 50
_TURNS = 30


def _to_nobody(*_: object) -> None:
    """There are no handlers with hooks."""


class Hub:
    """Every node has one link that counts: that of its highest epoch, wherever in the cluster it is.

    ``notify(hook, *arguments)`` calls the hooks of handlers. Nodes may be attached between ``start`` and ``stop``.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: PipeSettings,
        *,
        directory: Directory,
        notify: Notify = _to_nobody,
        statsd: Statsd | None = None,
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._directory = directory
        self._statsd = statsd
        self._nodes: dict[str, Connected] = {}
        self._rows = NodeRows(gateway.db)
        self._finding = Finding(gateway, self._nodes, rows=self._rows, directory=directory)
        self._admission = Admission(gateway.share(settings.connecting))
        self._presence = Presence(gateway, notify)
        self._rights = Rights(gateway, self)
        self._ticker: Ticker[Link] = Ticker(settings.ping)
        self._attached: list[Observer] = []
        self._detached: list[Observer] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._alone_among_many = gateway.settings.workers > 1 and isinstance(directory, LocalDirectory)
        directory.on_change(self._changed_elsewhere)

    async def start(self) -> None:
        """Begin to tick links and to watch rights, in the running loop."""
        works = {"ticks": self._ticker.run, "presence": self._presence.run, "rights": self._rights.run}
        works |= {"metrics": self._measure, "end": self._end}
        self._tasks = [asyncio.create_task(work(), name=f"pipe {name}") for name, work in works.items()]

    async def stop(self) -> None:
        """Cut the links that are left, and stop."""
        self._drop_all("the gateway stops")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        await self._rows.close()

    # Nodes come

    @asynccontextmanager
    async def admitted(self, name: str) -> AsyncIterator[None]:
        """Have the node be one of the few that shake hands, up to ``attach``.

        Raises Unavailable with a time to come again.
        """
        self._refuse_when_draining()
        async with self._admission.admitted(name):
            yield

    async def next_epoch(self, name: str, version: str) -> int:
        """The number of a new connection of ``name``; raises Forbidden for a revoked name, DatabaseError."""
        return await self._rows.next_epoch(name, version)

    def attach(self, link: Link, hello: Hello, entrance: Entrance) -> Connected:
        """From now on calls of ``hello.name`` go over ``link``: ``with hub.attach(...): await link.run()``.

        The connection before it is told, and cut a second later. Raises Conflict when a newer one is there already,
        Unavailable while the gateway is draining.
        """
        self._refuse_when_draining()
        name = hello.name
        old = self._nodes.get(name)
        if old is not None:
            if old.epoch >= entrance.epoch:
                raise Conflict(f"a newer connection of {name} is there already")
            self.part(old, Farewell(Goodbye.REPLACED, "the node has connected anew"))
        node = self._nodes[name] = Connected(link, hello, entrance, registry=self)
        self._ticker.add(link)
        self._rows.note(name)
        self._directory.announce(node.info(self._gateway.instance))
        self._presence.came(node, len(self._nodes))
        self.waiting.wake(name)
        _tell(self._attached, node)
        return node

    def detach(self, node: Connected) -> None:
        """The link has ended. Leaving the block of ``node`` does this."""
        self._ticker.discard(node.link)
        self._remove(node, node.link.farewell or Farewell(None, "ended"))

    def part(self, node: Connected, farewell: Farewell) -> None:
        """Send the node away: it gets no more calls, and those under way end unless it was replaced or revoked."""
        self._remove(node, farewell)
        node.link.say_goodbye(farewell)
        cut_s = None if farewell.code is None else _CUT_S.get(farewell.code)
        if cut_s is not None:
            asyncio.get_running_loop().call_later(cut_s, node.link.drop, farewell.reason)

    def drop(self, name: str, code: Goodbye, reason: str = "") -> bool:
        """Send the node of that name away, if this process holds it; whether it did."""
        node = self._nodes.get(name)
        if node is not None:
            self.part(node, Farewell(code, reason or code.name.lower()))
        return node is not None

    async def goodbye(self) -> None:
        """Send all nodes to other gateways, spread over some seconds, the more the longer; running calls end."""
        nodes = self.connected()
        spread_s = min(_LONGEST_SPREAD_S, 1 + len(nodes) / _NODES_A_SECOND)
        for told, node in enumerate(nodes):
            if told % _TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)  # thousands must not hold up the event loop
            retry_after_s = round(_RANDOM.uniform(0, spread_s), 3)
            self.part(node, Farewell(Goodbye.SHUTDOWN, "the gateway stops", retry_after_s))

    def on_attach(self, observer: Observer) -> None:
        """Call ``observer`` for every node that connects to this process from now on."""
        self._attached.append(observer)

    def on_detach(self, observer: Observer) -> None:
        """Call ``observer`` for every connection that takes no more calls, a replaced one too."""
        self._detached.append(observer)

    # Nodes are called

    @property
    def waiting(self) -> WaitingCalls:
        """Calls that wait for a node."""
        return self._finding.waiting

    def node(self, name: str) -> Connected | None:
        """The node's connection, if this process holds it."""
        return self._nodes.get(name)

    def connected(self) -> Sequence[Connected]:
        """Nodes that this process holds."""
        return list(self._nodes.values())

    async def nodes(self) -> list[NodeInfo]:
        """Nodes that any process holds, by name."""
        found = {info.name: info for info in await self._directory.everywhere()}
        for node in self._nodes.values():
            other = found.get(node.name)
            if other is None or other.epoch < node.epoch:
                found[node.name] = node.info(self._gateway.instance)
        return sorted(found.values(), key=lambda info: info.name)

    async def matching(self, selector: str) -> list[Match]:
        """Nodes with that tag, or whose name fits that pattern, away ones too; by name. Raises DatabaseError."""
        return await groups.matching(selector, await self.nodes(), self._rows)

    def call(
        self,
        name: str,
        opening: Opening,
        body: Body = b"",
        *,
        timeout_s: float | None = None,
        whole: bool = False,
        wait_s: float | None = None,
    ) -> Called:
        """Call the node: ``async with hub.call(...) as called``, then ``called.answer``.

        The answer must begin (``whole``: end) within ``timeout_s``, by default the setting ``call_timeout``; of this,
        ``wait_s`` at most (``wait_for_node``) are for a node that is away. Entering raises NotFound for a node that
        never was there, Unavailable for one that is away, DatabaseError, and what calling a link raises.
        """
        total_s = self._settings.call_timeout if timeout_s is None else timeout_s
        away_s = self._settings.wait_for_node if wait_s is None else wait_s
        patience = Patience(total_s, min(away_s, total_s), whole)
        return Called(self, name, opening, body=body, patience=patience)

    async def find(self, name: str, *, wait_s: float, past: int = 0) -> Reached:
        """The node's newest connection, with an epoch above ``past``; waits for one that is away.

        Raises NotFound for a name that was never connected, Unavailable when it does not come in ``wait_s``,
        DatabaseError.
        """
        return await self._finding.find(name, wait_s=wait_s, past=past)

    def answered(self, seconds: float) -> None:
        """The answer of a call has begun, so long after the call."""
        metrics.CALL_SECONDS.observe(seconds)
        if self._statsd is not None:
            self._statsd.tick(SEND)
            self._statsd.timing(SEND_TIMING, seconds * 1000)

    # What changes

    def announce_again(self, turn: int) -> None:
        """Tell other gateways the round trips of a part of the nodes: of each in one of 30 turns."""
        for node in self.connected()[turn % _TURNS :: _TURNS]:
            self._directory.announce(node.info(self._gateway.instance))

    def _remove(self, node: Connected, farewell: Farewell) -> None:
        """Take the connection out, unless it is out already or another one has its place."""
        if self._nodes.get(node.name) is not node:
            return
        del self._nodes[node.name]
        self._directory.withdraw(node.name, node.epoch)
        self._rows.seen([node.name])
        self._presence.went(node, len(self._nodes), farewell)
        _tell(self._detached, node)

    def _changed_elsewhere(self, name: str, epoch: int) -> None:
        if epoch:
            self._rows.note(name)
        node = self._nodes.get(name)
        if node is not None and node.epoch < epoch:
            self.part(node, Farewell(Goodbye.REPLACED, "the node has connected to another gateway"))
        self.waiting.wake(name)

    def _refuse_when_draining(self) -> None:
        if self._alone_among_many:
            raise Unavailable(NEEDS_REDIS, retry_after_s=60)
        if self._gateway.draining.is_set():
            raise Unavailable("the gateway stops", retry_after_s=_RANDOM.randint(1, _RETRY_S))

    async def _measure(self) -> None:
        for turn in count():
            metrics.STREAMS.set(sum(link.streams for link in self._ticker.links))
            metrics.WAITING.set(len(self.waiting))
            self.announce_again(turn)
            await asyncio.sleep(1)

    async def _end(self) -> None:
        """Links serve running calls until the gateway closes; a second signal cuts them."""
        await self._gateway.closing.wait()
        self.waiting.wake_all()
        await self.goodbye()
        await self._gateway.cut.wait()
        self._drop_all("the gateway stops at once")

    def _drop_all(self, reason: str) -> None:
        for link in self._ticker.links:
            link.drop(reason)


def _tell(observers: Sequence[Observer], node: Connected) -> None:
    for observer in observers:
        try:
            observer(node)
        except Exception:  # observers must not keep a node from coming or going
            log.exception("an observer of nodes failed", node=node.name)
