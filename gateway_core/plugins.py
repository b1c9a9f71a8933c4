"""Plugins: find (entry points) -> sort -> block -> import -> register -> report."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from gateway_core import hookspecs
from gateway_core.errors import GatewayError, PluginError
from gateway_core.observe.logs import get_logger
from gateway_core.settings import PluginSettings

GROUP = "gateway.plugins"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")  # it becomes part of GATEWAY_<NAME>__<KEY>

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
        if caller is None or not caller.has_spec():
            return
        for implementation in sorted(caller.get_hookimpls(), key=lambda i: i.plugin_name):
            wanted = {key: arguments[key] for key in implementation.argnames}
            try:
                result = implementation.function(**wanted)
            except GatewayError as exc:
                raise PluginError(f"plugin {implementation.plugin_name}: {exc.detail or exc.title}") from exc
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


@dataclass(frozen=True)
class _Found:
    """A plugin that can be loaded: ``value`` is its entry point, ``distribution`` and ``version`` whose it is."""

    name: str
    value: str
    distribution: str
    version: str
    load: Callable[[], Any]


def load_plugins(
    names: Sequence[str] | None = None, *, strict: bool = True, extra: Mapping[str, object] | None = None
) -> Plugins:
    """Load the installed plugins, or those of ``names``; raises PluginError that names distribution and entry point.

    With ``strict`` off, a plugin that fails is reported and left out. An unknown name is always an error. ``extra`` are
    modules or objects by name that count as installed, in place of an installed one of that name: for tests.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    found = _find(extra or {})
    for unknown in [name for name in names or () if name not in found]:
        raise PluginError(f"PLUGINS: no plugin {unknown!r} is installed; there are: {', '.join(found) or 'none'}")
    modules: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, plugin in found.items():
        if names is not None and name not in names:
            manager.set_blocked(name)
            continue
        try:
            _check_name(name)
            modules[name] = plugin.load()
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - the border where foreign code comes in; told or raised below
            _failed(plugin, exc, failed, strict=strict)
    _register(manager, modules, found, failed=failed, strict=strict)
    return Plugins(manager, [_info(plugin, manager, failed) for plugin in found.values()])


def _find(extra: Mapping[str, object]) -> dict[str, _Found]:
    """All plugins by name, in the order of names; raises PluginError when two distributions use one name."""
    found: dict[str, _Found] = {}
    for point in entry_points(group=GROUP):
        plugin = _installed(point)
        other = found.setdefault(plugin.name, plugin)
        if other is not plugin:
            raise PluginError(f"{other.distribution} and {plugin.distribution} both bring a plugin {plugin.name!r}")
    found.update({name: _given(name, plugin) for name, plugin in extra.items()})
    return dict(sorted(found.items()))


def _installed(point: EntryPoint) -> _Found:
    distribution, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
    return _Found(point.name, point.value, distribution, version, point.load)


def _given(name: str, plugin: object) -> _Found:
    return _Found(name, getattr(plugin, "__name__", type(plugin).__name__), "", "", lambda: plugin)


def _check_name(name: str) -> None:
    if name == "core" or not _NAME.fullmatch(name):
        raise PluginError("a plugin is called by lower-case letters, digits and single underscores, and not core")


def _register(
    manager: pluggy.PluginManager,
    modules: dict[str, Any],
    found: Mapping[str, _Found],
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
            _failed(found[name], exc, failed, strict=strict)
    for name, module in modules.items():
        if name in failed:
            continue
        try:
            manager.register(module, name=name)
            manager.check_pending()
        except Exception as exc:  # noqa: BLE001 - as above
            if manager.has_plugin(name):
                manager.unregister(name=name)
            _failed(found[name], exc, failed, strict=strict)


def _failed(plugin: _Found, exc: BaseException, failed: dict[str, str], *, strict: bool) -> None:
    text = f"plugin {plugin.name} ({plugin.distribution or '?'}, {plugin.value}): {type(exc).__name__}: {exc}"
    if strict:
        raise PluginError(text) from exc
    failed[plugin.name] = text


def _info(found: _Found, manager: pluggy.PluginManager, failed: Mapping[str, str]) -> PluginInfo:
    plugin = manager.get_plugin(found.name)
    callers = (manager.get_hookcallers(plugin) or []) if plugin is not None else []
    status = "failed" if found.name in failed else "enabled" if plugin is not None else "disabled"
    return PluginInfo(
        name=found.name,
        entry_point=found.value,
        distribution=found.distribution,
        version=found.version,
        status=status,
        hooks=tuple(sorted(caller.name for caller in callers)),
        error=failed.get(found.name, ""),
    )
