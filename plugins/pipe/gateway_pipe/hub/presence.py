"""Who tells that nodes come and go: events, hooks of handlers, metrics, the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway_core.observe import events
from gateway_core.observe.logs import get_logger
from gateway_pipe.hub import metrics
from gateway_pipe.link.model import Farewell, Goodbye

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway
    from gateway_pipe.hub.nodes import Connected

log = get_logger("gateway.pipe")

Notify = Callable[..., None]
"""``notify(hook, *arguments)`` calls a hook of the handlers; never blocks, never fails."""

IDLE_S = 60.0
_EVENTS = {Goodbye.REPLACED: events.PIPE_NODE_REPLACED, Goodbye.REVOKED: events.PIPE_NODE_REVOKED}


class Presence:
    """What it is told, it tells; ``idle`` each minute in which nobody is connected."""

    def __init__(self, gateway: Gateway, notify: Notify) -> None:
        self._gateway = gateway
        self._notify = notify
        self._count = 0
        self._empty_since = datetime.now(UTC)
        self._changed = asyncio.Event()

    def came(self, node: Connected, count: int) -> None:
        """A node has connected; ``count`` are here now."""
        self._set(count)
        entrance = node.entrance
        log.info("node connected", node=node.name, epoch=node.epoch, via=entrance.via.value, address=entrance.address)
        self._gateway.emit(
            events.PIPE_NODE_CONNECTED,
            node=node.name,
            epoch=node.epoch,
            via=entrance.via.value,
            address=entrance.address,
            version=node.hello.version,
        )
        self._notify("connection_added", node.name, count)

    def went(self, node: Connected, count: int, farewell: Farewell) -> None:
        """A connection is no more, or takes no calls any more; ``count`` are left."""
        self._set(count)
        reason = "broken" if farewell.code is None else farewell.code.name.lower()
        metrics.LINKS_DROPPED.labels(reason).inc()
        log.info("node gone", node=node.name, epoch=node.epoch, reason=reason, detail=farewell.reason)
        event = events.PIPE_NODE_GONE if farewell.code is None else _EVENTS.get(farewell.code, events.PIPE_NODE_GONE)
        self._gateway.emit(event, node=node.name, epoch=node.epoch, reason=reason, detail=farewell.reason)
        self._notify("connection_removed", node.name, count)

    async def run(self, every_s: float = IDLE_S) -> None:
        """Tell of idleness until cancelled."""
        while True:
            try:
                async with asyncio.timeout(every_s):
                    await self._changed.wait()
            except TimeoutError:
                if not self._count:
                    seconds = (datetime.now(UTC) - self._empty_since).total_seconds()
                    self._notify("idle", self._empty_since, seconds)
            self._changed.clear()

    def _set(self, count: int) -> None:
        if bool(count) != bool(self._count):
            self._changed.set()
            if not count:
                self._empty_since = datetime.now(UTC)
        self._count = count
        metrics.NODES.set(count)
