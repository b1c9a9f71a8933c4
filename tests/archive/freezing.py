"""Freezing tickets against the stand's gateway, without a download."""

from __future__ import annotations

from typing import Any

from gateway_archive.delivery.freezing import Freezer
from gateway_archive.lanes import Lanes
from gateway_archive.layout.frozen import Frozen
from gateway_archive.ledger.learned import Learned
from gateway_archive.settings import ArchiveSettings
from gateway_archive.tickets import Item, OnError, Options, Ticket, TicketType
from tests.archive.stand import Stand

CREATED = 1_750_000_000.5
GONE = "gone: status 404"


def freezer_of(stand: Stand, **settings: Any) -> Freezer:
    core = stand.gateway.core
    return Freezer(core, ArchiveSettings(**settings), lanes=Lanes(32), learned=Learned(core, 3600))


def ticket_of(*items: Item | str, client_id: str = "nobody", **options: Any) -> Ticket:
    made = tuple(Item(item) if isinstance(item, str) else item for item in items)
    return Ticket(
        id="0" * 36,
        client_id=client_id,
        type=TicketType.ZIP,
        created=CREATED,
        expires=CREATED + 3600,
        options=Options(**options),
        items=made,
    )


async def frozen(stand: Stand, *items: Item | str, on_error: OnError = OnError.REPORT, **settings: Any) -> Frozen:
    found = await freezer_of(stand, **settings).freeze(ticket_of(*items, on_error=on_error))
    assert found is not None
    return found


def names(found: Frozen) -> list[str]:
    return [entry.name for entry in found]


def failed(found: Frozen) -> dict[str, str]:
    return {failure.name: failure.reason for failure in found.failures}
