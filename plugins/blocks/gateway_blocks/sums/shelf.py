"""Records in memory: as many as are wanted, the longest unused ones go first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from gateway_blocks.files.identity import Identity
from gateway_blocks.sums.record import Record

_MAX_RECORDS = 4096
_MAX_WEIGHT = 160_000  # blocks: some 20 MB


class Shelf:
    """By id, and by identity under whatever name. ``kept`` says of which records somebody still needs the object."""

    def __init__(self, kept: Callable[[Record], bool]) -> None:
        self._kept = kept
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._by_identity: dict[Identity, Record] = {}
        self._weight = 0

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def get(self, name: str) -> Record | None:
        """The record with this id, which counts as used."""
        record = self._records.get(name)
        if record is not None:
            self._records.move_to_end(name)
        return record

    def peek(self, identity: Identity) -> Record | None:
        """A record of this version of a file."""
        return self._by_identity.get(identity)

    def put(self, record: Record) -> None:
        """Keep ``record``, and let others go for it."""
        self._records[record.key.id] = record
        self._by_identity[record.key.identity] = record
        self._weight += record.weight
        for old in self:
            if self._weight <= _MAX_WEIGHT and len(self._records) <= _MAX_RECORDS:
                break
            if old is not record and not self._kept(old):
                self.remove(old)

    def remove(self, record: Record) -> None:
        """Let go of ``record``."""
        if self._records.get(record.key.id) is record:
            del self._records[record.key.id]
            self._weight -= record.weight
        if self._by_identity.get(record.key.identity) is record:
            del self._by_identity[record.key.identity]


def lately_asked(record: Record, within_s: float) -> bool:
    """Whether somebody asked for ``record`` in the last so many seconds."""
    return time.monotonic() - record.asked < within_s
