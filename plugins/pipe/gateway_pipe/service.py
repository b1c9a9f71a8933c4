"""The live objects of a process that serves nodes: the hub, the handlers, the authority, the durable calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway_core import Check, Gateway, Role, StateKey
from gateway_core.observe.logs import get_logger
from gateway_pipe.cluster.redis_directory import RedisDirectory
from gateway_pipe.durable.deliveries import Deliveries
from gateway_pipe.durable.retention import sweep, sweep_orphans
from gateway_pipe.durable.store import CallStore
from gateway_pipe.handlers.builtin import ServerHandlers
from gateway_pipe.handlers.load import Handlers
from gateway_pipe.handlers.runner import Runner
from gateway_pipe.handlers.statsd import Statsd
from gateway_pipe.hub.directory import LocalDirectory
from gateway_pipe.hub.hub import NEEDS_REDIS, Hub
from gateway_pipe.identity.authority import Authority
from gateway_pipe.identity.listener import identities
from gateway_pipe.link.session import Link
from gateway_pipe.settings import PipeSettings, address

log = get_logger("gateway.pipe")

_SWEEP_EVERY_S = 60.0
_ORPHANS_EVERY_S = 3600.0


@dataclass(frozen=True)
class Service:
    """What handlers and the source work with."""

    gateway: Gateway
    settings: PipeSettings
    hub: Hub
    runner: Runner
    authority: Authority
    calls: CallStore
    deliveries: Deliveries
    directory: RedisDirectory | None


SERVICE_KEY = StateKey("pipe.service", Service)


@asynccontextmanager
async def lifespan(gateway: Gateway) -> AsyncIterator[None]:
    """Take nodes and call them while the process serves; raises ConfigError, StartupError."""
    if gateway.role is not Role.SERVER:
        yield
        return
    settings = gateway.section(PipeSettings)
    if _alone_among_many(gateway):
        log.warning("no nodes are taken", reason=NEEDS_REDIS)
    handlers = _handlers(gateway, settings)
    async with AsyncExitStack() as stack:
        statsd = await asyncio.to_thread(Statsd, address(settings.statsd) if settings.statsd else None)
        stack.callback(statsd.close)
        runner = Runner(handlers, slots=gateway.share(settings.handler_slots), metrics=statsd)
        await runner.start()
        stack.push_async_callback(runner.stop)
        authority = await stack.enter_async_context(identities(gateway, settings))
        redis = RedisDirectory(gateway) if gateway.settings.redis_url else None
        hub = Hub(gateway, settings, directory=redis or LocalDirectory(), notify=runner.notify, statsd=statsd)
        calls = CallStore(gateway.db, gateway.storage, settings, keyring=gateway.keyring)
        deliveries = Deliveries(gateway.wakeups, calls, hub)
        await hub.start()
        stack.push_async_callback(hub.stop)
        await deliveries.start()
        stack.push_async_callback(deliveries.stop)
        if redis is not None:
            from gateway_pipe.cluster.membership import member

            await stack.enter_async_context(
                member(gateway, settings, authority, directory=redis, link_of=lambda name: _link_of(hub, name))
            )
        gateway.state[SERVICE_KEY] = Service(gateway, settings, hub, runner, authority, calls, deliveries, redis)
        yield


def sweep_now_and_then(gateway: Gateway) -> None:
    """Have calls expire, and what nobody needs removed; called while hooks register."""

    async def expire() -> None:
        service = gateway.state[SERVICE_KEY]
        await sweep(service.calls, service.settings)

    async def tidy() -> None:
        service = gateway.state[SERVICE_KEY]
        await sweep_orphans(service.calls)
        await service.authority.sweep()

    gateway.every(_SWEEP_EVERY_S, expire, "pipe.sweep")
    gateway.every(_ORPHANS_EVERY_S, tidy, "pipe.tidy")


def checks(gateway: Gateway) -> dict[str, Check]:
    """How many nodes are here, and whether those of other gateways can be found."""

    async def nodes() -> str:
        if SERVICE_KEY not in gateway.state:
            _handlers(gateway, gateway.section(PipeSettings))
            return "handlers are in order"
        if _alone_among_many(gateway):
            return f"none are taken: {NEEDS_REDIS}"
        service = gateway.state[SERVICE_KEY]
        if service.directory is not None:
            await service.directory.check()
        return f"{len(service.hub.connected())} nodes"

    return {"nodes": nodes}


def _alone_among_many(gateway: Gateway) -> bool:
    return gateway.settings.workers > 1 and not gateway.settings.redis_url


def _handlers(gateway: Gateway, settings: PipeSettings) -> Handlers:
    """Those of the settings and of other plugins; raises ConfigError for one that cannot be had."""
    extra = [found for _, classes in gateway.hooks.each("pipe_handlers") for found in classes]
    return Handlers.load(settings.handlers, extra=extra, default=ServerHandlers, option="PIPE__HANDLERS")


def _link_of(hub: Hub, name: str) -> Link | None:
    node = hub.node(name)
    return None if node is None else node.link
