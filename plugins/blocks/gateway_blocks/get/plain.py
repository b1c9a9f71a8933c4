"""Files of servers without checksums: in ranges of one version where the server can say which version it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gateway_blocks.get.remote import PlainFacts

_BLOCK_BYTES = 1 << 20
_SETTLED_S = 60.0
"""A date tells versions apart only once it is as old as this (RFC 9110 8.8.2.2)."""


@dataclass(frozen=True, slots=True)
class PlainMap:
    """Blocks of a file whose checksums nobody knows."""

    size_bytes: int
    block_bytes: int = _BLOCK_BYTES
    known: int = 0

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.size_bytes // self.block_bytes)

    def digest(self, index: int) -> bytes | None:
        """Not known."""
        del index
        return None

    def span(self, index: int) -> tuple[int, int]:
        """Offsets of the block's first and last byte."""
        return index * self.block_bytes, min((index + 1) * self.block_bytes, self.size_bytes) - 1


def plain_map(facts: PlainFacts) -> PlainMap | None:
    """How to cut the file; None where it must come in one answer, as two might be of different versions."""
    nameless = facts.etag is None and facts.last_modified is None
    if not facts.size_bytes or not facts.ranges or nameless:
        return None
    return PlainMap(facts.size_bytes)


def strong_validator(facts: PlainFacts) -> str:
    """What names the version for good, so that a later run may go on with it; empty where nothing does."""
    if facts.etag is not None and not facts.etag.startswith("W/"):
        return facts.etag
    try:
        modified = parsedate_to_datetime(facts.last_modified or "").timestamp()
    except ValueError:
        return ""
    return facts.last_modified or "" if modified < time.time() - _SETTLED_S else ""
