"""Options of a step held against what its transformation declares, in Circe's form of a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCALARS = (str, int, float, bool)
_SHOWN_VALUES = 20


def check_options(description: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is wrong, by option; empty when all is well, and for a transformation that declares no options.

    A declared option is ``{"id", "values": {value: label}, "free_input"}``; where it has values and takes no free
    input, the option must be one of them. Numbers and booleans count as their text, as web forms send them.
    """
    declared = {
        str(option["id"]): option
        for option in description.get("options") or ()
        if isinstance(option, Mapping) and "id" in option
    }
    if not declared:
        return {}
    errors: dict[str, list[str]] = {}
    for name, value in options.items():
        if name not in declared:
            errors[name] = [f"No such option; there are: {', '.join(declared)}"]
        elif message := _wrong(declared[name], value):
            errors[name] = [message]
    return errors


def _wrong(option: Mapping[str, Any], value: object) -> str:
    values = option.get("values")
    if value is None or option.get("free_input") or not isinstance(values, Mapping) or not values:
        return ""
    if isinstance(value, _SCALARS) and _texts(value) & {str(known) for known in values}:
        return ""
    shown = ", ".join(str(known) for known in list(values)[:_SHOWN_VALUES])
    return f"Must be one of: {shown}{', ...' if len(values) > _SHOWN_VALUES else ''}"


def _texts(value: object) -> set[str]:
    """How forms and JSON write a value."""
    return {str(value), str(value).lower()} if isinstance(value, bool) else {str(value)}
