"""What becomes of an answer when a source cannot give what was promised."""

from __future__ import annotations

from gateway_archive.delivery.archive import Archive
from gateway_archive.delivery.archives import Archives
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.delivery.wanted import Wanted
from gateway_archive.feed import Feed
from gateway_archive.layout.model import Part
from gateway_archive.layout.segments import Contradiction
from gateway_archive.packing import BATCH_BYTES, Aborted
from gateway_archive.report import Failure
from gateway_archive.tickets import OnError
from gateway_core import SourceChanged, SourceError, UpstreamFailed


class Refrozen(Exception):
    """Before the first byte it showed that the archive must be another one; None: that its length cannot be known.

    ``in_parts`` says that a part of it may be asked for; else only the whole can be had.
    """

    def __init__(self, archive: Archive | None, *, in_parts: bool = True) -> None:
        super().__init__("frozen anew")
        self.archive, self.in_parts = archive, in_parts


class Failing:
    """Decides for one answer. ``begun`` is set once its head is out; ``whole`` says that it is sent from the start on.

    Before the head the archive can still become another one; after it the entry is filled up, where little is missing,
    or the connection is cut.
    """

    def __init__(self, archive: Archive, archives: Archives, tracker: Tracker, *, whole: bool) -> None:
        self._archive, self._archives, self._tracker, self._whole = archive, archives, tracker, whole
        self.begun = False

    async def may_go_on(self, part: Part, error: SourceError, *, given: int, offset: int) -> bool:
        """Whether zeros may stand for what is missing of the part's entry, which is lost then for everybody.

        ``given`` source bytes of the part came; the next would stand at ``offset`` in the archive.
        """
        archive, archives, entry = self._archive, self._archives, part.entry
        missing = archive.frozen.size(entry) - part.source_start - given
        if (
            (self._whole and not self.begun)
            or not archive.layout.can_lose
            or archive.frozen.on_error is OnError.ABORT
            or self._is_changed(entry, error)
            or missing > archives.settings.pad_bytes
            or len(archive.losses) + 1 >= len(archive.frozen)
        ):
            return False
        failure = self._failure(entry, error)
        if not await archives.witness.lose(archive, entry, failure, position=part.source_start + given, offset=offset):
            return False
        self._tracker.lost(failure)
        return True

    async def others(self, wanted: Wanted, feed: Feed, index: int) -> dict[int, Failure]:
        """Items after the ``index``-th that fail too, as far as the first batch goes: none need to be tried again."""
        archive, found, good_bytes = self._archive, dict[int, Failure](), 0
        if self.begun or archive.frozen.on_error is OnError.ABORT:
            return found
        for at in range(index + 1, len(wanted)):
            entry = wanted.entries[at]
            try:
                if await feed.take(at) is None:
                    async with feed.stream(at):
                        pass
            except SourceError as error:
                if not self._is_changed(entry, error):
                    found[archive.frozen[entry].item] = self._failure(entry, error)
            else:
                good_bytes += wanted.bytes(at)
            if good_bytes >= BATCH_BYTES:
                break
        return found

    async def verdict(self, entry: int, error: SourceError, *, others: dict[int, Failure] | None = None) -> Exception:
        """How the answer ends: Refrozen or UpstreamFailed before the head, Aborted after it."""
        archive, archives = self._archive, self._archives
        failure, changed = self._failure(entry, error), self._is_changed(entry, error)
        aborts = archive.frozen.on_error is OnError.ABORT
        if changed and self._whole:
            archive.disproved.add(archive.frozen[entry])
        if changed or (self.begun and not aborts):
            await archives.witness.doubt(archive, entry)
        if self.begun and not changed and not aborts:
            archives.broke_off(archive, entry, failure)
        if self.begun:
            return Aborted(f"{failure.name}: {failure.reason}")
        if changed:
            archive.marked([archive.frozen[entry].item])
            found = await archives.rechecked(archive)
            same = found is not None and found.layout.etag == archive.layout.etag
            return Refrozen(found, in_parts=not same)
        if aborts:
            return UpstreamFailed("a file of the ticket cannot be had", reasons=[failure.public()])
        without = {archive.frozen[entry].item: failure, **(others or {})}
        return Refrozen(await archives.without(archive, without))

    def _failure(self, entry: int, error: SourceError) -> Failure:
        frozen = self._archive.frozen[entry]
        return Failure.of(error, name=frozen.name, url=self._archive.ticket.items[frozen.item].url)

    def _is_changed(self, entry: int, error: SourceError) -> bool:
        """Whether the source has another version than the frozen one, which asking it again will show."""
        if isinstance(error, Contradiction):  # a CRC-32 that the ticket gives is the client's word, and stays as it is
            return self._archive.ticket.items[self._archive.frozen[entry].item].crc32 is None
        return isinstance(error, SourceChanged)
