"""Dispatch of URLs to sources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway_core.auth.client import Client
from gateway_core.errors import PluginError, SourceRefused
from gateway_core.sources.base import Source, SourceInfo, SourceRequest, SourceStream
from gateway_core.sources.registry import SourceRegistry


@dataclass
class Named:
    """A source that says its name and remembers whom it was asked for."""

    name: str
    info: SourceInfo = field(default_factory=SourceInfo)
    checked: list[tuple[str, Client]] = field(default_factory=list)

    async def check(self, url: str, client: Client) -> None:
        self.checked.append((url, client))

    def lane(self, url: str) -> str:
        return self.name

    async def probe(self, request: SourceRequest) -> SourceInfo:
        return SourceInfo(name=self.name)

    @asynccontextmanager
    async def open(self, request: SourceRequest) -> AsyncIterator[SourceStream]:
        yield self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.name.encode()


def registry(*schemes: str) -> SourceRegistry:
    made = SourceRegistry()
    for scheme in schemes:
        made.register(scheme, Named(scheme))
    return made


def test_registry_is_a_source_itself() -> None:
    assert isinstance(registry(), Source)


@pytest.mark.parametrize("url", ["job:1/2", "JOB:1", "job:", "Job://x"])
async def test_url_goes_to_the_source_of_its_scheme(url: str) -> None:
    both = registry("blocks", "job")
    assert both.lane(url) == "job"
    assert (await both.probe(SourceRequest(url))).name == "job"
    async with both.open(SourceRequest(url)) as stream:
        assert [chunk async for chunk in stream] == [b"job"]


async def test_check_passes_the_client_on() -> None:
    client = Client("1" * 32, "a")
    made, named = SourceRegistry(), Named("job")
    made.register("job", named)
    await made.check("job:1", client)
    assert named.checked == [("job:1", client)]


@pytest.mark.parametrize("url", ["", "job", "/job:1", " job:1", "jobs:1", "file:///etc/passwd", "http://h/"])
async def test_url_of_no_source_is_refused(url: str) -> None:
    both = registry("blocks", "job")
    with pytest.raises(SourceRefused):
        await both.check(url, Client.ANONYMOUS)
    with pytest.raises(SourceRefused):
        both.open(SourceRequest(url))


def test_scheme_is_served_once() -> None:
    made = registry("job")
    with pytest.raises(PluginError, match="'job'"):
        made.register("job", Named("other"))


@pytest.mark.parametrize("scheme", ["", "Job", "1x", "a b", "job:", "ü"])
def test_bad_scheme_is_a_plugin_error(scheme: str) -> None:
    with pytest.raises(PluginError):
        registry(scheme)


def test_frozen_registry_takes_no_more() -> None:
    made = registry("job")
    made.freeze()
    with pytest.raises(PluginError):
        made.register("pipe", Named("pipe"))
    assert made.schemes == ("job",)
