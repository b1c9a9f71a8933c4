"""The directory of several gateways: registry and messages in Redis, which may be away or empty at any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gateway_core import Degraded, Gateway
from gateway_core.db.redis_link import RedisLink
from gateway_core.errors import DatabaseError, Unavailable
from gateway_core.observe.logs import get_logger
from gateway_pipe.cluster.announcer import Announcer, Pace
from gateway_pipe.cluster.epochs import RecentEpochs
from gateway_pipe.cluster.lookups import Lookups
from gateway_pipe.cluster.registry import PREFIX, Registry
from gateway_pipe.hub.directory import Change, NodeInfo

if TYPE_CHECKING:
    from gateway_pipe.link.session import Link

log = get_logger("gateway.pipe")

_PACE = Pace()
_AGAIN_S = 0.1


class Dialler(Protocol):
    """Links to other gateways; see ``peers.Peers``."""

    @property
    def address(self) -> str:
        """Where other gateways reach this process, ``host:port``."""

    async def link_to(self, instance: str, address: str) -> Link:
        """Raises Unavailable."""


class RedisDirectory:
    """A Directory (see ``hub.directory``) that is at work while the block of ``joined`` lasts.

    Redis is made to say what this process holds: at once, and anew after it was away, restarted or emptied. Messages
    tell the other processes; those that get lost are made up for by comparing with Redis and the database. While Redis
    is away ``where`` and ``everywhere`` find nothing, at once.
    """

    def __init__(self, gateway: Gateway, *, pace: Pace = _PACE) -> None:
        from redis.asyncio.connection import parse_url

        url = gateway.settings.redis_url
        # Channels are common to all databases of a Redis: two installations on one must not hear each other.
        channel = f"{PREFIX}nodes:{parse_url(url).get('db', 0)}"
        self._me = gateway.instance
        self._pace = pace
        self._redis = RedisLink(url, channel=channel, answer_timeout_s=2 * pace.answer_s)
        self._redis.listen(self._on_message, self._on_connected)
        self._registry = Registry(self._redis.client, instance=self._me, channel=channel, life_s=pace.life_s)
        self._announcer = Announcer(self._registry, pace, connected=lambda: self._redis.connected, newer=self._notify)
        self._lookups = Lookups(self._registry, pace)
        self._epochs = RecentEpochs(gateway.db)
        self._reconnected = asyncio.Event()
        self._callbacks: list[Change] = []
        self._dialler: Dialler | None = None

    @asynccontextmanager
    async def joined(self, dialler: Dialler) -> AsyncIterator[None]:
        """Take part; at the end of the block this process and its nodes are out at once."""
        self._dialler = dialler
        self._redis.start()
        loops = (self._announcer.run(dialler.address), self._lookups.run(), self._repair())
        tasks = [asyncio.create_task(loop, name="pipe directory") for loop in loops]
        try:
            yield
        finally:
            await _end(tasks)
            await self._leave()
            await self._redis.stop()

    async def check(self) -> str:
        """For ``/readyz``: how many other gateways there are; raises Degraded while Redis is of no use."""
        if not self._redis.connected or self._announcer.failing:
            raise Degraded("Redis is away: only nodes that are connected to this process can be reached")
        await self.everywhere()
        return f"other gateway processes: {len(self._lookups.addresses)}"

    def announce(self, info: NodeInfo) -> None:
        """See Directory."""
        self._announcer.announce(replace(info, gateway=self._me))

    def withdraw(self, name: str, epoch: int) -> None:
        """See Directory."""
        self._announcer.withdraw(name, epoch)

    async def where(self, name: str) -> NodeInfo | None:
        """See Directory; takes ``Pace.answer_s`` at most."""
        return await self._lookups.find(name) if self._redis.connected else None

    async def everywhere(self) -> list[NodeInfo]:
        """See Directory."""
        if not self._redis.connected:
            return []
        return [
            info for info in await self._lookups.everything() if (self._announcer.epoch(info.name) or 0) < info.epoch
        ]

    async def link_to(self, info: NodeInfo) -> Link:
        """See Directory."""
        address = self._lookups.addresses.get(info.gateway)
        if address is None or self._dialler is None:
            raise Unavailable("the gateway of this node is not there any more")
        return await self._dialler.link_to(info.gateway, address)

    def on_change(self, changed: Change) -> None:
        """See Directory."""
        self._callbacks.append(changed)

    def _notify(self, name: str, epoch: int) -> None:
        self._lookups.forget()
        for changed in self._callbacks:
            changed(name, epoch)

    def _on_connected(self) -> None:
        self._reconnected.set()
        self._announcer.tell_all()

    def _on_message(self, data: bytes) -> None:
        try:
            sender, told = json.loads(data)
            changes = [(str(name), int(epoch)) for name, epoch in zip(told[::2], told[1::2], strict=True)]
        except (ValueError, TypeError):
            log.debug("a message that tells of no nodes")
            return
        if sender != self._me:
            for name, epoch in changes:
                self._notify(name, epoch)

    async def _repair(self) -> None:
        """Find out what messages would have told that never came."""
        while True:
            try:
                newest = await self._epochs.read()
            except DatabaseError as error:
                log.info("epochs of nodes could not be compared", error=error.detail)
                newest = {}
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("comparing epochs of nodes failed")
                newest = {}
            for name, epoch in newest.items():
                held = self._announcer.epoch(name)
                if held is not None and held < epoch:
                    self._notify(name, epoch)
            if self._reconnected.is_set():
                self._reconnected.clear()
                self._lookups.forget()
                for info in await self.everywhere():
                    self._notify(info.name, info.epoch)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.compare_s):
                    await self._reconnected.wait()

    async def _leave(self) -> None:
        from redis.exceptions import RedisError

        if self._redis.connected:
            with contextlib.suppress(RedisError, OSError):  # then it runs out by itself
                async with asyncio.timeout(self._pace.answer_s):
                    await self._registry.leave()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until it works: what sends to Redis can lose a cancellation before Python 3.12 (python/cpython#86296)."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_S)
