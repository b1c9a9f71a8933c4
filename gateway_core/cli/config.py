"""``gateway config``: what is set, and whether it fits."""

from __future__ import annotations

import json
from typing import Any

import click
from pydantic import SecretStr

from gateway_core.cli.context import compose_now, current


@click.group("config")
def command() -> None:
    """Look at the settings."""


@command.command()
def check() -> None:
    """Check settings and plugins without starting anything; exit code 2 when something is wrong."""
    from gateway_core.gateway import Role
    from gateway_core.storage.registry import open_storage

    composition = compose_now(Role.CLI)
    gateway, settings = composition.gateway, composition.gateway.settings
    open_storage(settings.storage_url, factories=gateway.registries.storages, data_dir=settings.data_dir)
    gateway.check_settings()
    if settings.redis_url:
        from gateway_core.db.redis_link import RedisLink

        RedisLink(settings.redis_url)
    click.echo(f"ok: plugins {', '.join(composition.plugins.enabled) or 'none'}")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(*, as_json: bool) -> None:
    """Show every setting with where it was set; secrets are masked."""
    from gateway_core.gateway import Role

    rows = [(name, _shown(name, value), origin) for name, value, origin in compose_now(Role.CLI).loaded.values()]
    if as_json:
        click.echo(json.dumps({name: {"value": text, "source": origin} for name, text, origin in rows}, indent=2))
        return
    width = max(len(name) for name, _, _ in rows)
    for name, text, origin in rows:
        click.echo(f"{name.upper().replace('.', '__'):{width + 1}} = {text}  ({origin})")


@command.command()
def docs() -> None:
    """Print the table of all settings in Markdown, of the core and the loaded plugins."""
    from gateway_core.plugins import load_plugins
    from gateway_core.settings import bootstrap
    from gateway_core.settings.docs import render_docs

    early = bootstrap(current().inputs())
    click.echo(render_docs(load_plugins(early.plugins, strict=early.plugins_strict).sections()), nl=False)


def _shown(name: str, value: Any) -> str:
    from gateway_core.settings.mask import mask_url

    if isinstance(value, tuple) and any(isinstance(part, SecretStr) for part in value):
        return ",".join("***" for _ in value)
    if isinstance(value, SecretStr):
        return "***"
    if name.endswith("_url") and isinstance(value, str):
        return mask_url(value)
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
