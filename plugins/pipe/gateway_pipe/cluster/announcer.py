"""Makes Redis say which nodes this process holds, whatever happens to Redis meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from gateway_core.observe.logs import get_logger
from gateway_pipe.cluster.registry import Registry, describe
from gateway_pipe.hub.directory import Change, NodeInfo

log = get_logger("gateway.pipe")

AT_ONCE = 500
"""Nodes in one command: Redis serves nobody else meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often this process says that it lives, and for how long others believe it.

    ``compare_s`` is how often what it holds is compared with Redis and the database, ``answer_s`` how long Redis may
    take for an answer.
    """

    beat_s: float = 2.0
    life_s: float = 6.0
    compare_s: float = 5.0
    answer_s: float = 1.0


class Announcer:
    """What this process holds is kept here; ``run`` writes to Redis what it does not say yet.

    ``newer`` is called for a node that has a newer connection to another process. ``failing`` tells whether Redis
    refused or did not answer the last time.
    """

    def __init__(self, registry: Registry, pace: Pace, *, connected: Callable[[], bool], newer: Change) -> None:
        self.failing = False
        self._registry = registry
        self._pace = pace
        self._connected = connected
        self._newer = newer
        self._held: dict[str, tuple[int, str]] = {}
        self._untold: set[str] = set()
        self._stirred = asyncio.Event()
        self._beat_at = self._compare_at = 0.0

    def announce(self, info: NodeInfo) -> None:
        """This process holds the node; what is older than what is known is passed over."""
        held = self._held.get(info.name)
        if held is None or info.epoch >= held[0]:
            self._held[info.name] = info.epoch, describe(info)
            self._untold.add(info.name)
            self._stirred.set()

    def withdraw(self, name: str, epoch: int) -> None:
        """This process holds that connection no more."""
        if self.epoch(name) == epoch:
            del self._held[name]
            self._untold.add(name)
            self._stirred.set()

    def epoch(self, name: str) -> int | None:
        """Of the node's connection to this process, None when it has none."""
        held = self._held.get(name)
        return None if held is None else held[0]

    def tell_all(self) -> None:
        """Redis may have forgotten everything."""
        self._beat_at = 0.0
        self._untold.update(self._held)
        self._stirred.set()

    async def run(self, address: str) -> None:
        """Beat, tell and compare for ever; other processes reach this one at ``address``."""
        from redis.exceptions import RedisError

        loop = asyncio.get_running_loop()
        while True:
            self._stirred.clear()
            try:
                if self._connected():
                    await self._turn(address, loop.time())
                    self.failing = False
            except (RedisError, OSError) as error:
                if not self.failing:
                    log.warning("nodes cannot be announced to other gateways", error=str(error))
                self.failing = True
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("announcing nodes failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.beat_s):
                    await self._stirred.wait()

    async def _turn(self, address: str, now: float) -> None:
        if now >= self._beat_at:
            await self._claim(address, ())
            self._beat_at = now + self._pace.beat_s * 0.9
        if now >= self._compare_at:
            names = list(self._held)
            for start in range(0, len(names), AT_ONCE):
                some = names[start : start + AT_ONCE]
                await self._claim(address, [(name, self._held[name][0], "") for name in some if name in self._held])
            self._compare_at = now + self._pace.compare_s
        while self._untold:
            now_told = set(islice(self._untold, AT_ONCE))
            self._untold -= now_told
            try:
                await self._tell(address, now_told)
            except BaseException:
                self._untold |= now_told
                raise

    async def _tell(self, address: str, names: Iterable[str]) -> None:
        held = [(name, *self._held[name]) for name in names if name in self._held]
        gone = [name for name in names if name not in self._held]
        if held:
            await self._claim(address, held)
        if gone:
            async with asyncio.timeout(self._pace.answer_s):
                await self._registry.release(gone)

    async def _claim(self, address: str, nodes: Iterable[tuple[str, int, str]]) -> None:
        async with asyncio.timeout(self._pace.answer_s):
            claimed = await self._registry.claim(address, nodes)
        self._untold.update(claimed.lacking if claimed.there else self._held)
        for name, epoch in claimed.newer.items():
            held = self.epoch(name)
            if held is not None and held < epoch:
                self._newer(name, epoch)
