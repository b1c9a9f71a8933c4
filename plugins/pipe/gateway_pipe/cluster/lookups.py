"""Questions to Redis where nodes are: any number at a time, over one connection."""

from __future__ import annotations

import asyncio
from itertools import islice

from gateway_core.observe.logs import get_logger
from gateway_pipe.cluster.announcer import AT_ONCE, Pace
from gateway_pipe.cluster.registry import Found, Registry, parse
from gateway_pipe.hub.directory import NodeInfo

log = get_logger("gateway.pipe")

_LISTED_S = 1.0
_PARSED_AT_ONCE = 500


class Lookups:
    """``find`` gathers what is asked while the last question is under way; ``run`` must be running.

    ``addresses`` are those of the gateway processes that were found, by instance.
    """

    def __init__(self, registry: Registry, pace: Pace) -> None:
        self.addresses: dict[str, str] = {}
        self._registry = registry
        self._pace = pace
        self._asked: dict[str, asyncio.Future[NodeInfo | None]] = {}
        self._somebody_asked = asyncio.Event()
        self._listing = asyncio.Lock()
        self._listed: tuple[float, list[NodeInfo]] | None = None

    async def find(self, name: str) -> NodeInfo | None:
        """The node's connection to another process; None when there is none, or Redis does not say in ``answer_s``."""
        answer = self._asked.get(name)
        if answer is None:
            answer = self._asked[name] = asyncio.get_running_loop().create_future()
            self._somebody_asked.set()
        try:
            async with asyncio.timeout(self._pace.answer_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            return None

    async def everything(self) -> list[NodeInfo]:
        """All nodes of other processes, by their newest connections; a second old at most, [] without Redis."""
        async with self._listing:
            now = asyncio.get_running_loop().time()
            if self._listed is None or now - self._listed[0] > _LISTED_S:
                self._listed = now, await self._list()
            return self._listed[1]

    def forget(self) -> None:
        """The next ``everything`` asks Redis."""
        self._listed = None

    async def run(self) -> None:
        """Answer for ever."""
        while True:
            await self._somebody_asked.wait()
            self._somebody_asked.clear()
            while self._asked:
                some = {name: self._asked[name] for name in islice(self._asked, AT_ONCE)}
                for name in some:
                    del self._asked[name]
                found = await self._look(list(some))
                for each, answer in zip(found, some.values(), strict=True):
                    answer.set_result(each.info if each is not None else None)

    async def _look(self, names: list[str]) -> list[Found | None]:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._pace.answer_s):
                found = await self._registry.look(names)
        except (RedisError, OSError) as error:
            log.info("nodes could not be looked for", error=str(error))
            return [None] * len(names)
        except Exception:  # a supervisor is one of the borders where everything is caught
            log.exception("looking for nodes failed")
            return [None] * len(names)
        self.addresses.update({each.info.gateway: each.address for each in found if each is not None})
        return found

    async def _list(self) -> list[NodeInfo]:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(self._pace.answer_s):
                tables = await self._registry.everywhere()
        except (RedisError, OSError) as error:
            log.info("nodes could not be listed", error=str(error))
            return []
        self.addresses = {instance: address for instance, (address, _) in tables.items()}
        descriptions = [description for _, some in tables.values() for description in some]
        newest: dict[str, NodeInfo] = {}
        for start in range(0, len(descriptions), _PARSED_AT_ONCE):
            for info in filter(None, map(parse, descriptions[start : start + _PARSED_AT_ONCE])):
                before = newest.get(info.name)
                if before is None or before.epoch < info.epoch:
                    newest[info.name] = info
            await asyncio.sleep(0)
        return list(newest.values())
