"""Downloads of tickets: who may begin, what is fetched for whom, and what is counted. Knows no HTTP."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import Counter, Gauge

from gateway_archive.delivery.archives import Archives
from gateway_archive.delivery.freezing import Requests, apart, owner_of
from gateway_archive.delivery.tracker import COMPLETED, Tracker
from gateway_archive.feed import Feed, FeedLimits
from gateway_archive.lanes import Lanes
from gateway_archive.ledger.responses import ABORTED
from gateway_archive.packing import Packer, PackPolicy, Write
from gateway_archive.report import public_url
from gateway_archive.settings import ArchiveSettings
from gateway_archive.store import TicketStore
from gateway_archive.tickets import Item, Orders, Ticket
from gateway_archive.turns import Place, Turns
from gateway_archive.zip_writer import Piece
from gateway_core import Client, Forbidden, Gateway, SourceRefused, SourceRequest, StateKey, TooManyRequests
from gateway_core.observe.events import DOWNLOAD_ABORTED, DOWNLOAD_COMPLETED, DOWNLOAD_STARTED, ITEM_FAILED
from gateway_core.settled import settled
from gateway_core.sources.resume import ResumePolicy, ResumingReader

ACTIVE = Gauge("gateway_archive_active_downloads", "Downloads under way", multiprocess_mode="livesum")
DOWNLOADS = Counter("gateway_archive_downloads_total", "Downloads by how they ended", ["outcome"])
SOURCE_BYTES = Counter("gateway_archive_source_bytes_total", "Bytes read from sources")
CRC_BYTES = Counter("gateway_archive_crc_bytes_total", "Bytes read from sources only for their CRC-32")
FAILED_ITEMS = Counter("gateway_archive_failed_items_total", "Items that could not be had", ["reason"])

_CHECKS_AT_ONCE = 200
NOT_YET = "You must wait until the download is available"


class Downloads:
    """The live part of the plugin, one a process."""

    def __init__(self, gateway: Gateway, settings: ArchiveSettings) -> None:
        self.gateway, self.settings = gateway, settings
        self.orders = Orders(settings)
        self.store = TicketStore(gateway, ttl_s=settings.ticket_ttl)
        self.lanes = Lanes(gateway.share(settings.per_host))
        self._limits = FeedLimits(settings.ahead_items, settings.ahead_bytes, settings.resume_tries)
        self.archives = Archives(gateway, settings, lanes=self.lanes, limits=self._limits)
        self.turns = Turns(gateway, limit=settings.max_active_downloads)
        self._max_active = gateway.share(settings.max_active_downloads)
        self._active = 0

    @asynccontextmanager
    async def admitted(self, ticket_id: str) -> AsyncIterator[None]:
        """Hold one of the places for active downloads.

        Raises Forbidden while the ticket waits in the queue; without a queue, TooManyRequests when all are taken.
        """
        turn: str | Place | None = None
        if self.settings.queue:
            turn = await self.turns.begin(ticket_id)
            if isinstance(turn, Place):
                raise Forbidden(f"{NOT_YET}: position {turn.position}", headers={"Retry-After": "5"})
        elif self._active >= self._max_active:
            raise TooManyRequests(f"{self._active} downloads are under way", retry_after_s=5)
        self._active += 1
        ACTIVE.inc()
        try:
            yield
        finally:
            self._active -= 1
            ACTIVE.dec()
            if isinstance(turn, str):
                await settled(self.turns.end(turn))

    async def check(self, ticket_items: tuple[Item, ...], client: Client) -> None:
        """Whether ``client`` may use every URL; raises SourceRefused that names the first item it may not use."""
        for index, item in enumerate(ticket_items):
            if index % _CHECKS_AT_ONCE == 0:
                await asyncio.sleep(0)  # ten thousand checks take half a second
            if item.is_folder:
                continue
            try:
                await self.gateway.sources.check(item.url, client)
            except SourceRefused as exc:
                raise SourceRefused(f"item {index}: {exc.detail or exc.title}") from exc

    async def pack(self, ticket: Ticket, write: Write, tracker: Tracker) -> None:
        """Write a ZIP whose length is not known beforehand; raises as ``Packer.run`` does."""
        requests = await self._requests(ticket)
        policy = PackPolicy(ticket.options.on_error, self.settings.max_total_bytes, ticket.created)
        async with Feed(self.gateway.sources, requests, lanes=self.lanes, limits=self._limits) as feed:

            async def count(pieces: Sequence[Piece]) -> None:
                tracker.entry = packer.tally.entry
                tracker.sent(sum(map(len, pieces)))
                await write(pieces)

            packer = Packer(ticket.items, feed, count, policy=policy)
            try:
                await packer.run()
            finally:
                tracker.source_bytes += packer.tally.source_bytes
                tracker.failures += packer.tally.failures

    @asynccontextmanager
    async def stream(self, request: SourceRequest) -> AsyncIterator[ResumingReader]:
        """One file as it is, continued where its source breaks off."""
        sources = self.gateway.sources
        policy = ResumePolicy(tries=self.settings.resume_tries)
        await sources.check(request.url, request.client)
        async with self.lanes.enter(sources.lane(request.url)):
            async with ResumingReader(sources, request, policy=policy) as reader:
                yield reader

    @asynccontextmanager
    async def answering(self, ticket: Ticket) -> AsyncIterator[Tracker]:
        """One answer with a body: admitted, counted, shown to the owner; complete when the client has taken all of it.

        A ticket for one use is used up once all of its archive has been taken, be it in many answers. Raises as
        ``admitted`` does.
        """
        tracker, state = self.archives.witness.tracker(ticket), ABORTED
        async with AsyncExitStack() as stack:
            async with self.admitted(ticket.id):
                self.gateway.emit(DOWNLOAD_STARTED, ticket=ticket.id, client=ticket.client_id)
                stack.push_async_callback(lambda: settled(self._ended(tracker, state)))
                async with tracker.saving():
                    yield tracker
                    state = COMPLETED

    async def _ended(self, tracker: Tracker, state: str) -> None:
        """The place is free again: what is left to be written down holds nobody up."""
        ticket = tracker.ticket
        await tracker.finish(state)
        self._count(tracker)
        DOWNLOADS.labels(state).inc()
        if state == COMPLETED and ticket.options.once and await self.archives.witness.all_taken(tracker):
            await self.store.drop(ticket.id)
        ended = DOWNLOAD_COMPLETED if state == COMPLETED else DOWNLOAD_ABORTED
        self.gateway.emit(ended, ticket=ticket.id, client=ticket.client_id)

    async def _requests(self, ticket: Ticket) -> Sequence[SourceRequest]:
        """What to fetch, as the ticket's owner."""
        items, owner = ticket.items, await owner_of(self.gateway, ticket)
        files = await apart(len(items), lambda: array("l", (n for n, item in enumerate(items) if not item.is_folder)))
        return Requests(ticket, files, owner, stall_s=self.settings.stall_timeout_s)

    def _count(self, tracker: Tracker) -> None:
        SOURCE_BYTES.inc(tracker.source_bytes)
        CRC_BYTES.inc(tracker.read_only_bytes)
        for failure in tracker.failures:
            FAILED_ITEMS.labels(failure.word).inc()
            self.gateway.emit(ITEM_FAILED, ticket=tracker.ticket.id, url=public_url(failure.url), reason=failure.reason)


DOWNLOADS_KEY: StateKey[Downloads] = StateKey("archive.downloads", Downloads)
