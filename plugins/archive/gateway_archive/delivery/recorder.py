"""CRC-32s of what goes out to one client, noted before it does."""

from __future__ import annotations

from collections.abc import Callable

from isal.isal_zlib import crc32

from gateway_archive.delivery.archive import Archive
from gateway_archive.layout.model import Segment
from gateway_archive.layout.segments import Contradiction
from gateway_archive.ledger.journal import Journal


class Recorder:
    """Cuts the source bytes of one answer into segments: ``begin``, ``data``..., ``end`` for each entry.

    A segment also ends where one that is known begins or ends, so that they can be joined. ``flush`` must come before
    the bytes are written: a process that is killed has then noted all that a client can have had.
    """

    def __init__(self, archive: Archive, journal: Journal, keep: Callable[[Segment], None]) -> None:
        self._archive, self._journal, self._keep = archive, journal, keep
        self._closed: list[Segment] = []
        self._entry = self._start = self._position = self._crc32 = 0
        self._cut: int | None = None
        self._lasting = self._active = self._alone = False
        self.own: dict[int, int] = {}
        """CRC-32s of whole files that nothing proves to be the same for another answer."""

    @property
    def current(self) -> Segment | None:
        """The segment that is being made, None between entries and where it would tell nothing new."""
        if not self._lasting or self._position == self._start:
            return None
        return Segment(self._entry, self._start, self._position - self._start, self._crc32)

    def begin(self, entry: int, start: int) -> None:
        """Bytes of ``entry`` come, from ``start`` on."""
        frozen = self._archive.frozen[entry]
        # what came before of a source that proves nothing may be of another version
        self._alone = start == 0 and frozen.validator is None and frozen.crc32 is None
        self._lasting = self._archive.tells(entry)
        self._active = self._lasting or start == 0  # a whole pass over a known file still proves that it is the same
        self._entry = entry
        self._open(start)

    def data(self, chunk: bytes) -> None:
        """The next bytes. Raises Contradiction, as ``end`` does."""
        if not self._active:
            return
        size = len(chunk)
        if self._cut is None or self._position + size <= self._cut:
            self._crc32 = crc32(chunk, self._crc32)
            self._position += size
            return
        view = memoryview(chunk)
        while view:
            room = len(view) if self._cut is None else self._cut - self._position
            piece, view = view[:room], view[room:]
            self._crc32 = crc32(piece, self._crc32)
            self._position += len(piece)
            if self._position == self._cut:
                self._close()
                self._open(self._position)

    def end(self) -> None:
        """No more of this entry. Raises Contradiction when its CRC-32 is another than the one known before."""
        if self._active:
            self._active = False
            self._close()
        self._lasting = False

    def flush(self) -> None:
        """Note on this machine what has come so far."""
        current = self.current
        if self._closed or current is not None:
            closed, self._closed = self._closed, []
            self._journal.write(closed, current)

    def _open(self, start: int) -> None:
        self._start = self._position = start
        self._crc32 = 0
        cuts = self._lasting and not self._alone
        self._cut = self._archive.segments.next_cut(self._entry, start) if cuts else None

    def _close(self) -> None:
        segment = Segment(self._entry, self._start, self._position - self._start, self._crc32)
        if not segment.length:
            return
        self._start, self._crc32 = self._position, 0
        if self._alone and segment.length == self._archive.frozen.size(segment.entry):
            self.own[segment.entry] = segment.crc32
        segments = self._archive.segments
        before = segments.version
        try:
            segments.add(segment)
        except Contradiction:
            if not self._alone:
                raise
            segments.forget(segment.entry)
            segments.add(segment)
        if self._lasting and segments.version != before:  # else others had it
            self._closed.append(segment)
            self._keep(segment)
