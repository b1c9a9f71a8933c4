"""Find transformations: in modules, as Circe does, and by name, as plugins give them."""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gateway_transform.box.context import Entry

#: Names of the first three parameters, by which Circe knows a transformation.
_PARAMETERS = ["working_dir", "logger", "options"]


class Unloadable(Exception):
    """A module or a transformation cannot be had, or a name is given twice; the message names it."""


@dataclass(slots=True)
class Catalogue:
    """What can run, and what is hidden as something that it needs is not here (name -> reason)."""

    entries: dict[str, Entry] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Needs:
    """The attribute ``needs`` (``api.Needs.described``), checked."""

    seconds: float | None
    memory_mb: int | None
    network: bool
    modules: tuple[str, ...]
    programs: tuple[str, ...]
    libraries: tuple[str, ...]
    preload: tuple[str, ...]


def load(modules: Iterable[str], named: Mapping[str, str]) -> Catalogue:
    """Import ``modules`` and what ``named`` points to (``module:attribute``); raises Unloadable.

    The same callable may come by two ways; two callables of one name may not.
    """
    found = Catalogue()
    calls: dict[str, Callable[..., object]] = {}
    for name, call in _all(modules, named):
        if name in calls:
            if calls[name] is not call:
                raise Unloadable(f"two transformations are named {name!r}: {_place(calls[name])} and {_place(call)}")
            continue
        calls[name] = call
        needs = _needs(name, call)
        if reason := _lacks(needs):
            found.hidden[name] = reason
        else:
            found.entries[name] = _entry(name, call, needs)
    return found


def _all(modules: Iterable[str], named: Mapping[str, str]) -> Iterator[tuple[str, Callable[..., object]]]:
    for module_name in dict.fromkeys(modules):
        yield from _in_module(_imported(module_name, f"module {module_name!r}"))
    for name, target in named.items():
        yield name, _named(name, target)


def _imported(module_name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise Unloadable(f"{what} cannot be imported: {type(error).__name__}: {error}") from error


def _in_module(module: ModuleType) -> Iterator[tuple[str, Callable[..., object]]]:
    """Its own public functions and classes, those of its submodules that it shows, and what ``__all__`` lists."""
    listed = getattr(module, "__all__", None)
    for name in listed if listed is not None else vars(module).copy():
        if not isinstance(name, str) or (name.startswith("_") and listed is None):
            continue
        call = getattr(module, name, None)
        if not (inspect.isfunction(call) or inspect.isclass(call)) or not _looks_right(call):
            continue
        home = getattr(call, "__module__", None) or ""
        if listed is not None or f"{home}.".startswith(f"{module.__name__}."):
            yield name, call


def _looks_right(call: Callable[..., object]) -> bool:
    """Whether three positional arguments of the known names can be given, and no more are asked for."""
    try:
        signature = inspect.signature(call)
        signature.bind(*_PARAMETERS)
    except (TypeError, ValueError):
        return False
    return list(signature.parameters)[:3] == _PARAMETERS


def _named(name: str, target: str) -> Callable[..., object]:
    what = f"transformation {name!r} ({target})"
    module_name, _, attribute = target.partition(":")
    found: Any = _imported(module_name, what)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise Unloadable(f"{what} is no callable")
    call: Callable[..., object] = found
    return call


def _place(call: Callable[..., object]) -> str:
    return f"{getattr(call, '__module__', '?')}.{getattr(call, '__qualname__', '?')}"


def _entry(name: str, call: Callable[..., object], needs: _Needs) -> Entry:
    return Entry(
        name=name,
        call=call,
        description=_description(name, call),
        seconds=needs.seconds,
        memory_mb=needs.memory_mb,
        network=needs.network,
        deterministic=bool(getattr(call, "deterministic", False)),
        version=str(getattr(call, "version", "")),
        preload=needs.preload,
    )


def _description(name: str, call: Callable[..., object]) -> dict[str, Any]:
    """Circe's form; what is left out gets Circe's default."""
    said = getattr(call, "description", None)
    default: dict[str, Any] = {"label": name, "help": name, "options": []}
    whole = default | (dict(said) if isinstance(said, Mapping) else {})
    if not isinstance(whole["options"], list | tuple):
        raise Unloadable(f"transformation {name!r}: the options of its description are no list")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(whole, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Unloadable(f"transformation {name!r}: its description cannot be shown: {error}") from error
    return plain


def _needs(name: str, call: Callable[..., object]) -> _Needs:
    said = getattr(call, "needs", None)
    if said is None:
        said = {}
    if not isinstance(said, Mapping):
        raise Unloadable(f"transformation {name!r}: its needs are no mapping")
    memory = _number(name, said, "memory_mb")
    return _Needs(
        seconds=_number(name, said, "seconds"),
        memory_mb=None if memory is None else int(memory),
        network=bool(said.get("network", False)),
        modules=_names(name, said, "modules"),
        programs=_names(name, said, "programs"),
        libraries=_names(name, said, "libraries"),
        preload=_names(name, said, "preload"),
    )


def _number(name: str, said: Mapping[str, Any], key: str) -> float | None:
    value = said.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise Unloadable(f"transformation {name!r}: it needs {key} that are no positive number: {value!r}")
    return value


def _names(name: str, said: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = said.get(key, ())
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise Unloadable(f"transformation {name!r}: the {key} that it needs are no list")
    return tuple(str(each) for each in value)


def _lacks(needs: _Needs) -> str | None:
    """The first thing that is not on this machine; nothing is imported to find out."""
    for module_name in needs.modules:
        if not _is_importable(module_name):
            return f"the Python module {module_name} is not installed"
    for program in needs.programs:
        if not _is_in_path(program):
            return f"the program {program} is not installed"
    for library in needs.libraries:
        if not _can_be_loaded(library):
            return f"the library {library} is not installed"
    return None


def _is_importable(module_name: str) -> bool:
    """Whether the finders know it; a parent package is looked into, not run."""
    if module_name in sys.modules or module_name in sys.builtin_module_names:
        return True
    path: Iterable[str] | None = None
    full = ""
    for part in module_name.split("."):
        full = f"{full}.{part}" if full else part
        try:
            spec = importlib.machinery.PathFinder.find_spec(full, None if path is None else list(path))
        except (ImportError, ValueError, AttributeError):
            return False
        if spec is None:
            return False
        path = spec.submodule_search_locations or ()
    return True


@cache
def _can_be_loaded(library: str) -> bool:
    """Tried in a child, as boxes that never use it should not carry it."""
    child = os.fork()
    if child == 0:
        found = 1
        try:
            ctypes.CDLL(library)
            found = 0
        finally:
            os._exit(found)
    return os.waitpid(child, 0)[1] == 0


def _is_in_path(program: str) -> bool:
    folders = [""] if "/" in program else os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = [Path(folder, program) for folder in folders]
    return any(path.is_file() and os.access(path, os.X_OK) for path in paths)
