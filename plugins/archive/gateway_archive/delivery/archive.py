"""One frozen archive as this process knows it: its layout, the CRC-32s so far, its losses, and who serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.layout.model import Layout, Segment
from gateway_archive.layout.segments import Contradiction, SegmentMap
from gateway_archive.ledger.layouts import Stamp
from gateway_archive.report import Failure
from gateway_archive.tickets import OnError, Ticket
from gateway_core import Client, SourceChanged, SourceFailed, SourceInfo, SourceRequest

_LEARNED_AT_ONCE = 2000


@dataclass(slots=True, eq=False)
class Serving:
    """Where one answer stands: the entry and source byte it gives next, and the entry with which it ends.

    ``waits`` is set while it needs what others serve: nobody may wait for it then.
    """

    entry: int
    position: int
    last: int
    waits: bool = False


class Archive:
    """Shared by all answers of one layout in this process.

    ``stamp`` is what the database says of the layout; while it is None, or another layout's, this one is shown to
    nobody yet. ``owner`` is the ticket's client as it is now.
    """

    def __init__(self, ticket: Ticket, format_name: str, layout: Layout, *, owner: Client, stamp: Stamp | None) -> None:
        self.ticket, self.format_name, self.layout = ticket, format_name, layout
        self.owner, self.stamp = owner, stamp
        self.segments = SegmentMap(layout.frozen)
        self.proven = layout.frozen.proven
        """Whether every file's version can be proven: ``Frozen.proven``, which looks at all of them."""
        self.losses: dict[int, Failure] = {}
        self.disproved: set[FrozenEntry] = set()
        """What sources said of files whose bytes showed otherwise."""
        self.served: list[Serving] = []
        self.seen_until = 0.0
        self.listed = False
        """Whether an answer of this process has told what the archive's directory lists."""
        self.committing = asyncio.Lock()

    @property
    def frozen(self) -> Frozen:
        """What the layout is made of."""
        return self.layout.frozen

    @property
    def stored(self) -> bool:
        """Whether this is the layout that the database has."""
        return self.stamp is not None and self.stamp.etag == self.layout.etag

    @property
    def reports(self) -> bool:
        """Whether what is missing is told in the archive."""
        return self.frozen.on_error is OnError.REPORT

    def crc32(self, entry: int) -> int | None:
        """Of a whole entry; None while parts of it are missing."""
        return self.segments.crc32(entry)

    def sure_crc32(self, entry: int) -> int:
        """Of an entry that was completed; raises SourceFailed when it is not known after all."""
        known = self.segments.crc32(entry)
        if known is None:
            raise SourceFailed(f"the CRC-32 of {self.frozen[entry].name} is not known")
        return known

    def tells(self, entry: int) -> bool:
        """Whether its segments are worth keeping: for a CRC-32, or for the proof that it was one version."""
        return self.segments.crc32(entry) is None or self.frozen[entry].validator is None

    def seen_beyond(self, entry: int, position: int) -> bool:
        """Whether source bytes of ``entry`` behind ``position`` went out in an answer, as far as this process knows."""
        if self.frozen[entry].crc32 is None and self.segments.crc32(entry) is not None:
            return True
        if any(run.end > position for run in self.segments.runs(entry)):
            return True
        others = [serving for serving in self.served if serving.entry >= entry]
        return len(others) > 1 or any(serving.position > position for serving in others if serving.entry == entry)

    async def learn(self, segments: Iterable[Segment]) -> None:
        """Take note of what others saw; what contradicts itself is left to those who read it again."""
        for number, segment in enumerate(segments, 1):
            with suppress(Contradiction):
                self.segments.add(segment)
            if not number % _LEARNED_AT_ONCE:
                await asyncio.sleep(0)

    def expect(self, entry: int, info: SourceInfo) -> None:
        """Raise SourceChanged when a source has another size than the frozen one; its validator was asked for."""
        size = self.frozen.size(entry)
        if info.size_bytes is not None and info.size_bytes != size:
            raise SourceChanged(f"it has {info.size_bytes} and not {size} bytes")

    def request(self, entry: int, offset: int, end: int, *, stall_s: float) -> SourceRequest:
        """Bytes ``offset`` to before ``end`` of an entry's source, as the ticket's owner."""
        frozen = self.frozen[entry]
        item = self.ticket.items[frozen.item]
        whole = end == frozen.size
        return SourceRequest(
            item.url,
            client=self.owner,
            offset=offset,
            length=None if whole else end - offset,
            validator=frozen.validator,
            unproven=frozen.validator is None,
            headers=item.headers or {},
            stall_s=stall_s,
        )

    @contextmanager
    def serving(self, last: int) -> Iterator[Serving]:
        """Count an answer among those that are under way, up to entry ``last``."""
        here = Serving(0, 0, last)
        self.served.append(here)
        try:
            yield here
        finally:
            self.served.remove(here)

    def comes_soon(self, segment: tuple[int, int, int], me: Serving | None) -> bool:
        """Whether an answer of this process will serve ``(entry, start, end)`` about as soon as it could be read."""
        entry, start, end = segment
        for other in self.served:
            if other is me or other.waits or not other.entry <= entry <= other.last:
                continue
            if other.entry == entry and other.position > start:
                continue
            distance = self.layout.start(entry) - self.layout.start(other.entry) + end - other.position
            if distance <= 2 * (end - start):
                return True
        return False

    def marked(self, stale: Iterable[int]) -> None:
        """Note that these items must be asked again before the archive is made anew."""
        if self.stamp is not None:
            self.stamp = replace(self.stamp, stale=self.stamp.stale | frozenset(stale))
