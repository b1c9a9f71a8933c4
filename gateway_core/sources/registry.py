"""Which source serves a URL."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager

from gateway_core.auth.client import Client
from gateway_core.errors import PluginError, SourceRefused
from gateway_core.sources.base import Source, SourceInfo, SourceRequest, SourceStream

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986 3.1


class SourceRegistry:
    """All sources by URL scheme, and itself a ``Source`` that passes each call on to the right one.

    A scheme without a source is SourceRefused.
    """

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._frozen = False

    @property
    def schemes(self) -> tuple[str, ...]:
        """Those that are served, sorted."""
        return tuple(sorted(self._sources))

    def register(self, scheme: str, source: Source) -> None:
        """Serve ``scheme`` (lower case) with ``source``; raises PluginError for a bad or taken one, or when frozen."""
        if not _SCHEME.fullmatch(scheme):
            raise PluginError(f"not a URL scheme: {scheme!r}")
        if scheme in self._sources:
            raise PluginError(f"two sources for the URL scheme {scheme!r}")
        if self._frozen:
            raise PluginError(f"source {scheme!r} registered after the start")
        self._sources[scheme] = source

    def freeze(self) -> None:
        """Take no more registrations."""
        self._frozen = True

    def find(self, url: str) -> Source:
        """The source of ``url``'s scheme; raises SourceRefused."""
        scheme, colon, _ = url.partition(":")
        source = self._sources.get(scheme.lower()) if colon else None
        if source is None:
            raise SourceRefused(f"only these URLs can be fetched: {', '.join(self.schemes)}")
        return source

    async def check(self, url: str, client: Client) -> None:
        """See ``Source.check``."""
        await self.find(url).check(url, client)

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """See ``Source.probe``."""
        return await self.find(request.url).probe(request)

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[SourceStream]:
        """See ``Source.open``; raises SourceRefused at once for an unknown scheme."""
        return self.find(request.url).open(request)

    def lane(self, url: str) -> str:
        """See ``Source.lane``."""
        return self.find(url).lane(url)
