"""Byte ranges to the letter of RFC 9110 14: what was asked for, and how one or several ranges are framed.

Nothing here touches a socket. A handler asks ``parse_range(applicable_range(...), size)`` and answers 200 for None, 206
with Content-Range for one range and 206 with ``MultipartRanges`` for several.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway_core.errors import RangeNotSatisfiable

MAX_PARTS = 128
"""Ranges answered at once; a set that is still larger after merging is refused (RFC 9110 14.2)."""

_SPECIFIER = re.compile(r"(?i:bytes)=(.*)", re.DOTALL)
# A position of more digits than this is no real request; RFC 9110 14.2 lets a server ignore any Range.
_RANGE_SPEC = re.compile(r"([0-9]{1,1000})-([0-9]{0,1000})|-([0-9]{1,1000})")
_UNSAFE_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 5.5 has tabs


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``first`` to ``last``, both included, counted from 0."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"no byte range: {self.first}-{self.last}")

    @property
    def length(self) -> int:
        """Number of bytes, at least 1."""
        return self.last - self.first + 1

    def content_range(self, size: int | None) -> str:
        """Value of Content-Range (RFC 9110 14.4); ``size`` in bytes of the whole, None while it is not known."""
        return f"bytes {self.first}-{self.last}/{'*' if size is None else size}"


def parse_range(value: str | None, size: int, *, max_parts: int = MAX_PARTS) -> list[ByteRange] | None:
    """Ranges that ``value``, a Range field, selects of ``size`` bytes, all inside it and in the order asked.

    Overlapping and adjacent ranges are merged and stand where the first of them stood (RFC 9110 15.3.7.2). None means
    to ignore the field and answer 200: it is absent, of another unit, invalid (14.1.1, 14.1.2), or asks for the end of
    an empty representation, which no Content-Range can express. Raises RangeNotSatisfiable when no byte is selected
    (15.5.17) or more than ``max_parts`` ranges are left after merging.
    """
    specs = _parse_specs(value)
    if specs is None:
        return None
    selected = [found for first, last in specs if (found := _select(first, last, size))]
    if not selected:
        if not size and any(first is None and last for first, last in specs):
            return None
        raise RangeNotSatisfiable(size)
    merged = _merge(selected)
    if len(merged) > max_parts:
        raise RangeNotSatisfiable(size)
    return merged


def _parse_specs(value: str | None) -> list[tuple[int | None, int | None]] | None:
    """(first, last), (first, None) and (None, suffix length) of a valid bytes specifier, None for anything else."""
    specifier = _SPECIFIER.fullmatch(value or "")
    if specifier is None:
        return None
    specs: list[tuple[int | None, int | None]] = []
    for element in specifier[1].split(","):
        text = element.strip(" \t")
        if not text:  # empty list elements are to be ignored (RFC 9110 5.6.1.2)
            continue
        match = _RANGE_SPEC.fullmatch(text)
        if match is None:
            return None
        if match[3]:
            specs.append((None, int(match[3])))
            continue
        first, last = int(match[1]), int(match[2]) if match[2] else None
        if last is not None and last < first:
            return None
        specs.append((first, last))
    return specs or None


def _select(first: int | None, last: int | None, size: int) -> ByteRange | None:
    """The bytes one spec selects, None when it selects none (RFC 9110 14.1.2)."""
    if first is None:
        suffix = min(last or 0, size)
        return ByteRange(size - suffix, size - 1) if suffix else None
    if first >= size:
        return None
    return ByteRange(first, size - 1 if last is None else min(last, size - 1))


def _merge(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """Union of ``ranges``; what was merged takes the earliest place of its members."""
    merged: list[tuple[int, ByteRange]] = []
    for place, current in sorted(enumerate(ranges), key=lambda item: item[1].first):
        if merged and current.first <= merged[-1][1].last + 1:
            earlier, open_range = merged[-1]
            merged[-1] = min(earlier, place), ByteRange(open_range.first, max(open_range.last, current.last))
        else:
            merged.append((place, current))
    return [found for _, found in sorted(merged, key=lambda item: item[0])]


def _new_boundary() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class MultipartRanges:
    """Framing of several ranges as ``multipart/byteranges`` (RFC 9110 14.6): the caller writes the bytes in between.

    For each range ``part_header(i)``, then its bytes; after the last one ``closing``. ``size`` is of the whole in
    bytes, ``media_type`` what a 200 would have said. The boundary is random, so no content can know it.
    """

    ranges: Sequence[ByteRange]
    size: int
    media_type: str = "application/octet-stream"
    boundary: str = field(default_factory=_new_boundary)

    def __post_init__(self) -> None:
        if not self.ranges or _UNSAFE_IN_HEADER.search(self.media_type):
            raise ValueError("multipart needs ranges and a media type without control characters")

    @property
    def content_type(self) -> str:
        """Value of the answer's Content-Type."""
        return f"multipart/byteranges; boundary={self.boundary}"

    def part_header(self, index: int) -> bytes:
        """What comes before the bytes of ``ranges[index]``."""
        lines = (
            "\r\n" if index else "",
            f"--{self.boundary}\r\n",
            f"Content-Type: {self.media_type}\r\n",
            f"Content-Range: {self.ranges[index].content_range(self.size)}\r\n\r\n",
        )
        return "".join(lines).encode("utf-8", "surrogateescape")

    @property
    def closing(self) -> bytes:
        """What comes after the bytes of the last range."""
        return f"\r\n--{self.boundary}--\r\n".encode("ascii")

    @property
    def length(self) -> int:
        """Content-Length of the whole answer, in bytes."""
        framing = sum(len(self.part_header(index)) for index in range(len(self.ranges)))
        return framing + sum(part.length for part in self.ranges) + len(self.closing)
