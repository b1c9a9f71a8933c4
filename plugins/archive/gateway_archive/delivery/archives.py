"""Where archives of known length are frozen, found, shared and renewed, for all answers of a process."""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence

from gateway_archive.delivery.archive import Archive
from gateway_archive.delivery.freezing import Freezer, apart, is_told, owner_of
from gateway_archive.delivery.lately import Lately
from gateway_archive.delivery.witness import UNSIZED, Witness
from gateway_archive.feed import SMALL_BYTES, Feed, FeedLimits
from gateway_archive.lanes import Lanes
from gateway_archive.layout.frozen import Frozen
from gateway_archive.layout.model import Layout
from gateway_archive.layout.tar_layout import TarLayout
from gateway_archive.layout.zip_layout import ZipLayout
from gateway_archive.ledger.layouts import Stamp
from gateway_archive.report import Failure
from gateway_archive.settings import ArchiveSettings
from gateway_archive.tickets import Ticket
from gateway_core import Gateway, SourceRequest, UpstreamFailed
from gateway_core.observe.logs import get_logger

FORMATS: Mapping[str, type[ZipLayout | TarLayout]] = {"zip": ZipLayout, "tar": TarLayout}

UNSIZED_FOR_S = 30.0
_FAILED_FOR_S = 5.0
_BROKEN_FOR_S = 600.0
ASK_AGAIN_AFTER_S = 10.0
_KEPT_ENTRIES = 50_000
_TRIES = 5
_IN_THREAD_ENTRIES = 1000

log = get_logger("gateway.archive")


class Archives:
    """One a process; what it holds in memory can be had again from the database."""

    def __init__(self, gateway: Gateway, settings: ArchiveSettings, *, lanes: Lanes, limits: FeedLimits) -> None:
        self.gateway, self.settings = gateway, settings
        self.witness = Witness(gateway, settings)
        self.stall_s = settings.stall_timeout_s
        self.small_bytes = min(SMALL_BYTES, limits.ahead_bytes)
        self._lanes, self._limits = lanes, limits
        self._freezer = Freezer(gateway, settings, lanes=lanes, learned=self.witness.learned)
        self._live: weakref.WeakValueDictionary[tuple[str, str], Archive] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[tuple[str, str], Archive] = OrderedDict()
        self._unsized, self._failed = Lately[str, None](), Lately[str, UpstreamFailed]()
        self._asked, self._broken = Lately[str, None](), Lately[tuple[str, int], Failure]()
        self._opening: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()

    async def open(self, ticket: Ticket, format_name: str = "zip") -> Archive | None:
        """The ticket's archive as it is frozen, or freeze it now; None when its length cannot be known.

        What was frozen now is stored by ``commit``. Raises UpstreamFailed when nothing of it can be had.
        """
        key = (ticket.id, format_name)
        lock = self._opening.get(key)
        if lock is None:
            lock = self._opening[key] = asyncio.Lock()
        async with lock:
            stamp = await self.witness.layouts.stamp(*key)
            archive = self._live.get(key)
            if archive is None or (stamp is not None and archive.layout.etag != stamp.etag):
                stored = stamp is not None and stamp.etag != UNSIZED
                archive = await self._load(ticket, format_name) if stored else None
                archive = archive or await self._freeze(ticket, format_name, stamp=stamp)
            elif stamp is not None:
                archive.stamp = stamp
            if archive is None:
                return None
            archive.owner = await owner_of(self.gateway, ticket)
            self._remember(key, archive)
        if archive.stored:
            await self.witness.refresh(archive)
        return archive

    async def renewed(self, archive: Archive) -> Archive | None:
        """What a download from the beginning shall get: ``archive``, or one without its losses and stale items.

        Files that could not be had are asked again. None as for ``open``.
        """
        stamp, ticket_id = archive.stamp, archive.ticket.id
        if stamp is None or not (stamp.stale or archive.losses or archive.frozen.failed_items):
            return archive
        broken = {item: failure for (broken_id, item), failure in self._broken.items() if broken_id == ticket_id}
        if stamp.stale - broken.keys():
            return await self._refrozen(archive, again=await stale_items(archive) - broken.keys(), without=broken)
        if stamp.stale:  # what broke off before would only be cut again
            return await self.without(archive, broken)
        lost = [archive.frozen[entry].item for entry in archive.losses]
        failed = [item for item in archive.frozen.failed_items if item not in broken]
        if not lost and (not failed or ticket_id in self._asked):
            return archive
        self._asked.put(ticket_id, None, ASK_AGAIN_AFTER_S)
        found = await self._freezer.refreeze(
            archive.ticket, archive.frozen, again=[*failed, *lost], without={}, crc32=archive.crc32
        )
        if found is not None and not lost and found.failed_items == archive.frozen.failed_items:
            return archive
        return await self._made_after(archive, found)

    async def rechecked(self, archive: Archive) -> Archive | None:
        """Another archive of the same ticket, for which all that may have been replaced is asked anew.

        None also when a source says again what its bytes have disproved: some answer HEAD otherwise than GET.
        """
        return await self._refrozen(archive, again=await stale_items(archive), without={})

    async def without(self, archive: Archive, failures: Mapping[int, Failure]) -> Archive | None:
        """Another archive of the same ticket without the items that have failed."""
        return await self._refrozen(archive, again=(), without=failures)

    async def _refrozen(
        self, archive: Archive, *, again: Collection[int], without: Mapping[int, Failure]
    ) -> Archive | None:
        found = await self._freezer.refreeze(
            archive.ticket, archive.frozen, again=again, without=without, crc32=archive.crc32
        )
        if found is not None and again and archive.disproved and not archive.disproved.isdisjoint(found):
            return None
        return await self._made_after(archive, found)

    async def _made_after(self, archive: Archive, found: Frozen | None) -> Archive | None:
        """What takes the archive's place; itself where nothing has changed, and then nothing of it is stale."""
        if found is not None:
            found.edition = archive.frozen.edition
            if archive.losses and archive.stamp is not None:
                found.edition = archive.stamp.generation
        made = await self._made(archive.ticket, archive.format_name, found, stamp=archive.stamp)
        if made is None or not made.stored:
            return made
        archive.stamp = await self._store(archive) or archive.stamp
        return archive

    async def _store(self, archive: Archive) -> Stamp | None:
        """As ``Layouts.store``, in the place of what was stored before."""
        ticket, etag, frozen = archive.ticket, archive.layout.etag, archive.frozen
        return await self.witness.layouts.store(
            ticket.id, archive.format_name, etag=etag, frozen=frozen, after=archive.stamp
        )

    async def commit(self, archive: Archive) -> bool:
        """Make a frozen archive last, before anybody sees it; False when another one was faster: ``open`` again."""
        async with archive.committing:
            if archive.stored:
                return True
            stamp = await self._store(archive)
            if stamp is None:
                self._forget(archive)
                return False
            archive.stamp = stamp
            self._remember((archive.ticket.id, archive.format_name), archive)
            return True

    def broke_off(self, archive: Archive, entry: int, failure: Failure) -> None:
        """Leave it out of the next downloads: a source may look well and break off again and again."""
        self._broken.put((archive.ticket.id, archive.frozen[entry].item), failure, _BROKEN_FOR_S)

    def feed(self, requests: Sequence[SourceRequest], *, large: Callable[[int], bool] | None = None) -> Feed:
        """The requests of one answer."""
        return Feed(self.gateway.sources, requests, lanes=self._lanes, limits=self._limits, large=large)

    async def _load(self, ticket: Ticket, format_name: str) -> Archive | None:
        found = await self.witness.layouts.load(ticket.id, format_name)
        return None if found is None else await self._made(ticket, format_name, found[1], stamp=found[0])

    async def _freeze(self, ticket: Ticket, format_name: str, *, stamp: Stamp | None) -> Archive | None:
        """In the place of the layout that ``stamp`` tells of, which is of another version."""
        if ticket.id in self._unsized:
            return None
        failed = self._failed.get(ticket.id)
        if failed is not None:
            raise UpstreamFailed(failed.detail, reasons=failed.reasons)
        try:
            frozen = await self._freezer.freeze(ticket)
        except UpstreamFailed as error:
            self._failed.put(ticket.id, error, _FAILED_FOR_S)
            raise
        if frozen is None:
            self._unsized.put(ticket.id, None, UNSIZED_FOR_S)
        return await self._made(ticket, format_name, frozen, stamp=stamp)

    async def _made(
        self, ticket: Ticket, format_name: str, frozen: Frozen | None, *, stamp: Stamp | None
    ) -> Archive | None:
        if frozen is None:
            return None
        owner = await owner_of(self.gateway, ticket)

        def make() -> Archive:
            layout: Layout = FORMATS[format_name](frozen)
            return Archive(ticket, format_name, layout, owner=owner, stamp=stamp)

        return await asyncio.to_thread(make) if len(frozen) > _IN_THREAD_ENTRIES else make()

    def _remember(self, key: tuple[str, str], archive: Archive) -> None:
        self._live[key] = self._recent[key] = archive
        self._recent.move_to_end(key)
        while len(self._recent) > 1 and sum(len(one.frozen) for one in self._recent.values()) > _KEPT_ENTRIES:
            self._recent.popitem(last=False)

    def _forget(self, archive: Archive) -> None:
        key = (archive.ticket.id, archive.format_name)
        if self._live.get(key) is archive:
            del self._live[key]
            self._recent.pop(key, None)


async def stale_items(archive: Archive) -> set[int]:
    """All items that must be asked when one is another than it was: many may have been replaced at once.

    Of what the ticket tells size and CRC-32 itself, only those that are known to be stale.
    """
    stale = set() if archive.stamp is None else archive.stamp.stale
    items = archive.ticket.items
    found = await apart(len(items), lambda: {n for n, item in enumerate(items) if n in stale or not is_told(item)})
    return found.union(archive.frozen.failed_items)
