"""A gateway process of a cluster, as far as other gateways see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from gateway_core import Gateway
from gateway_pipe.cluster.announcer import Pace
from gateway_pipe.cluster.membership import member
from gateway_pipe.cluster.peers import Peers
from gateway_pipe.cluster.redis_directory import RedisDirectory
from gateway_pipe.cluster.relay import LinkOf
from gateway_pipe.hub.directory import NodeInfo
from gateway_pipe.identity.authority import Authority
from gateway_pipe.link.model import Serve
from gateway_pipe.link.session import Link
from gateway_pipe.settings import PipeSettings
from tests.pipe.links import linked

QUICK = Pace(beat_s=0.1, life_s=0.5, compare_s=0.3, answer_s=1.0)
NEVER_S = 3600.0


@dataclass
class Member:
    """One gateway process. ``changes`` are those that its directory told, ``links`` those of its nodes."""

    gateway: Gateway
    directory: RedisDirectory
    peers: Peers
    links: dict[str, Link]
    link_of: LinkOf
    changes: set[tuple[str, int]] = field(default_factory=set)
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, name: str, epoch: int) -> None:
        self.changes.add((name, epoch))
        self._told.set()

    async def hears(self, name: str, epoch: int) -> None:
        """Wait for this change."""
        async with asyncio.timeout(10):
            while (name, epoch) not in self.changes:
                self._told.clear()
                await self._told.wait()

    @asynccontextmanager
    async def holding(self, name: str, serve: Serve, *, epoch: int = 1, **about: object) -> AsyncIterator[Link]:
        """A node that is connected to this gateway for the block."""
        async with linked(node=serve) as pair:
            self.links[name] = pair.server
            self.directory.announce(replace(NodeInfo(name=name, epoch=epoch, since=1.0), **about))
            yield pair.server
            self.directory.withdraw(name, epoch)
            self.links.pop(name, None)

    async def finds(self, name: str, *, at: Member | None) -> NodeInfo | None:
        """Wait until the node is said to be there, or nowhere."""
        async with asyncio.timeout(10):
            while True:
                info = await self.directory.where(name)
                if (info.gateway if info is not None else None) == (at.gateway.instance if at is not None else None):
                    return info
                await asyncio.sleep(0.005)

    async def link_to(self, name: str, at: Member) -> Link:
        """The link over which the node is called that is connected there."""
        info = await self.finds(name, at=at)
        assert info is not None
        return await self.directory.link_to(info)


@asynccontextmanager
async def cluster_member(gateway: Gateway, pace: Pace) -> AsyncIterator[Member]:
    """``gateway`` takes part for the block, from when its Redis is there."""
    settings = PipeSettings()
    directory = RedisDirectory(gateway, pace=pace)
    links: dict[str, Link] = {}

    def link_of(name: str) -> Link | None:
        return made.link_of(name)

    authority = Authority(gateway.db, gateway.keyring, settings)
    async with member(gateway, settings, authority, directory=directory, link_of=link_of) as peers:
        made = Member(gateway, directory, peers, links, links.get)
        directory.on_change(made.hear)
        async with asyncio.timeout(10):
            while not directory._redis.connected:
                await asyncio.sleep(0.005)
        yield made
