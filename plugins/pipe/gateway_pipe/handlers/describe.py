"""Which nouns there are, for GET of the empty noun and for whoever lists nodes.

``a/b`` and ``a_b`` are the same noun by RestPipe's rule; it is shown as ``a_b``, as the method is called.
"""

from __future__ import annotations

import inspect
from typing import Any

from gateway_pipe.handlers.load import Handlers, Method

_GIVEN = 2
"""``ctx`` and ``post_data``, which every method gets."""
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def catalogue(handlers: Handlers) -> dict[str, Any]:
    """``{"nouns": {noun: {"verbs": {"GET": {"parameters", "variadic", "doc"}}}}}``, sorted.

    A parameter has ``name``, ``required`` and, where there is one, ``annotation``, as text.
    """
    nouns: dict[str, Any] = {}
    for name, method in sorted(handlers.methods.items()):
        verb, _, noun = name.partition("_")
        nouns.setdefault(noun, {"verbs": {}})["verbs"][verb.upper()] = _described(method)
    return {"nouns": dict(sorted(nouns.items()))}


def nouns(handlers: Handlers) -> tuple[str, ...]:
    """The names in the catalogue."""
    return tuple(sorted({name.partition("_")[2] for name in handlers.methods}))


def _described(method: Method) -> dict[str, Any]:
    parameters = list(method.signature.parameters.values())
    named = [parameter for parameter in parameters if parameter.kind in _POSITIONAL][_GIVEN:]
    return {
        "parameters": [_parameter(parameter) for parameter in named],
        "variadic": any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters),
        "doc": inspect.getdoc(method.call) or "",
    }


def _parameter(parameter: inspect.Parameter) -> dict[str, Any]:
    told: dict[str, Any] = {"name": parameter.name, "required": parameter.default is inspect.Parameter.empty}
    kind = parameter.annotation
    if kind is not inspect.Parameter.empty:
        told["annotation"] = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    return told
