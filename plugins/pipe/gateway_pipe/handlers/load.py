"""Handler classes, found by name and made into one set of methods and hooks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gateway_core.errors import ConfigError
from gateway_core.observe.logs import get_logger
from gateway_pipe.handlers.marks import is_streaming
from gateway_pipe.handlers.nouns import VERBS

log = get_logger("gateway.pipe")

HOOKS = frozenset(
    {
        "connect_success",
        "connect_fail",
        "connection_added",
        "connection_removed",
        "idle",
        "start_hook",
        "stop_hook",
    }
)
"""Names of methods that are told what happens to links; a call never reaches them."""

_PREFIXES = tuple(f"{verb.lower()}_" for verb in VERBS)


@dataclass(frozen=True, slots=True)
class Method:
    """A handler's method: ``asynchronous`` where calling it blocks nothing, ``streams`` where it takes bodies so."""

    name: str
    call: Callable[..., Any]
    signature: inspect.Signature
    asynchronous: bool
    streams: bool


class Handlers:
    """Methods by name, and hooks: of each name all that there are."""

    def __init__(self, methods: Mapping[str, Method], hooks: Mapping[str, Sequence[Callable[..., Any]]]) -> None:
        self.methods = dict(methods)
        self.hooks = {name: tuple(calls) for name, calls in hooks.items()}

    @classmethod
    def load(
        cls, names: Iterable[str], *, extra: Iterable[type] = (), default: type, option: str = "pipe.handlers"
    ) -> Handlers:
        """One of each class that ``names`` (``module:Class``) and ``extra`` give, or of ``default`` without any.

        Raises ConfigError, which names ``option``, for a class that cannot be had or made, has nothing to call, or has
        a method that another one has too.
        """
        classes = [*(_found(name, option) for name in names), *extra] or [default]
        return cls.of([_made(found, option) for found in classes], option=option)

    @classmethod
    def of(cls, objects: Iterable[object], *, option: str = "pipe.handlers") -> Handlers:
        """The methods and hooks of ``objects``; raises ConfigError as ``load`` does."""
        methods: dict[str, Method] = {}
        owners: dict[str, str] = {}
        hooks: dict[str, list[Callable[..., Any]]] = {}
        for handler in objects:
            owner = f"{type(handler).__module__}:{type(handler).__qualname__}"
            mine, my_hooks = _methods(handler, owner), _hooks(handler)
            if not mine and not my_hooks:
                raise ConfigError(f"{option}: {owner} has no method such as get_time(self, ctx, post_data)")
            for name, method in mine.items():
                if name in owners:
                    raise ConfigError(f"{option}: {owners[name]} and {owner} both have {name}")
                owners[name], methods[name] = owner, method
            for name, hook in my_hooks.items():
                hooks.setdefault(name, []).append(hook)
        return cls(methods, hooks)


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether a call of ``function`` itself comes back at once: it gives a coroutine or an async generator."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _found(name: str, option: str) -> type:
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        raise ConfigError(f"{option}: expected module:Class, not {name!r}")
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"{option}: cannot import {module_name}: {type(exc).__name__}: {exc}") from exc
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        where = getattr(module, "__file__", None) or module_name
        raise ConfigError(f"{option}: no class {class_name} in {where}")
    return found


def _made(found: type, option: str) -> object:
    try:
        made: object = found()
    except (Exception, SystemExit) as exc:
        name = f"{found.__module__}:{found.__qualname__}"
        raise ConfigError(f"{option}: {name} cannot be made without arguments: {type(exc).__name__}: {exc}") from exc
    return made


def _methods(handler: object, owner: str) -> dict[str, Method]:
    methods = {}
    for name, call in _callables(handler, lambda name: name.startswith(_PREFIXES)).items():
        signature = _signature(call)
        if signature is None:
            log.warning("not a handler's method: it takes no ctx and post_data", handlers=owner, method=name)
            continue
        methods[name] = Method(name, call, signature, is_asynchronous(call), is_streaming(call))
    return methods


def _hooks(handler: object) -> dict[str, Callable[..., Any]]:
    return _callables(handler, HOOKS.__contains__)


def _callables(handler: object, wanted: Callable[[str], bool]) -> dict[str, Callable[..., Any]]:
    """What can be called of ``handler``, without running its properties."""
    found = {}
    for name in filter(wanted, dir(handler)):
        if not isinstance(inspect.getattr_static(handler, name, None), property):
            value = getattr(handler, name, None)
            if callable(value) and not isinstance(value, type):
                found[name] = value
    return found


def _signature(call: Callable[..., Any]) -> inspect.Signature | None:
    """None where it cannot take ``ctx`` and ``post_data``."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return None
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    positional = sum(
        kind in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD} for kind in kinds
    )
    return signature if positional >= 2 or inspect.Parameter.VAR_POSITIONAL in kinds else None
