"""What one range of an archive needs of its sources, in order."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload

from gateway_archive.delivery.archive import Archive
from gateway_archive.layout.model import Part
from gateway_core import SourceRequest


class Wanted(Sequence[SourceRequest]):
    """Requests of the entries of which bytes ``first`` to before ``end`` hold data; made when they are asked for.

    ``entries`` has the entry of each. Entries that are lost need no source.
    """

    def __init__(self, archive: Archive, first: int, end: int, *, stall_s: float) -> None:
        self._archive, self._first, self._end, self._stall_s = archive, first, end, stall_s
        layout = archive.layout
        self.begin, self.last = layout.locate(first), layout.locate(end - 1)
        edges = {entry for entry in (self.begin, self.last) if not self.part(entry).source_bytes}
        frozen = archive.frozen
        self.entries = array(
            "l",
            (
                entry
                for entry in range(self.begin, self.last + 1)
                if frozen.size(entry) and entry not in edges and entry not in archive.losses
            ),
        )

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> SourceRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SourceRequest]: ...
    def __getitem__(self, index: int | slice) -> SourceRequest | Sequence[SourceRequest]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        entry, start = self.entries[index], 0
        if self.begin < entry < self.last:
            end = self._archive.frozen.size(entry)
        else:
            part = self.part(entry)
            start, end = part.source_start, part.source_start + part.source_bytes
        return self._archive.request(entry, start, end, stall_s=self._stall_s)

    def part(self, entry: int) -> Part:
        """What of the entry's region lies in the range."""
        layout = self._archive.layout
        start = layout.start(entry)
        return layout.part(entry, max(0, self._first - start), min(self._end, layout.start(entry + 1)) - start)

    def bytes(self, index: int) -> int:
        """How many source bytes a request is for."""
        entry = self.entries[index]
        return self._archive.frozen.size(entry) if self.begin < entry < self.last else self.part(entry).source_bytes
