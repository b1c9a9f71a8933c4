"""``gateway pipe nodes``: who is connected, as a running gateway tells it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gateway_core.cli import Remote, remote_options

_PATIENCE_S = 30.0
_MOST_BYTES = 64 << 20
_COLUMNS = ("NAME", "SINCE", "RTT", "VERSION", "VIA", "ADDRESS", "TAGS", "APPS", "NOUNS")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As the gateway tells it, times in Unix seconds.")
@remote_options
def nodes(*, remote: Remote, as_json: bool) -> None:
    """List the nodes that are connected: those that the client may call, or with scope `admin` all."""
    found = _asked(remote)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    rows = [_COLUMNS, *(_row(node) for node in found)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_COLUMNS))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _asked(remote: Remote) -> list[dict[str, Any]]:
    """What the gateway answers; raises ClickException."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection
    from urllib.parse import urlsplit

    try:
        url = urlsplit(remote.url)
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=_PATIENCE_S)
        connection.request("GET", f"{url.path}/pipe/nodes", headers=remote.headers)
        answer = connection.getresponse()
        text = answer.read(_MOST_BYTES)
        connection.close()
        told = json.loads(text)
    except (OSError, HTTPException, ValueError) as exc:
        raise click.ClickException(f"{remote.url}: no answer that can be read: {exc or type(exc).__name__}") from exc
    if answer.status != 200:
        detail = told.get("detail") or told.get("title") if isinstance(told, dict) else None
        raise click.ClickException(f"{remote.url}: {_printable(detail or f'HTTP {answer.status}')}")
    if not isinstance(told, list) or not all(isinstance(node, dict) for node in told):
        raise click.ClickException(f"{remote.url}: this is no list of nodes")
    return told


def _row(node: dict[str, Any]) -> Sequence[str]:
    rtt_ms, since = node.get("rtt_ms"), node.get("since")
    return (
        _printable(node.get("name")),
        datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds") if isinstance(since, int | float) else "",
        f"{rtt_ms:.1f} ms" if isinstance(rtt_ms, int | float) else "",
        _printable(node.get("version")),
        _printable(node.get("via")),
        _printable(node.get("address")),
        *(_printable(",".join(map(str, node.get(key) or ()))) for key in ("tags", "apps", "nouns")),
    )


def _printable(value: object) -> str:
    """What nodes say of themselves, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value or ""))
