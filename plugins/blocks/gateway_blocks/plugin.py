"""The blocks plugin's front door."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway_blocks.settings import BlocksSettings
from gateway_core import Check, Gateway, MigrationSource, PluginSettings, Route, Source, hookimpl


@hookimpl
def gateway_settings() -> type[PluginSettings]:
    """The section ``blocks``."""
    return BlocksSettings


@hookimpl
def gateway_migrations() -> MigrationSource:
    """Versions of files and their checksums."""
    return MigrationSource("blocks", str(Path(__file__).parent / "migrations"))


@hookimpl
def gateway_routes(gateway: Gateway) -> Iterable[Route]:
    """The file server and ``/rd/``."""
    from gateway_blocks.sums.service import SWEEP_EVERY_S, sweeper
    from gateway_blocks.web.routes import blocks_routes

    gateway.every(SWEEP_EVERY_S, sweeper(gateway), "blocks.sweep")
    return blocks_routes(gateway)


@hookimpl
def gateway_sources(gateway: Gateway) -> Mapping[str, Source]:
    """``blocks:/path``."""
    from gateway_blocks.source import SCHEME, BlocksSource

    return {SCHEME: BlocksSource(gateway)}


@hookimpl
def gateway_lifespan(gateway: Gateway) -> AbstractAsyncContextManager[None]:
    """Files are served and hashed while the process serves."""
    from gateway_blocks.sums.service import lifespan

    return lifespan(gateway)


@hookimpl
def gateway_health(gateway: Gateway) -> Mapping[str, Check]:
    """Whether the root is there."""
    from gateway_blocks.sums.service import root_check

    return {"root": root_check(gateway)}


@hookimpl
def gateway_demo(gateway: Gateway, url: str) -> str:
    """A first verified download."""
    from gateway_blocks.files.serving import make_sample

    return make_sample(gateway.section(BlocksSettings), gateway.settings.data_dir, url=url)
