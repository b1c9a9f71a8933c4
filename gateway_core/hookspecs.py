"""Every hook of the core. The docstring is the contract.

Hooks are synchronous and only register: the asynchronous work is in the objects they return. A hook runs once, while
the gateway is put together; nothing is open then, so capture ``gateway`` and use its services later. Every hook is
optional, and argument names are part of the contract. All are stable within a major version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import TYPE_CHECKING

import pluggy

from gateway_core.gateway import Check, Gateway
from gateway_core.observe.events import Event
from gateway_core.settings import PluginSettings

if TYPE_CHECKING:
    import click

    from gateway_core.auth.authenticators import Authenticator
    from gateway_core.db.migrate import MigrationSource
    from gateway_core.routing import Listener, Route
    from gateway_core.sources.base import Source
    from gateway_core.storage.registry import StorageFactory

PROJECT = "gateway"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def gateway_settings() -> type[PluginSettings]:  # type: ignore[empty-body]
    """Return the plugin's settings model; its section is named like the plugin's entry point.

    ``GATEWAY_<NAME>__<KEY>`` sets a field, ``<NAME> = {...}`` in the settings file several. The section's ``prefix``
    applies to the plugin's routes.
    """


@hookspec
def gateway_hookspecs() -> ModuleType | type:  # type: ignore[empty-body]
    """Return a module or class with hookspecs of the plugin's own, so that other plugins can extend it.

    Implementers mark theirs ``@hookimpl(optionalhook=True)``, so that they load without the plugin. The plugin asks
    with ``gateway.hooks.each(name, ...)``.
    """


@hookspec
def gateway_routes(gateway: Gateway) -> Iterable[Route]:  # type: ignore[empty-body]
    """Return the plugin's routes. Two routes with equal method and path stop the start."""


@hookspec
def gateway_listeners(gateway: Gateway) -> Iterable[Listener]:  # type: ignore[empty-body]
    """Return ports of the plugin's own. They are bound before worker processes start, and served by each of them."""


@hookspec
def gateway_lifespan(gateway: Gateway) -> AbstractAsyncContextManager[None]:  # type: ignore[empty-body]
    """Return an async context manager that is entered when the core's services are open, in every server process.

    Fill ``gateway.state`` before the yield, stop what was started after it. They are left in reverse order, after the
    last request has ended.
    """


@hookspec
def gateway_authenticators(gateway: Gateway) -> Iterable[Authenticator]:  # type: ignore[empty-body]
    """Return objects with ``async authenticate(request) -> Identity | None``.

    The core's come first, then each plugin's; the first that does not return None decides. Return None for a
    credential of another scheme, raise Unauthorized for a bad one of yours.
    """


@hookspec
def gateway_storages() -> Mapping[str, StorageFactory]:  # type: ignore[empty-body]
    """Return storage factories by URL scheme: ``STORAGE_URL=<scheme>://...`` selects one."""


@hookspec
def gateway_sources(gateway: Gateway) -> Mapping[str, Source]:  # type: ignore[empty-body]
    """Return sources by URL scheme, without the colon. A scheme that is taken stops the start."""


@hookspec
def gateway_migrations() -> MigrationSource:  # type: ignore[empty-body]
    """Return where the plugin's Alembic revisions are; they run on their own, with a version table of their own."""


@hookspec
def gateway_health(gateway: Gateway) -> Mapping[str, Check]:  # type: ignore[empty-body]
    """Return named async checks for ``/readyz``; one that raises makes the gateway unready, its message is shown.

    A check that raises ``Degraded`` is listed without making the gateway unready; a text that it returns is shown.
    """


@hookspec
def gateway_commands(cli: click.Group) -> None:
    """Add click commands to ``cli``; a name that is taken stops the command line."""


@hookspec
def gateway_demo(gateway: Gateway, url: str, secret: str) -> str:  # type: ignore[empty-body]
    """Return what to show in ``gateway demo``: a sentence, and lines to paste into another terminal that work at once.

    ``url`` is where the demo will answer, ``secret`` its client's. Sample files may be made in the data folder.
    """


@hookspec
def gateway_event(event: Event) -> None:
    """Observe what happened, on the process where it happened. Never block; a failure is logged and hurts nobody."""


REGISTRATION: tuple[Callable[..., object], ...] = (gateway_settings, gateway_hookspecs, gateway_storages)
"""Hooks that are asked before there is a Gateway."""
