"""Reading a block map while it comes: 20 bytes are kept of each block, whatever the length of the JSON.

The array of blocks is read piece by piece, the little JSON around it as a whole (contract: ``GET /rd/<path>``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DIGEST_BYTES = 20
MAX_BLOCKS = 1 << 22
MAX_JSON_BYTES = 256 << 20
_AROUND_BYTES = 1 << 16
_LONGEST_ENTRY_BYTES = 1 << 10
_KEY = re.compile(rb'"blocks"\s*:\s*\[')  # no string holds it: the quotes in it are escaped there
_ENTRY = re.compile(
    rb'\s*\[\s*([0-9]{1,19})\s*,\s*([0-9]{1,19})\s*,\s*([0-9]{1,19})\s*,\s*"([0-9A-Fa-f]{40}|pending)"\s*\]\s*([,\]])'
)
_NONE = re.compile(rb"\s*\]")
_LIKE_ENTRY = re.compile(rb"\s*\[\s*-?[0-9]")


class BrokenMapError(ValueError):
    """What came is a block map, but not a right one; the message says why."""


@dataclass(slots=True)
class Listed:
    """Blocks in file order, each beginning where the one before ends, all but the last of one length.

    ``first`` is the number of the first; ``start`` and ``stop`` are the offsets of their first byte and behind their
    last; ``unit_bytes`` is the length of the first, 0 without any. ``digests`` has 20 bytes a block, ``known`` a 1 for
    each block whose digest is not pending.
    """

    first: int = 0
    start: int = 0
    stop: int = 0
    unit_bytes: int = 0
    digests: bytearray = field(default_factory=bytearray)
    known: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.known)

    def digest(self, at: int) -> bytes:
        """The digest of the block at this place of the list, zeros where it is pending."""
        return bytes(self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])

    def add(self, number: int, digest: bytes, *, first: int, last: int) -> None:
        """One block more, ``last`` included; raises BrokenMapError where it does not follow from those before."""
        if not self.known:
            self.first, self.start, self.stop, self.unit_bytes = number, first, first, last - first + 1
        length = last - first + 1
        whole = self.stop - self.start == len(self.known) * self.unit_bytes
        if number != self.first + len(self.known) or first != self.stop or not 0 < length <= self.unit_bytes:
            raise BrokenMapError(f"block {number} does not follow from those before it")
        if not whole or number >= MAX_BLOCKS:
            raise BrokenMapError("it has too many blocks" if whole else f"block {number - 1} is too short")
        self.stop = last + 1
        self.digests += bytes(DIGEST_BYTES) if digest == b"pending" else bytes.fromhex(digest.decode())
        self.known.append(digest != b"pending")


@dataclass(frozen=True, slots=True)
class Told:
    """A server's answer: ``fields`` are all but the blocks, which are None where it has no such key."""

    fields: dict[str, Any]
    blocks: Listed | None


def read_map(pieces: Iterator[bytes]) -> Told | None:
    """What a server answers to ``GET /rd/<path>``; None where that is not the JSON of a block map or of its errors.

    Takes in no more of ``pieces`` than it needs to say so. Raises BrokenMapError, and what ``pieces`` raises.
    """
    text = _Text(pieces)
    head = text.until(_KEY)
    if head is None:
        return None if text.ended_with is None else _fields(text.ended_with, None)
    if not text.matches(_NONE) and not text.matches(_LIKE_ENTRY):
        return None  # blocks of another kind
    blocks = _listed(text)
    tail = text.rest()
    return _fields(head[: head.rindex(b"[")] + b"[]" + tail, blocks)


class _Text:
    """A text that comes in pieces, and how far it has been read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._ahead = b""
        self._position = 0
        self.ended_with: bytes | None = None
        """All of it, when it ended before what was looked for."""

    def until(self, pattern: re.Pattern[bytes]) -> bytes | None:
        """All up to and with the pattern; None where it is not found in the first 64 KiB of an object."""
        while True:
            begin = self._ahead.lstrip()
            if begin and not begin.startswith(b"{"):
                return None
            if found := pattern.search(self._ahead):
                self._position = found.end()
                return self._ahead[: found.end()]
            if len(self._ahead) > _AROUND_BYTES:
                return None
            if not self._more():
                self.ended_with = begin or None
                return None

    def matches(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """A match at the position, which stays where it is."""
        while (found := pattern.match(self._ahead, self._position)) is None:
            if len(self._ahead) - self._position > _LONGEST_ENTRY_BYTES or not self._more():
                return None
        return found

    def take(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """A match at the position, which moves behind it."""
        found = self.matches(pattern)
        if found is not None:
            self._position = found.end()
        return found

    def rest(self) -> bytes:
        """All from the position to the end; raises BrokenMapError beyond 64 KiB."""
        while len(self._ahead) - self._position <= _AROUND_BYTES:
            if not self._more():
                return self._ahead[self._position :]
        raise BrokenMapError("it goes on after its blocks")

    def _more(self) -> bool:
        piece = next(self._pieces, b"")
        self._ahead = self._ahead[self._position :] + piece if self._position else self._ahead + piece
        self._position = 0
        return bool(piece)


def _listed(text: _Text) -> Listed:
    blocks = Listed()
    if text.take(_NONE):
        return blocks
    while entry := text.take(_ENTRY):
        number, first, last, digest, ending = entry.groups()
        blocks.add(int(number), digest, first=int(first), last=int(last))
        if ending == b"]":
            return blocks
    raise BrokenMapError(f"what follows {len(blocks)} blocks is no block")


def _fields(text: bytes, blocks: Listed | None) -> Told | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenMapError("it is no JSON") from error
    if not isinstance(fields, dict):
        return None
    return Told(fields, blocks if "blocks" in fields else None)
