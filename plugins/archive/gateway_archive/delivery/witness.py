"""What all processes know of archives, and what an answer tells them: the ledger as a process uses it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Final

from gateway_archive.delivery.archive import Archive
from gateway_archive.delivery.tracker import Stores, Tracker
from gateway_archive.layout.frozen import Frozen
from gateway_archive.ledger.journal import Journal, adopt, read_journals
from gateway_archive.ledger.layouts import Layouts
from gateway_archive.ledger.learned import Learned, key_of
from gateway_archive.ledger.responses import Responses
from gateway_archive.ledger.segments import SegmentStore
from gateway_archive.ledger.together import Together
from gateway_archive.report import Failure
from gateway_archive.settings import ArchiveSettings
from gateway_archive.store import TicketStore
from gateway_archive.tickets import Ticket
from gateway_core import Gateway, GatewayError, Unavailable
from gateway_core.observe.logs import get_logger

UNSIZED: Final = "unsized"
"""In the place of an ETag: the ticket was last streamed without a length."""

_TRIES = 5

log = get_logger("gateway.archive")


class Witness:
    """Takes down what was served, lost or found wanting, and tells what others took down."""

    def __init__(self, gateway: Gateway, settings: ArchiveSettings) -> None:
        together = Together(gateway.db)
        self.layouts, self.responses = Layouts(gateway), Responses(gateway, together)
        self.tickets = TicketStore(gateway, ttl_s=settings.ticket_ttl)
        self.sums, self.learned = SegmentStore(gateway, together), Learned(gateway, settings.remember_s)
        self._instance = gateway.instance
        self._folder = gateway.settings.data_dir / "archive"

    async def refresh(self, archive: Archive) -> None:
        """Learn what other answers, processes and nodes have written down of this archive."""
        ticket_id, etag = archive.ticket.id, archive.layout.etag
        try:
            await self._read_journals(archive)
        except OSError as error:
            log.warning("journals cannot be read", ticket=ticket_id, error=str(error))
        found, archive.seen_until = await self.sums.load(ticket_id, etag, since=archive.seen_until)
        await archive.learn(found)
        losses = await self.layouts.losses(ticket_id, etag)
        archive.losses = dict(sorted({**archive.losses, **losses}.items()))  # none that came meanwhile goes

    async def lose(self, archive: Archive, entry: int, failure: Failure, *, position: int, offset: int) -> bool:
        """Give an entry up for good in this layout, for everybody.

        ``position`` is the first source byte that is missing, ``offset`` where it would stand in the archive. False
        when somebody may have its later bytes already, or the tail that lists it.
        """
        layout = archive.layout
        await self.refresh(archive)
        if entry in archive.losses:
            return True
        entry_end = layout.start(entry + 1)
        for begin, end in await self.responses.covered(archive.ticket.id, layout.etag):
            if end > layout.tail_offset or (begin < entry_end and end > offset):
                return False
        if archive.listed or archive.seen_beyond(entry, position):
            return False
        archive.losses[entry] = failure  # before it lasts: nobody shall list it meanwhile
        try:
            await self.layouts.lose(archive.ticket.id, layout.etag, entry=entry, failure=failure)
        except GatewayError:
            del archive.losses[entry]
            raise
        return True

    async def doubt(self, archive: Archive, entry: int) -> None:
        """Have the archive frozen anew before it is next downloaded from the beginning."""
        frozen = archive.frozen[entry]
        archive.marked([frozen.item])
        await self.layouts.mark_stale(archive.ticket.id, archive.format_name, archive.layout.etag, items=[frozen.item])
        if frozen.validator is not None:
            await self.learned.forget([key_of(archive.ticket, frozen)])

    async def mark_unsized(self, ticket: Ticket, format_name: str) -> None:
        """Write down, before the first byte, that the ticket is streamed without a length.

        Who has some of those bytes must not get the rest of an archive that is frozen later.
        """
        for _ in range(_TRIES):
            stamp = await self.layouts.stamp(ticket.id, format_name)
            if stamp is not None and stamp.etag == UNSIZED:
                return
            nothing = Frozen((), created=int(ticket.created))
            if await self.layouts.store(ticket.id, format_name, etag=UNSIZED, frozen=nothing, after=stamp):
                return
        raise Unavailable("the ticket's archive changes too often")

    async def all_taken(self, tracker: Tracker) -> bool:
        """Whether a completed answer, with those before it, has given all of what it belongs to."""
        if tracker.total is None:
            return tracker.gave_all
        covered = await self.responses.covered(tracker.ticket.id, tracker.etag)
        return covered == [(0, tracker.total)]

    def journal(self, archive: Archive) -> Journal:
        """Where an answer notes what it has sent."""
        return Journal(self._folder, archive.ticket.id, archive.layout.etag)

    def tracker(self, ticket: Ticket) -> Tracker:
        """Of one answer; it writes nothing down by itself."""
        stores = Stores(self.tickets, self.responses, self.sums, self.learned)
        return Tracker(ticket, self._instance, stores)

    async def _read_journals(self, archive: Archive) -> None:
        """Learn what answers on this machine noted; those of processes that were killed go into the database."""
        ticket_id, etag = archive.ticket.id, archive.layout.etag
        if not (self._folder / ticket_id).exists():
            return
        await archive.learn(await asyncio.to_thread(read_journals, self._folder, ticket_id, etag))
        left, files = await asyncio.to_thread(adopt, self._folder, ticket_id, etag)
        if left:
            await self.sums.save(uuid.uuid4().hex, ticket_id, etag, segments=left)
        for file in files:
            file.unlink(missing_ok=True)
