"""Putting a gateway together: plugins, then settings, then the Gateway, then what the hooks register."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from gateway_core.app.wellknown import core_routes
from gateway_core.errors import ConfigError
from gateway_core.gateway import Gateway, Role
from gateway_core.plugins import Plugins, load_plugins
from gateway_core.settings import Inputs, Loaded, bootstrap, load_settings

T = TypeVar("T")


@dataclass(frozen=True)
class Composition:
    """A gateway that is ready to be opened, and what it was made from."""

    gateway: Gateway
    loaded: Loaded
    plugins: Plugins


def compose(inputs: Inputs, *, role: Role, extra: Mapping[str, object] | None = None) -> Composition:
    """Load the plugins, read the settings, register everything; opens nothing.

    ``extra`` are plugins that are not installed, see ``load_plugins``. Raises ConfigError (PluginError among them) that
    names what is wrong.
    """
    early = bootstrap(inputs)
    plugins = load_plugins(early.plugins, strict=early.plugins_strict, extra=extra)
    loaded = load_settings(inputs, plugins.sections(), disabled=plugins.idle)
    gateway = Gateway(loaded.settings, plugins, role=role)
    gateway.plugin_infos = plugins.infos
    gateway.private_paths = (loaded.settings.data_dir, *inputs.private_files())
    register(gateway)
    return Composition(gateway, loaded, plugins)


def register(gateway: Gateway) -> None:
    """Ask the hooks and fill the gateway's registries; clashes raise ConfigError."""
    registries, hooks = gateway.registries, gateway.hooks
    for _, storages in hooks.each("gateway_storages"):
        _merge(registries.storages, storages, "storage scheme")
    for _, source in hooks.each("gateway_migrations"):
        if source.name in {known.name for known in gateway.migration_sources()}:
            raise ConfigError(f"migrations {source.name!r} are registered twice")
        registries.migrations.append(source)
    for _, authenticators in hooks.each("gateway_authenticators", gateway=gateway):
        registries.authenticators.extend(authenticators)
    for _, sources in hooks.each("gateway_sources", gateway=gateway):
        for scheme, source in sources.items():
            gateway.sources.register(scheme, source)
    registries.routes.add(core_routes(gateway), owner="core")
    for name, routes in hooks.each("gateway_routes", gateway=gateway):
        registries.routes.add(routes, owner=name, prefix=_prefix(gateway, name))
    for name, listeners in hooks.each("gateway_listeners", gateway=gateway):
        for listener in listeners:
            listener.address()
            if (name, listener.name) in {(owner, known.name) for owner, known in registries.listeners}:
                raise ConfigError(f"plugin {name}: two listeners are called {listener.name}")
            registries.listeners.append((name, listener))
    for name, checks in hooks.each("gateway_health", gateway=gateway):
        _merge(registries.checks, {f"{name}.{check}": fn for check, fn in checks.items()}, "health check")


def _prefix(gateway: Gateway, name: str) -> str:
    try:
        return gateway.settings.section(name).prefix
    except KeyError:
        return ""


def _merge(target: dict[str, T], extra: Mapping[str, T], what: str) -> None:
    if not isinstance(extra, Mapping):
        raise ConfigError(f"{what}s must come as a mapping, not {extra!r}")
    for key, value in extra.items():
        if key in target:
            raise ConfigError(f"{what} {key!r} is registered twice")
        target[key] = value
