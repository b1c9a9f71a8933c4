"""``gateway plugins``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from gateway_core.cli.context import current


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(*, as_json: bool) -> None:
    """List installed plugins: name, distribution, version, status, hooks."""
    from gateway_core.plugins import load_plugins
    from gateway_core.settings import bootstrap

    infos = load_plugins(bootstrap(current().inputs()).plugins, strict=False).infos
    if as_json:
        click.echo(json.dumps([asdict(info) for info in infos], indent=2))
    for info in [] if as_json else infos:
        told = info.error or ", ".join(hook.removeprefix("gateway_") for hook in info.hooks)
        click.echo(f"{info.name:12} {info.distribution} {info.version}  {info.status}  {told}")
    if any(info.status == "failed" for info in infos):
        raise SystemExit(1)
