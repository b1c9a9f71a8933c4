"""The core's own source against the suite that the sources of plugins must pass."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway_core.auth.client import Client
from gateway_core.sources.egress import EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.testing import SourceConformance, Upstream
from gateway_core.testing.upstream_behaviour import Status


class HttpBed:
    """Files of an upstream."""

    owner = Client.ANONYMOUS
    stranger = None

    def __init__(self, upstream: Upstream, client: GuardedClient) -> None:
        self.source = HttpSource(client)
        self._upstream = upstream

    async def put(self, name: str, data: bytes) -> str:
        return self._upstream.add(f"/{name}", data)

    async def remove(self, name: str) -> None:
        self._upstream.add(f"/{name}", b"", Status(404))


class TestHttpSource(SourceConformance):
    @pytest.fixture
    async def bed(self, upstream: Upstream) -> AsyncIterator[HttpBed]:
        async with GuardedClient(EgressPolicy(["127.0.0.0/8"])) as client:
            yield HttpBed(upstream, client)
