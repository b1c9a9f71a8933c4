"""``gateway db``: the database's revision."""

from __future__ import annotations

import asyncio

import click

from gateway_core.cli.context import compose_now


@click.group("db")
def command() -> None:
    """Bring the database up or down to a revision."""


@command.command()
def current() -> None:
    """Show at which revision core and plugins are, and which they should be at."""
    from gateway_core.db.migrate import pending
    from gateway_core.gateway import Role

    gateway = compose_now(Role.CLI).gateway

    async def work() -> None:
        gateway.make_data_dir()
        async with gateway.database():
            for name, (at, head) in (await pending(gateway.db, gateway.migration_sources())).items():
                click.echo(f"{name}: {at or 'nothing'}" + ("" if at == head else f" -> {head or 'nothing'}"))

    asyncio.run(work())


@command.command()
def upgrade() -> None:
    """Bring core and plugins up to this version's revision."""
    from gateway_core.gateway import Role

    gateway = compose_now(Role.CLI).gateway

    async def work() -> None:
        gateway.make_data_dir()
        async with gateway.database():
            await gateway.ensure_schema(upgrade=True)

    asyncio.run(work())
    click.echo("the database is up to date")


@command.command()
@click.argument("name", metavar="[PLUGIN]", required=False)
@click.argument("revision", required=False)
@click.option("--all", "everything", is_flag=True, help="Remove the tables of all plugins and of the core.")
def downgrade(name: str | None, revision: str | None, *, everything: bool) -> None:
    """Bring PLUGIN (or "core") down to REVISION; without one its tables and all they hold are removed."""
    if everything == (name is not None):
        raise click.UsageError("give either a PLUGIN or --all")
    from gateway_core.db.migrate import run_migrations
    from gateway_core.gateway import Role

    gateway = compose_now(Role.CLI).gateway
    sources = [source for source in gateway.migration_sources() if everything or source.name == name]
    if not sources:
        raise click.UsageError(f"no migrations are called {name!r}")
    asyncio.run(run_migrations(gateway.settings.database_url, sources, "downgrade", target=revision))
    for source in sources:
        click.echo(f"{source.name} is at {revision or 'nothing'}")
