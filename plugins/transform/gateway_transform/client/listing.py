"""What ``gateway transform list`` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from gateway_core.cli.remote import Remote
from gateway_transform.client.model import printable
from gateway_transform.client.progress import Progress
from gateway_transform.client.talk import Talk


def list_them(remote: Remote, *, as_json: bool) -> None:
    """Ask the gateway and print; raises ClientError."""
    found = Talk(remote, Progress(sys.stderr)).transformations()
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    rows = [(name, str(told.get("label") or ""), _options(told)) for name, told in sorted(_objects(found))]
    widths = [max((len(row[at]) for row in rows), default=0) for at in (0, 1)]
    for name, label, options in rows:
        click.echo(printable(f"{name:<{widths[0]}}  {label:<{widths[1]}}  {options}").rstrip())


def _objects(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, told if isinstance(told, dict) else {}) for name, told in found.items()]


def _options(entry: Mapping[str, Any]) -> str:
    """``width=  format=png|jpeg  quality=85``: after the name what may stand there, else the default."""
    options = entry.get("options")
    return "  ".join(_option(each) for each in options if isinstance(each, dict)) if isinstance(options, list) else ""


def _option(option: Mapping[str, Any]) -> str:
    values = option.get("values")
    choices = "|".join(values) if isinstance(values, dict) and values and not option.get("free_input") else ""
    return f"{option.get('id')}={choices or option.get('default') or ''}"
