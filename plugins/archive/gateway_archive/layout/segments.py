"""What is known of the entries' CRC-32s, whole or in runs, learned from served bytes in whatever order. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from typing import Final

from isal.isal_zlib import crc32_combine

from gateway_archive.layout.frozen import Frozen
from gateway_archive.layout.model import Segment
from gateway_core.errors import SourceFailed

MAX_RUNS: Final = 1024
"""Most runs kept of one entry. Of more those that touch become one, or the shorter half is forgotten."""

_UNKNOWN: Final = -1

_Run = tuple[int, int, int]  # start, end, CRC-32


class Contradiction(SourceFailed):
    """The bytes of an entry have another CRC-32 than the one that was known."""


class SegmentMap:
    """CRC-32s of the entries of one ``Frozen``: some are known from the start, segments add up to the others.

    Folders and empty files are known: 0. A CRC-32 that the layout was given is taken as known, and is checked as soon
    as segments make up the whole entry. Making one of 100,000 entries takes nearly 0.1 s (in a thread, then) and 1 MB.
    """

    def __init__(self, frozen: Frozen) -> None:
        self._frozen = frozen
        self._crc32s = array("q", (self._given(index) for index in range(len(frozen))))
        self._checked = bytearray(len(frozen))
        self._runs: dict[int, list[_Run]] = {}
        self.complete_count = len(frozen) - self._crc32s.count(_UNKNOWN)
        """Entries whose CRC-32 is known."""
        self.version = 0
        """Counts up with each change."""

    def add(self, segment: Segment) -> None:
        """Learn a segment.

        What is known already counts for nothing. Of those that overlap the known one stays, but for a longer one.
        Raises Contradiction when a whole entry's CRC-32 is not the known one, which stays as it was, and ValueError
        for a segment that is not within its entry.
        """
        entry, start, length, crc32 = segment
        size = self._frozen.size(entry)
        if not 0 <= start <= segment.end <= size:
            raise ValueError(f"bytes {start} to {segment.end} of an entry of {size}")
        if length == size:
            self._complete(entry, crc32)
        elif length and not self._checked[entry] and self._keep(entry, (start, segment.end, crc32)):
            runs = self._runs[entry]
            if runs[0][0] == 0 and runs[-1][1] == size and len(joined := _joined(runs)) == 1:
                self._complete(entry, joined[0][2])

    def crc32(self, entry: int) -> int | None:
        """CRC-32 of a whole entry; None while it is unknown."""
        known = self._crc32s[entry]
        return None if known == _UNKNOWN else known

    def runs(self, entry: int) -> list[Segment]:
        """The runs from which the whole entry's CRC-32 cannot be told yet, in order and joined where they touch."""
        return [Segment(entry, start, end - start, crc32) for start, end, crc32 in _joined(self._runs.get(entry, ()))]

    def missing(self, entry: int) -> list[tuple[int, int]]:
        """Start and end of what no run covers, in order; nothing where the CRC-32 is known."""
        if self._crc32s[entry] != _UNKNOWN:
            return []
        found, position = [], 0
        for start, end, _ in self._runs.get(entry, ()):
            if start > position:
                found.append((position, start))
            position = end
        size = self._frozen.size(entry)
        return [*found, (position, size)] if position < size else found

    def next_cut(self, entry: int, position: int) -> int | None:
        """The first begin or end of a run behind ``position``: a segment that ends there can be joined with others."""
        for start, end, _ in _joined(self._runs.get(entry, ())):
            if end > position:
                return start if start > position else end
        return None

    def incomplete(self, entries: Iterable[int] | None = None) -> Iterator[int]:
        """Those of ``entries``, of all without them, whose CRC-32 is unknown, in order; looked at one by one."""
        if self.complete_count == len(self._crc32s):
            return iter(())
        wanted = range(len(self._crc32s)) if entries is None else entries
        return (entry for entry in wanted if self._crc32s[entry] == _UNKNOWN)

    def forget(self, entry: int) -> None:
        """Know no more of an entry than at the start."""
        known, self._crc32s[entry] = self._crc32s[entry], self._given(entry)
        self.complete_count += (known == _UNKNOWN) - (self._crc32s[entry] == _UNKNOWN)
        self._checked[entry] = False
        self._runs.pop(entry, None)
        self.version += 1

    def _given(self, entry: int) -> int:
        frozen = self._frozen[entry]
        if not frozen.size:
            return 0
        return _UNKNOWN if frozen.crc32 is None else frozen.crc32

    def _keep(self, entry: int, run: _Run) -> bool:
        """Whether it was worth it. Runs stay apart, so that one that grows takes the place of what it was before."""
        start, end, _ = run
        runs = self._runs.get(entry, [])
        first, last = bisect_left(runs, (start,)), bisect_left(runs, (end,))
        if first and runs[first - 1][1] > start:
            first -= 1
        if end - start <= sum(known_end - known_start for known_start, known_end, _ in runs[first:last]):
            return False
        runs[first:last] = [run]
        if len(runs) > MAX_RUNS:
            runs = _joined(runs)
            if len(runs) > MAX_RUNS // 2:
                runs = sorted(nlargest(MAX_RUNS // 2, runs, key=lambda kept: kept[1] - kept[0]))
        self._runs[entry] = runs
        self.version += 1
        return True

    def _complete(self, entry: int, crc32: int) -> None:
        known = self._crc32s[entry]
        forgotten = self._runs.pop(entry, None)
        if known not in (_UNKNOWN, crc32):
            self.version += forgotten is not None
            raise Contradiction(f"its CRC-32 is {crc32:08x} and not {known:08x}")
        if self._checked[entry]:
            return
        self._checked[entry] = True
        self._crc32s[entry] = crc32
        self.complete_count += known == _UNKNOWN
        self.version += 1


def _joined(runs: Sequence[_Run]) -> list[_Run]:
    """``runs`` with those in one that touch."""
    found: list[_Run] = []
    for start, end, crc32 in runs:
        if found and found[-1][1] == start:
            before = found.pop()
            found.append((before[0], end, crc32_combine(before[2], crc32, end - start)))
        else:
            found.append((start, end, crc32))
    return found
