"""The archive plugin's front door."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from gateway_archive.settings import ArchiveSettings
from gateway_core import Authenticator, Gateway, MigrationSource, PluginSettings, Route, hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def gateway_settings() -> type[PluginSettings]:
    """The section ``archive``."""
    return ArchiveSettings


@hookimpl
def gateway_migrations() -> MigrationSource:
    """Tickets and turns."""
    return MigrationSource("archive", str(Path(__file__).parent / "migrations"))


@hookimpl
def gateway_routes(gateway: Gateway) -> Iterable[Route]:
    """FPX's routes and ours."""
    from gateway_archive.routes import archive_routes
    from gateway_archive.upkeep import SWEEP_EVERY_S, sweeper

    gateway.every(SWEEP_EVERY_S, sweeper(gateway), "archive.sweep")
    return archive_routes(gateway)


@hookimpl
def gateway_authenticators(gateway: Gateway) -> Iterable[Authenticator]:
    """The headers in which FPX clients send their secret."""
    from gateway_archive.authenticator import FpxHeaders

    return [FpxHeaders(gateway)]


@hookimpl
def gateway_lifespan(gateway: Gateway) -> AbstractAsyncContextManager[None]:
    """Downloads, while the process serves."""
    from gateway_archive.upkeep import lifespan

    return lifespan(gateway)


@hookimpl
def gateway_commands(cli: click.Group) -> None:
    """``gateway ticket``."""
    from gateway_archive.cli import ticket

    cli.add_command(ticket)


@hookimpl
def gateway_demo(url: str, secret: str) -> str:
    """A first ZIP."""
    from gateway_archive.cli import DEMO

    return DEMO.format(url=url, secret=secret)
