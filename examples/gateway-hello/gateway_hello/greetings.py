"""Greetings, and greetings as files: plain Python that knows nothing of HTTP servers."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote

from gateway_core import Client, Invalid, SourceChanged, SourceInfo, SourceRefused, SourceRequest

LONGEST_NAME = 100


def greet(greeting: str, name: str) -> str:
    """``Hello, Ada!``; raises Invalid for a name that cannot be said in one line."""
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise Invalid({"name": [f"1 to {LONGEST_NAME} printable characters."]}, location="path")
    return f"{greeting}, {name}!"


@dataclass(frozen=True)
class Card:
    """One greeting as a stream of bytes."""

    info: SourceInfo
    data: bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.data:
            yield self.data


class GreetingSource:
    """``hello:Ada``: a text file with one line, for whoever asks."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    async def check(self, url: str, client: Client) -> None:
        """Whether it is a name; raises SourceRefused otherwise."""
        del client  # everybody may be greeted
        self._card(url)

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """Its size and version."""
        return self._card(request.url).info

    @asynccontextmanager
    async def open(self, request: SourceRequest) -> AsyncIterator[Card]:
        """The card from ``request.offset`` on; raises SourceChanged when it says something else by now."""
        card = self._card(request.url)
        if request.validator not in {None, card.info.validator} or request.offset > len(card.data):
            raise SourceChanged("the greeting has changed")
        yield Card(card.info, card.data[request.offset :])

    def lane(self, url: str) -> str:
        """All greetings load the same machine."""
        return url.partition(":")[0]

    def _card(self, url: str) -> Card:
        name = unquote(url.partition(":")[2])
        try:
            data = (greet(self._greeting, name) + "\n").encode()
        except Invalid as error:
            raise SourceRefused(error.detail) from error
        validator = f'"{hashlib.sha256(data).hexdigest()}"'
        info = SourceInfo(
            size_bytes=len(data),
            validator=validator,
            strong=True,
            media_type="text/plain; charset=utf-8",
            name=f"{name}.txt",
            ranges=True,
        )
        return Card(info, data)
