"""The face for plugin authors: what stands here is stable within a major version.

Names are loaded when they are first used, so that commands which need little start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gateway_core.version import __version__

if TYPE_CHECKING:
    from gateway_core.auth.authenticators import Authenticator, client_of
    from gateway_core.auth.client import Client, Identity
    from gateway_core.db.migrate import MigrationSource
    from gateway_core.errors import (
        BadRequest,
        ConfigError,
        Conflict,
        DeadlineExceeded,
        Forbidden,
        GatewayError,
        Gone,
        Invalid,
        NotFound,
        ObjectMissing,
        SourceChanged,
        SourceError,
        SourceFailed,
        SourceGone,
        SourceRefused,
        SourceStalled,
        StorageError,
        TooLarge,
        TooManyRequests,
        Unauthorized,
        Unavailable,
        UpstreamFailed,
    )
    from gateway_core.gateway import Check, Degraded, Gateway, Role, StateKey
    from gateway_core.hookspecs import hookimpl, hookspec
    from gateway_core.observe.events import Event
    from gateway_core.routing import Body, Kind, Listener, Route
    from gateway_core.settings import PluginSettings, Seconds
    from gateway_core.sources.base import Source, SourceInfo, SourceRequest, SourceStream
    from gateway_core.storage.base import Storage, StoredObject
    from gateway_core.storage.registry import StorageFactory

_HOMES = {
    "gateway_core.auth.authenticators": ("Authenticator", "client_of"),
    "gateway_core.auth.client": ("Client", "Identity"),
    "gateway_core.db.migrate": ("MigrationSource",),
    "gateway_core.errors": (
        "BadRequest",
        "ConfigError",
        "Conflict",
        "DeadlineExceeded",
        "Forbidden",
        "GatewayError",
        "Gone",
        "Invalid",
        "NotFound",
        "ObjectMissing",
        "SourceChanged",
        "SourceError",
        "SourceFailed",
        "SourceGone",
        "SourceRefused",
        "SourceStalled",
        "StorageError",
        "TooLarge",
        "TooManyRequests",
        "Unauthorized",
        "Unavailable",
        "UpstreamFailed",
    ),
    "gateway_core.gateway": ("Check", "Degraded", "Gateway", "Role", "StateKey"),
    "gateway_core.hookspecs": ("hookimpl", "hookspec"),
    "gateway_core.observe.events": ("Event",),
    "gateway_core.routing": ("Body", "Kind", "Listener", "Route"),
    "gateway_core.settings": ("PluginSettings", "Seconds"),
    "gateway_core.sources.base": ("Source", "SourceInfo", "SourceRequest", "SourceStream"),
    "gateway_core.storage.base": ("Storage", "StoredObject"),
    "gateway_core.storage.registry": ("StorageFactory",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Authenticator",
    "BadRequest",
    "Body",
    "Check",
    "Client",
    "ConfigError",
    "Conflict",
    "DeadlineExceeded",
    "Degraded",
    "Event",
    "Forbidden",
    "Gateway",
    "GatewayError",
    "Gone",
    "Identity",
    "Invalid",
    "Kind",
    "Listener",
    "MigrationSource",
    "NotFound",
    "ObjectMissing",
    "PluginSettings",
    "Role",
    "Route",
    "Seconds",
    "Source",
    "SourceChanged",
    "SourceError",
    "SourceFailed",
    "SourceGone",
    "SourceInfo",
    "SourceRefused",
    "SourceRequest",
    "SourceStalled",
    "SourceStream",
    "StateKey",
    "Storage",
    "StorageError",
    "StorageFactory",
    "StoredObject",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UpstreamFailed",
    "__version__",
    "client_of",
    "hookimpl",
    "hookspec",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gateway_core' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
