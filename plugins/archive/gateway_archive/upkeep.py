"""What a serving process does beside the requests: sweep expired tickets, hold on to its turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway_archive.downloads import DOWNLOADS_KEY, Downloads
from gateway_archive.ledger.sweeping import sweep_ledger, sweep_machine
from gateway_archive.settings import ArchiveSettings
from gateway_archive.turns import RENEW_S
from gateway_core import Gateway, GatewayError
from gateway_core.observe.events import TICKET_EXPIRED
from gateway_core.observe.logs import get_logger

SWEEP_EVERY_S = 60.0
SWEEP_MACHINE_EVERY_S = 3600.0

log = get_logger("gateway.archive")


def sweeper(gateway: Gateway) -> Callable[[], Awaitable[None]]:
    """A function that removes expired tickets and what they carry."""

    async def sweep() -> None:
        count = await gateway.state[DOWNLOADS_KEY].store.sweep()
        await sweep_ledger(gateway, gateway.section(ArchiveSettings).remember_s)
        if count:
            gateway.emit(TICKET_EXPIRED, count=count)

    return sweep


@asynccontextmanager
async def lifespan(gateway: Gateway) -> AsyncIterator[None]:
    """Downloads of this process; where there is a queue, its turns are renewed meanwhile."""
    downloads = Downloads(gateway, gateway.section(ArchiveSettings))
    gateway.state[DOWNLOADS_KEY] = downloads
    tasks = [asyncio.create_task(_sweep_machine(gateway), name="archive journals")]
    if downloads.settings.queue:
        tasks.append(asyncio.create_task(_renew(downloads), name="archive turns"))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _sweep_machine(gateway: Gateway) -> None:
    while True:
        try:
            await sweep_machine(gateway)
        except (GatewayError, OSError) as exc:
            log.warning("journals were not swept", error=str(exc))
        await asyncio.sleep(SWEEP_MACHINE_EVERY_S)


async def _renew(downloads: Downloads) -> None:
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            await downloads.turns.renew()
        except GatewayError as exc:
            log.warning("turns were not renewed", error=str(exc))
