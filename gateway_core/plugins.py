"""Plugins: find (entry points) -> sort -> block -> import -> register -> report."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from gateway_core import hookspecs
from gateway_core.errors import PluginError
from gateway_core.observe.logs import get_logger
from gateway_core.settings import PluginSettings

GROUP = "gateway.plugins"

log = get_logger("gateway.plugins")


@dataclass(frozen=True)
class PluginInfo:
    """One installed plugin: ``status`` is enabled, disabled or failed, ``error`` says why it failed."""

    name: str
    entry_point: str
    distribution: str
    version: str
    status: str
    hooks: tuple[str, ...] = ()
    error: str = ""


class Plugins:
    """The loaded plugins; the typed face of pluggy's manager."""

    def __init__(self, manager: pluggy.PluginManager, infos: Sequence[PluginInfo]) -> None:
        self._manager = manager
        self.infos = tuple(infos)

    @property
    def enabled(self) -> tuple[str, ...]:
        """Names of the plugins that are loaded, sorted."""
        return tuple(info.name for info in self.infos if info.status == "enabled")

    @property
    def idle(self) -> frozenset[str]:
        """Names of installed plugins that are not loaded: disabled or failed."""
        return frozenset(info.name for info in self.infos if info.status != "enabled")

    def each(self, name: str, /, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call hook ``name`` plugin by plugin, in the order of names; yields (plugin, result) without the Nones.

        A failing plugin raises PluginError that names it. A hook nobody specified yields nothing.
        """
        caller = getattr(self._manager.hook, name, None)
        if caller is None:
            return
        for implementation in sorted(caller.get_hookimpls(), key=lambda i: i.plugin_name):
            wanted = {key: arguments[key] for key in implementation.argnames}
            try:
                result = implementation.function(**wanted)
            except Exception as exc:
                raise PluginError(f"plugin {implementation.plugin_name}: {name} failed: {exc!r}") from exc
            if result is not None:
                yield implementation.plugin_name, result

    def notify(self, name: str, /, **arguments: Any) -> None:
        """Call an observer hook; failures are logged and stay with the plugin that failed."""
        for implementation in getattr(self._manager.hook, name).get_hookimpls():
            try:
                implementation.function(**{key: arguments[key] for key in implementation.argnames})
            except Exception:
                log.exception("observer failed", plugin=implementation.plugin_name, hook=name)

    def sections(self) -> dict[str, type[PluginSettings]]:
        """Settings model by plugin name; raises PluginError when a plugin returns something else."""
        models: dict[str, type[PluginSettings]] = {}
        for name, model in self.each("gateway_settings"):
            if not (inspect.isclass(model) and issubclass(model, PluginSettings)):
                raise PluginError(f"plugin {name}: gateway_settings must return a PluginSettings class, not {model!r}")
            models[name] = model
        return models


def load_plugins(names: Sequence[str] | None = None, *, strict: bool = True) -> Plugins:
    """Load the installed plugins, or those of ``names``; raises PluginError that names distribution and entry point.

    With ``strict`` off, a plugin that fails is reported and left out. An unknown name is always an error.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}
    for unknown in [name for name in names or () if name not in found]:
        raise PluginError(f"PLUGINS: no plugin {unknown!r} is installed; there are: {', '.join(found) or 'none'}")
    modules: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, point in found.items():
        if names is not None and name not in names:
            manager.set_blocked(name)
            continue
        try:
            modules[name] = point.load()
        except Exception as exc:  # noqa: BLE001 - the border where foreign code comes in; told or raised below
            _failed(point, exc, failed, strict=strict)
    _register(manager, modules, {n: found[n] for n in modules}, failed=failed, strict=strict)
    return Plugins(manager, [_info(point, manager, failed) for point in found.values()])


def _register(
    manager: pluggy.PluginManager,
    modules: dict[str, Any],
    points: dict[str, EntryPoint],
    *,
    failed: dict[str, str],
    strict: bool,
) -> None:
    """Add every plugin's own hookspecs first, then the plugins, so that their order does not matter."""
    for name, module in modules.items():
        try:
            specs = getattr(module, "gateway_hookspecs", None)
            if specs is not None:
                manager.add_hookspecs(specs())
        except Exception as exc:  # noqa: BLE001 - as above
            _failed(points[name], exc, failed, strict=strict)
    for name, module in modules.items():
        if name in failed:
            continue
        try:
            manager.register(module, name=name)
            manager.check_pending()
        except Exception as exc:  # noqa: BLE001 - as above
            if manager.has_plugin(name):
                manager.unregister(name=name)
            _failed(points[name], exc, failed, strict=strict)


def _failed(point: EntryPoint, exc: Exception, failed: dict[str, str], *, strict: bool) -> None:
    distribution = point.dist.name if point.dist else "?"
    text = f"plugin {point.name} ({distribution}, {point.value}): {type(exc).__name__}: {exc}"
    if strict:
        raise PluginError(text) from exc
    failed[point.name] = text


def _info(point: EntryPoint, manager: pluggy.PluginManager, failed: dict[str, str]) -> PluginInfo:
    plugin = manager.get_plugin(point.name)
    callers = (manager.get_hookcallers(plugin) or []) if plugin is not None else []
    status = "failed" if point.name in failed else "enabled" if plugin is not None else "disabled"
    return PluginInfo(
        name=point.name,
        entry_point=point.value,
        distribution=point.dist.name if point.dist else "",
        version=point.dist.version if point.dist else "",
        status=status,
        hooks=tuple(sorted(caller.name for caller in callers)),
        error=failed.get(point.name, ""),
    )
