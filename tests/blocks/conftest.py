"""Fixtures of the blocks tests: a folder that is served, and programs to download with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway_core.testing.harness import RunningGateway, running_gateway
from tests.blocks.files import aged

BLOCK = 64 << 10
"""Bytes in a block of these tests, unless they say otherwise."""


@dataclass(frozen=True)
class Served:
    """A gateway with the blocks plugin, and the folder it serves."""

    gateway: RunningGateway
    root: Path

    @property
    def url(self) -> str:
        return self.gateway.url

    def put(self, name: str, data: bytes) -> Path:
        """A file that is old enough for a strong ETag."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return aged(path)


MakeServed = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def make_served(tmp_path: Path, gateway_templates: Path) -> MakeServed:
    """``async with make_served({"public": False}, write_stall_s=1) as served:``."""

    @asynccontextmanager
    async def make(blocks: Mapping[str, Any] | None = None, **core: Any) -> AsyncIterator[Served]:
        root = tmp_path / "www"
        root.mkdir(exist_ok=True)
        section = {"root": str(root), "block_size": BLOCK, **(blocks or {})}
        settings = {"plugins": "blocks", "blocks": section, **core}
        async with running_gateway(tmp_path / "gateway", settings=settings, templates=gateway_templates) as gateway:
            yield Served(gateway, root)

    return make


@pytest.fixture
async def served(make_served: MakeServed) -> AsyncIterator[Served]:
    async with make_served() as found:
        yield found
