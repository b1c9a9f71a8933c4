"""What a source is: a URL scheme that yields bytes, for a client, from an offset, of one version."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from gateway_core.auth.client import Client


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source's bytes before they are read; None where it is not known.

    ``size_bytes`` is of the whole, not from an offset. ``validator`` is a strong ETag as sent (with quotes) or, where
    there is none, a Last-Modified date in HTTP form; ``strong`` tells whether it proves byte equality (RFC 9110 8.8).
    ``modified`` is Unix seconds, ``crc32`` of the whole, ``ranges`` whether an offset can be asked for.
    """

    size_bytes: int | None = None
    validator: str | None = None
    strong: bool = False
    modified: float | None = None
    media_type: str | None = None
    name: str | None = None
    crc32: int | None = None
    ranges: bool = False


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """Which bytes, for whom: from ``offset`` on, of the version that ``validator`` names when given.

    ``length``, 1 or more, says that only so many are wanted, None all to the end. Sources may send more, and readers
    cut; a source that can stop there spares both sides the rest. Where the content is shorter, it ends earlier.
    An offset without a validator is SourceChanged, unless ``unproven`` says that the caller answers for the version.
    ``headers`` are the caller's own for this URL and never reach another origin. ``stall_s`` is the longest silence
    that is borne, None for the source's own limit.
    """

    url: str
    client: Client = Client.ANONYMOUS
    offset: int = 0
    length: int | None = None
    validator: str | None = None
    unproven: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    stall_s: float | None = None


class SourceStream(Protocol):
    """Bytes as they come; ends only when all that was asked for was delivered, raises a SourceError otherwise."""

    @property
    def info(self) -> SourceInfo:
        """What the source said when it was opened."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks of any size, never empty; iterated once."""


@runtime_checkable
class Source(Protocol):
    """One URL scheme. Implementations pass ``gateway_core.testing.SourceConformance``."""

    async def check(self, url: str, client: Client) -> None:
        """Whether ``client`` may use ``url``: once when it is accepted, again when opened; raises SourceRefused."""

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """Look without reading; raises SourceRefused, SourceGone, SourceFailed or SourceStalled."""

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[SourceStream]:
        """Start reading at ``request.offset``.

        Raises SourceChanged when the version differs from ``request.validator`` or the offset cannot be served from
        that version, SourceRefused, SourceGone, SourceFailed, SourceStalled. Leaving early closes the connection.
        """

    def lane(self, url: str) -> str:
        """Key of per-host limits, such as ``https://host:443``; the same for URLs that load the same machine."""
