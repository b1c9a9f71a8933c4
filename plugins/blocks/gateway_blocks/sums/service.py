"""The live objects of a serving process: the root, the catalogue, the reports."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway_blocks.files.root import Root
from gateway_blocks.files.serving import base_path, served_folder
from gateway_blocks.settings import BlocksSettings
from gateway_blocks.sums.catalogue import Catalogue
from gateway_blocks.sums.claims import Claims
from gateway_blocks.sums.reports import Reports
from gateway_blocks.sums.store import Place, SumStore
from gateway_blocks.sums.workshop import Workshop
from gateway_core import Check, Degraded, Gateway, GatewayError, StateKey
from gateway_core.observe.logs import get_logger

log = get_logger("gateway.blocks")

SWEEP_EVERY_S = 3600.0
_DISCARDED = "blocks.discarded"


@dataclass(frozen=True)
class Service:
    """What handlers and the source work with. ``base`` is where the root appears: ``/files``, or empty."""

    gateway: Gateway
    settings: BlocksSettings
    base: str
    root: Root
    store: SumStore
    catalogue: Catalogue
    reports: Reports


SERVICE_KEY = StateKey("blocks.service", Service)


@asynccontextmanager
async def lifespan(gateway: Gateway) -> AsyncIterator[None]:
    """Serve, hash and save, while the process serves; raises ConfigError for a root that cannot be read."""
    settings = gateway.section(BlocksSettings)
    folder = served_folder(settings, gateway.settings.data_dir)
    root = Root(folder)
    claims = Claims(gateway.settings.data_dir / "blocks.lock")
    place = Place(settings.host or socket.gethostname()[:255], str(folder), settings.block_size)
    store = SumStore(gateway.db, place)
    workers = gateway.share(settings.hash_workers or os.cpu_count() or 1)
    catalogue = Catalogue(Workshop(root, store, claims, workers=workers), whole=settings.full_digest)
    reports = Reports(catalogue, lambda: gateway.wakeups.publish(_DISCARDED))
    log.info("files served", root=str(folder), confined_by=root.level, hash_workers=workers)
    try:
        async with catalogue.running(), _listening(gateway, catalogue):
            gateway.state[SERVICE_KEY] = Service(
                gateway, settings, base_path(settings), root, store, catalogue, reports
            )
            try:
                yield
            finally:
                await reports.stop()
    finally:
        claims.close()
        root.close()


def root_check(gateway: Gateway) -> Check:
    """A check that the folder is still there, and is the one that was opened."""

    async def check() -> None:
        if SERVICE_KEY not in gateway.state:  # a command asks, nothing is served
            await asyncio.to_thread(_try_root, gateway)
            return
        try:
            same = await asyncio.to_thread(gateway.state[SERVICE_KEY].root.still_there)
        except GatewayError as error:
            raise Degraded("the folder of BLOCKS__ROOT cannot be reached") from error
        if not same:
            raise Degraded("the folder of BLOCKS__ROOT was replaced: restart to serve the new one")

    return check


def _try_root(gateway: Gateway) -> None:
    """Open the folder as serving would; raises ConfigError."""
    settings = gateway.section(BlocksSettings)
    Root(served_folder(settings, gateway.settings.data_dir)).close()


def sweeper(gateway: Gateway) -> Callable[[], Awaitable[None]]:
    """A function that drops the checksums that nobody asked for in ``BLOCKS__KEEP``."""

    async def sweep() -> None:
        service = gateway.state[SERVICE_KEY]
        await service.store.sweep(service.settings.keep)

    return sweep


@asynccontextmanager
async def _listening(gateway: Gateway, catalogue: Catalogue) -> AsyncIterator[None]:
    """When another process found a digest wrong, nobody goes by memory any more."""

    async def listen() -> None:
        with gateway.wakeups.subscribe(_DISCARDED) as subscription:
            while True:
                if await subscription.wait(3600.0):
                    catalogue.discard_all()

    task = asyncio.create_task(listen(), name="blocks discarded")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
