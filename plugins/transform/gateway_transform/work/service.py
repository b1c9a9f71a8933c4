"""The live objects of a process that serves or works: the store, the queue, the boxes, the worker."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_core import Check, ConfigError, Degraded, Gateway, StateKey, Unavailable
from gateway_core.errors import StartupError
from gateway_core.gateway import Role
from gateway_core.observe.logs import get_logger
from gateway_transform.box.context import NAMESPACES
from gateway_transform.hooks import delivery
from gateway_transform.jobs.claims import Claims
from gateway_transform.jobs.retention import sweep, sweep_orphans
from gateway_transform.jobs.store import JobStore
from gateway_transform.queue import make_queue
from gateway_transform.queue.base import JobQueue
from gateway_transform.settings import TransformSettings
from gateway_transform.work.folders import passable_folder
from gateway_transform.work.pool import BoxPool, NoBox
from gateway_transform.work.scan import scan
from gateway_transform.work.worker import Worker
from gateway_transform.work.zygote import Catalogue, Zygote, ZygotePlan

log = get_logger("gateway.transform")

_EXPIRE_EVERY_S = 60.0
_LOOKS_AT_ONCE = 4
_ORPHANS_EVERY_S = 3600.0


@dataclass(frozen=True)
class Service:
    """What handlers and the source work with."""

    gateway: Gateway
    settings: TransformSettings
    store: JobStore
    queue: JobQueue
    pool: BoxPool
    found: Catalogue
    looks: asyncio.Semaphore

    async def scan(self, key: str, size_bytes: int) -> dict[str, Any]:
        """Look into a stored upload without running it: ``{"error": {...} or null, "fields": {...}}``.

        Raises Unavailable when no sandbox can be had, or none that is tight enough.
        """
        if self.settings.sandbox == "require" and self.found.level != NAMESPACES:
            raise Unavailable("uploads cannot be looked into here: there are no namespaces")
        try:
            async with self.looks:
                return await scan(self.pool, self.gateway.storage, key, settings=self.settings, size_bytes=size_bytes)
        except NoBox as error:
            raise Unavailable(str(error)) from error


SERVICE_KEY = StateKey("transform.service", Service)


def slots_of(gateway: Gateway, settings: TransformSettings) -> int:
    """Jobs at once in this process: its part of a server's, all of a worker's, which is one process."""
    if gateway.role is Role.WORKER or not settings.workers:
        return settings.workers
    return gateway.share(settings.workers)


@asynccontextmanager
async def lifespan(gateway: Gateway) -> AsyncIterator[None]:
    """Accept jobs and run them, while the process lives; raises ConfigError, StartupError."""
    settings = gateway.section(TransformSettings)
    slots = slots_of(gateway, settings)
    if gateway.role is Role.WORKER and not slots:
        raise ConfigError("TRANSFORM__WORKERS is 0: this worker would do nothing")
    async with AsyncExitStack() as stack:
        pool = BoxPool(_plan(gateway, settings, slots=slots), size=slots)
        found = await stack.enter_async_context(_boxes(gateway, pool))
        _tell(found)
        queue = make_queue(gateway)
        await queue.start()
        stack.push_async_callback(queue.stop)
        store = JobStore(gateway.db, settings)
        claims = Claims(gateway.db, settings, gateway.keyring, worker=gateway.instance)
        await stack.enter_async_context(delivery.run(gateway, settings))
        gateway.state[SERVICE_KEY] = Service(
            gateway, settings, store, queue, pool, found, asyncio.Semaphore(max(_LOOKS_AT_ONCE, slots))
        )
        if slots:
            worker = Worker(gateway, claims, queue, pool=pool, slots=slots)
            worker.start()
            stack.push_async_callback(_stop_worker, gateway, worker, _drain_watch(gateway))
        yield


@asynccontextmanager
async def _boxes(gateway: Gateway, pool: BoxPool) -> AsyncIterator[Catalogue]:
    """The pool at work. Boxes of root that have no namespaces could not pass through the data folder to theirs."""
    try:
        found = await pool.start()
        with ExitStack() as stack:
            if os.geteuid() == 0 and found.level != NAMESPACES:
                folder = stack.enter_context(passable_folder(Path(tempfile.gettempdir())))
            else:
                folder = gateway.scratch_dir / "boxes"
                folder.mkdir()
            pool.fill(folder)
            try:
                yield found
            finally:
                await pool.stop()
    finally:
        await pool.stop()


def sweep_now_and_then(gateway: Gateway) -> None:
    """Have results expire, and what nobody needs removed; called while hooks register."""

    async def expire() -> None:
        await sweep(gateway.state[SERVICE_KEY].store, gateway.storage)

    async def remove_orphans() -> None:
        await sweep_orphans(gateway.state[SERVICE_KEY].store, gateway.storage)

    gateway.every(_EXPIRE_EVERY_S, expire, "transform.sweep")
    gateway.every(_ORPHANS_EVERY_S, remove_orphans, "transform.orphans")


def checks(gateway: Gateway) -> dict[str, Check]:
    """How tight boxes are, where less than namespaces is degraded; and which transformations there are."""

    async def sandbox() -> str:
        found = await _found(gateway)
        if found.level != NAMESPACES:
            raise Degraded(f"{found.level} only: {'; '.join(found.missing)}")
        return found.level

    async def transformations() -> str:
        found = await _found(gateway)
        hidden = "; ".join(f"{name} is hidden: {reason}" for name, reason in sorted(found.hidden.items()))
        return "; ".join(filter(None, (f"{len(found.transformations)} transformations", hidden)))

    return {"sandbox": sandbox, "transformations": transformations}


async def _found(gateway: Gateway) -> Catalogue:
    """What the running zygote found; a command starts one to ask it."""
    if SERVICE_KEY in gateway.state:
        try:
            return gateway.state[SERVICE_KEY].pool.catalogue
        except NoBox as error:
            raise StartupError(str(error)) from error
    zygote = await Zygote.start(_plan(gateway, gateway.section(TransformSettings), slots=1))
    await zygote.stop()
    return zygote.catalogue


def _plan(gateway: Gateway, settings: TransformSettings, *, slots: int) -> ZygotePlan:
    """A process that runs no jobs takes the sandbox that there is: it looks into uploads only."""
    named: dict[str, str] = {}
    for plugin, transformations in gateway.hooks.each("transform_transformations"):
        for name, place in transformations.items():
            if name in named:
                raise ConfigError(f"two plugins bring the transformation {name}; the second is {plugin}")
            named[name] = place
    return ZygotePlan(
        modules=settings.modules,
        named=named,
        sandbox="auto" if settings.sandbox == "require" and not slots else settings.sandbox,
        readable=settings.readable,
        hide=gateway.private_paths,
    )


def _tell(found: Catalogue) -> None:
    log.info("transformations ready", count=len(found.transformations), sandbox=found.level)
    if found.level != NAMESPACES:
        log.warning("the sandbox is not full", level=found.level, missing=list(found.missing))


def _drain_watch(gateway: Gateway) -> asyncio.Task[float]:
    """When draining began, on the monotonic clock."""

    async def watch() -> float:
        await gateway.draining.wait()
        return time.monotonic()

    return asyncio.create_task(watch(), name="transform drain")


async def _stop_worker(gateway: Gateway, worker: Worker, drain: asyncio.Task[float]) -> None:
    began = drain.result() if drain.done() else time.monotonic()
    drain.cancel()
    await worker.stop(patience_s=max(0.0, began + gateway.settings.drain_timeout_s - time.monotonic()))
