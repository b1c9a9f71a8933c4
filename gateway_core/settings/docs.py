"""The settings as a Markdown page: what the model knows, the page says."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway_core.settings.model import PluginSettings, Settings

_HEAD = """# Configuration

Settings come from, strongest first: the command line (`--host`, `--set archive.max_items=5`), the environment
(`GATEWAY_PORT`, `GATEWAY_ARCHIVE__MAX_ITEMS`), files named in the environment (`GATEWAY_DB_URL_FILE=/run/secrets/db`),
a Python file (`--config FILE` or `GATEWAY_CONFIG`), and the defaults below.

The Python file's UPPERCASE names are settings, and a plugin's section is a dict: `ARCHIVE = {"max_items": 500}`. Nobody
but its owner may be able to write to it. Lists are written `a,b` or as JSON; time spans as seconds or `90s`, `15m`,
`24h`, `7d`. A name that no setting has is an error, with the nearest that one has. `gateway config check` checks
everything without starting, `gateway config show` shows every value and where it was set.

This page is made by `gateway config docs`.
"""


def render_docs(sections: Mapping[str, type[PluginSettings]]) -> str:
    """The page, for the core and the given plugin sections."""
    parts = [_HEAD, "\n## Core\n\n", _table(Settings, "GATEWAY_", "")]
    for name, section in sorted(sections.items()):
        parts += [f"\n## Plugin `{name}`\n\n", _table(section, f"GATEWAY_{name.upper()}__", name)]
    return "".join(parts)


def _table(model: type[BaseModel], prefix: str, section: str) -> str:
    rows = ["| name | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if not section or name in model.model_fields:
            rows.append(f"| `{prefix}{name.upper()}` | {_type(field)} | {_default(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


def _type(field: FieldInfo) -> str:
    if any("parse_duration" in repr(part) for part in field.metadata):
        return "time span"
    return _named(field.annotation)


def _named(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _named(arguments[0])
    if origin in {Union, types.UnionType}:
        return _named(next(part for part in arguments if part is not type(None)))
    if origin in {tuple, list, set, frozenset}:
        return f"list of {_named(arguments[0])}"
    if origin is dict:
        return f"JSON object of {_named(arguments[1])}"
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in arguments)
    words = {str: "text", int: "whole number", float: "number", bool: "yes or no", Path: "path", SecretStr: "secret"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "see right"
    value = field.default
    if value in (None, "", ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"`{','.join(map(str, value))}`"
        if isinstance(value, tuple)
        else f"`{value:g}`"
        if isinstance(value, float)
        else f"`{value}`"
    )
