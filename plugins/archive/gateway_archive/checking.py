"""Looking before downloading: what of a ticket could be had, how large, and why not."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from gateway_archive.lanes import Lanes
from gateway_archive.names import NameRegistry, entry_name, folder_name, name_from_url
from gateway_archive.report import public_url
from gateway_archive.tickets import Item, Order
from gateway_core import Client, Source, SourceError, SourceRequest

PARALLEL = 16
DEADLINE_S = 60.0


class CheckedItem(BaseModel):
    """One item: ``size`` in bytes and ``type`` as its server says, ``reason`` when it cannot be had."""

    url: str
    name: str
    ok: bool
    size: int | None
    type: str | None
    reason: str | None


class CheckResult(BaseModel):
    """Answer of ``/ticket/check``; ``total_bytes`` counts the known sizes, ``failed`` the items that are not ok."""

    items: list[CheckedItem]
    total_bytes: int
    failed: int


async def check_order(order: Order, source: Source, client: Client, *, lanes: Lanes) -> CheckResult:
    """Probe every item, 16 at a time, within a minute in all; what was not answered by then has timed out."""
    names, limit = NameRegistry(), asyncio.Semaphore(PARALLEL)
    named = [(item, _name(item, names)) for item in order.items]

    async def one(item: Item, name: str) -> CheckedItem:
        known: dict[str, Any] = {"url": public_url(item.url), "name": name}
        if item.is_folder:
            return CheckedItem(**known, ok=True, size=0, type=None, reason=None)
        request = SourceRequest(item.url, client=client, headers=item.headers or {})
        try:
            async with asyncio.timeout_at(deadline), limit:
                await source.check(item.url, client)
                async with lanes.enter(source.lane(item.url)):
                    info = await source.probe(request)
        except SourceError as exc:
            reason = f"{exc.reason}: {exc.detail or exc.title}"
            return CheckedItem(**known, ok=False, size=None, type=None, reason=reason)
        except TimeoutError:
            return CheckedItem(**known, ok=False, size=None, type=None, reason="stalled: no answer in time")
        return CheckedItem(**known, ok=True, size=info.size_bytes, type=info.media_type, reason=None)

    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item, name)) for item, name in named]
    items = [task.result() for task in tasks]
    total = sum(item.size or 0 for item in items)
    return CheckResult(items=items, total_bytes=total, failed=sum(not item.ok for item in items))


def _name(item: Item, names: NameRegistry) -> str:
    if item.is_folder:
        path = folder_name((item.path or "") + "/" + (item.name or ""))
        return names.folder(path) or path
    return names.file(entry_name(item.path or "", item.name or name_from_url(item.url)))
