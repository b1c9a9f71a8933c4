"""What a ticket's archive was frozen to at its first request: order, names, sizes, dates, versions. Pure."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final, NamedTuple, Self

from gateway_archive.report import Failure
from gateway_archive.tickets import OnError

VERSION: Final = 1
"""Of the bytes that layouts make of it; stored layouts of another version are frozen anew."""

_UNKNOWN: Final = -1
_LINE_ENTRIES: Final = 2000
"""Few enough that reading or writing a line holds up other threads for some milliseconds only."""


class FrozenEntry(NamedTuple):
    """One file or folder: ``item`` is its place in the ticket, ``name`` its path, ``/`` at a folder's end.

    ``size`` in bytes; ``crc32`` and ``modified`` (Unix seconds) are None where unknown. ``validator`` proves a version
    of the source's bytes (see ``SourceInfo``); None where nothing does.
    """

    item: int
    name: str
    size: int
    crc32: int | None = None
    modified: int | None = None
    validator: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it holds no data and has no source."""
        return self.name.endswith("/")


class Frozen:
    """Columns of entries, to hold a hundred thousand of them in little memory, and what was left out from the start.

    ``failures`` are of files that could not be had, ``failed_items`` their places in the ticket. ``created`` is the
    ticket's, in Unix seconds: the date of the report. ``edition`` tells archives apart that are otherwise equal: of
    one that had losses some client may hold other bytes. Immutable once it is in a layout.
    """

    __slots__ = (
        "_crc32s",
        "_items",
        "_modified",
        "_names",
        "_sizes",
        "_validators",
        "created",
        "edition",
        "failed_items",
        "failures",
        "on_error",
    )

    def __init__(
        self,
        entries: Iterable[FrozenEntry],
        *,
        created: int,
        on_error: OnError = OnError.REPORT,
        failures: Iterable[tuple[int, Failure]] = (),
    ) -> None:
        self._items, self._sizes, self._crc32s, self._modified = array("q"), array("q"), array("q"), array("q")
        self._names: list[str] = []
        self._validators: list[str | None] = []
        self.failed_items: list[int] = []
        self.failures: list[Failure] = []
        self.created, self.on_error = created, on_error
        self.edition = 0
        for entry in entries:
            self.append(entry)
        for item, failure in failures:
            self.leave_out(item, failure)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> FrozenEntry:
        crc32, modified = self._crc32s[index], self._modified[index]
        return FrozenEntry(
            self._items[index],
            self._names[index],
            self._sizes[index],
            None if crc32 == _UNKNOWN else crc32,
            None if modified == _UNKNOWN else modified,
            self._validators[index],
        )

    def __iter__(self) -> Iterator[FrozenEntry]:
        return (self[index] for index in range(len(self)))

    def append(self, entry: FrozenEntry) -> None:
        """Put one more in, whose item comes behind those of the others."""
        self._items.append(entry.item)
        self._names.append(entry.name)
        self._sizes.append(entry.size)
        self._crc32s.append(_UNKNOWN if entry.crc32 is None else entry.crc32)
        self._modified.append(_UNKNOWN if entry.modified is None else entry.modified)
        self._validators.append(entry.validator)

    def leave_out(self, item: int, failure: Failure) -> None:
        """Note that the file of ``item`` could not be had."""
        self.failed_items.append(item)
        self.failures.append(failure)

    def learn(self, index: int, crc32: int) -> None:
        """Fill in the CRC-32 of an entry."""
        self._crc32s[index] = crc32

    def to_learn(self) -> Iterator[int]:
        """The entries of unknown CRC-32 whose version is proven by a validator."""
        for index, crc32 in enumerate(self._crc32s):
            if crc32 == _UNKNOWN and self._validators[index] is not None:
                yield index

    def size(self, index: int) -> int:
        """Bytes of an entry's data."""
        return self._sizes[index]

    @property
    def file_count(self) -> int:
        """Entries that are no folders."""
        return sum(not name.endswith("/") for name in self._names)

    @property
    def proven(self) -> bool:
        """Whether every file's version can be proven, by validator or CRC-32: only then may a download be resumed."""
        return all(
            validator is not None or crc32 != _UNKNOWN or size == 0
            for validator, crc32, size in zip(self._validators, self._crc32s, self._sizes, strict=True)
        )

    def digest(self, format_name: str) -> str:
        """32 hex digits over all that determines the bytes of an archive of that format, but for the sources' data."""
        found = hashlib.sha256(f"{VERSION} {format_name}\n".encode())
        for line in self.encode():
            found.update(line)
        return found.hexdigest()[:32]

    def encode(self) -> Iterator[bytes]:
        """Lines of JSON with their ends, the same for equal ones: what is common, then some thousand entries a line."""
        common = {
            "version": VERSION,
            "created": self.created,
            "edition": self.edition,
            "on_error": self.on_error.value,
            "failures": [asdict(failure) for failure in self.failures],
            "failed_items": self.failed_items,
        }
        yield _line(common)
        for first in range(0, len(self), _LINE_ENTRIES):
            yield _line(self._columns(slice(first, first + _LINE_ENTRIES)))

    def _columns(self, part: slice) -> list[Any]:
        numbers = (self._items, self._sizes, self._crc32s, self._modified)
        return [*(column[part].tolist() for column in numbers), self._names[part], self._validators[part]]

    @classmethod
    def decode(cls, lines: Iterable[bytes]) -> Self:
        """What ``encode`` gave, with line ends or without; raises ValueError for another version."""
        left = iter(lines)
        common = json.loads(next(left))
        if common.get("version") != VERSION:
            raise ValueError("a layout of another version")
        failures = zip(common["failed_items"], (Failure(**one) for one in common["failures"]), strict=True)
        found = cls((), created=common["created"], on_error=OnError(common["on_error"]), failures=failures)
        found.edition = common["edition"]
        columns: tuple[Any, ...] = (found._items, found._sizes, found._crc32s, found._modified)
        columns += (found._names, found._validators)
        for line in left:
            for column, values in zip(columns, json.loads(line), strict=True):
                column.extend(values)
        return found


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
