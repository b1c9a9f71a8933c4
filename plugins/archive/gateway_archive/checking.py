"""Looking before downloading: what of a ticket could be had, how large, and why not."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gateway_archive.lanes import Lanes
from gateway_archive.names import NameRegistry, entry_name, folder_name, name_from_url
from gateway_archive.probing import Answer, Prober
from gateway_archive.report import public_url
from gateway_archive.tickets import Item, Order
from gateway_core import Client, Source, SourceInfo, SourceRequest

DEADLINE_S = 60.0
_FOLDER = SourceInfo(size_bytes=0)


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
    """Probe every item, many at once, within a minute in all; what was not answered by then has timed out."""
    names = NameRegistry()
    named = [(item, _name(item, names)) for item in order.items]
    requests = [
        SourceRequest(item.url, client=client, headers=item.headers or {}) for item in order.items if not item.is_folder
    ]
    answers = iter(await Prober(source, lanes, timeout_s=DEADLINE_S).ask(requests))
    items = [_checked(item, name, _FOLDER if item.is_folder else next(answers)) for item, name in named]
    total = sum(item.size or 0 for item in items)
    return CheckResult(items=items, total_bytes=total, failed=sum(not item.ok for item in items))


def _checked(item: Item, name: str, answer: Answer) -> CheckedItem:
    known: dict[str, Any] = {"url": public_url(item.url), "name": name}
    if isinstance(answer, SourceInfo):
        return CheckedItem(**known, ok=True, size=answer.size_bytes, type=answer.media_type, reason=None)
    reason = "stalled: no answer in time" if answer is None else f"{answer.reason}: {answer.detail or answer.title}"
    return CheckedItem(**known, ok=False, size=None, type=None, reason=reason)


def _name(item: Item, names: NameRegistry) -> str:
    if item.is_folder:
        path = folder_name((item.path or "") + "/" + (item.name or ""))
        return names.folder(path) or path
    return names.file(entry_name(item.path or "", item.name or name_from_url(item.url)))
