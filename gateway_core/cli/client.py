"""``gateway client``: who may use the gateway."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import click

from gateway_core.auth.client import Client
from gateway_core.cli.context import run
from gateway_core.gateway import Gateway
from gateway_core.observe.events import CLIENT_CREATED, CLIENT_REVOKED, CLIENT_ROTATED
from gateway_core.settings import Settings, parse_duration


@click.group("client")
def command() -> None:
    """Add, list, change and import clients."""


@command.command()
@click.argument("name")
@click.option("--scope", "scopes", metavar="S", multiple=True, help="What it may do; default: all that is not special.")
@click.option("--expires", metavar="D", help="Life, such as 90d, or a date such as 2030-01-31.")
@click.option("--json", "as_json", is_flag=True, help="Print its credentials as JSON.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write that JSON to a new 0600 file.")
@click.option("--id", "client_id", help="Use this id: 32 hex digits, dashes allowed.")
@click.option("--secret", help="Use this secret; it is visible in the process list while the command runs.")
def add(
    *,
    name: str,
    scopes: tuple[str, ...],
    expires: str | None,
    as_json: bool,
    out: Path | None,
    **given: str | None,
) -> None:
    """Make the client NAME and print its secret, which is shown this once."""
    from gateway_core.auth.secrets import plausible
    from gateway_core.auth.store import NewClient

    moment = None if expires is None else _moment(expires)
    client_id, secret = given["client_id"], given["secret"]
    plain_id = None if client_id is None else _id(client_id)
    if not 0 < len(name) <= 255 or not name.isprintable():
        raise click.BadParameter("1 to 255 printable characters", param_hint="NAME")
    if secret is not None and not plausible(secret):
        raise click.BadParameter(
            "1 to 512 visible ASCII characters, and no gw_... with a typing error", param_hint="--secret"
        )

    async def work(gateway: Gateway) -> dict[str, object]:
        granted = _scopes(gateway, scopes)
        client, made = await gateway.clients.add(NewClient(name, granted, moment, plain_id, secret))
        gateway.emit(CLIENT_CREATED, client=client.id, name=client.name)
        return _credentials(client, made, _endpoint(gateway.settings))

    with _secret_file(out) as file:
        made = run(work)
        text = json.dumps(made)
        if file is not None:
            file.write(text + "\n")
    if out is not None:
        click.echo(f"Client created: {name} - written to {out}")
    else:
        click.echo(text if as_json else f"Client created: {name} - {made['secret']}")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_clients(*, as_json: bool) -> None:
    """List clients; secrets are never shown."""

    async def work(gateway: Gateway) -> list[Client]:
        return await gateway.clients.list()

    clients = run(work)
    if as_json:
        fields = ("id", "name", "created", "expires", "last_used")
        rows = [{**{f: getattr(c, f) for f in fields}, "scopes": sorted(c.scopes)} for c in clients]
        click.echo(json.dumps(rows, indent=2))
        return
    for c in clients:
        click.echo(
            f"{c.name}  {c.id}  created {_date(c.created)}  expires {_date(c.expires)}  "
            f"last used {_date(c.last_used)}  {','.join(sorted(c.scopes))}"
        )


@command.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Shut out the client NAME (or id) for good, within a second."""

    async def work(gateway: Gateway) -> Client:
        client = await gateway.clients.revoke(name)
        gateway.emit(CLIENT_REVOKED, client=client.id, name=client.name)
        return client

    click.echo(f"Client revoked: {run(work).name}")


@command.command()
@click.argument("name")
def rotate(name: str) -> None:
    """Give the client NAME (or id) a new secret; the old one stops working within a second."""

    async def work(gateway: Gateway) -> tuple[Client, str]:
        client, made = await gateway.clients.rotate(name)
        gateway.emit(CLIENT_ROTATED, client=client.id, name=client.name)
        return client, made

    client, made = run(work)
    click.echo(f"Client rotated: {client.name} - {made}")


@command.command("webhook-secret")
@click.argument("name")
def webhook_secret(name: str) -> None:
    """Print what the receiver of webhooks of the client NAME (or id) verifies them with."""

    async def work(gateway: Gateway) -> str:
        client = await gateway.clients.existing(name)
        return await gateway.clients.secret_of(client.id)

    # Standard Webhooks: base64 of the key, which is the secret's own bytes
    click.echo(f"whsec_{base64.b64encode(run(work).encode()).decode()}")


@command.command("import")
@click.argument("kind", type=click.Choice(["fpx", "circe"]))
@click.argument("database", metavar="DB")
def import_clients(kind: str, database: str) -> None:
    """Take over the clients of an FPX or Circe database: a SQLite file, or the database's URL.

    Names, ids and secrets keep working. What is there already is left alone.
    """
    from gateway_core.auth.imports import import_into, read_circe, read_fpx

    reader = read_fpx if kind == "fpx" else read_circe

    async def work(gateway: Gateway) -> tuple[int, list[str]]:
        found = await reader(database)
        return await import_into(gateway.clients, found, _scopes(gateway, ()))

    count, kept = run(work)
    for line in kept:
        click.echo(f"left alone: {line}", err=True)
    click.echo(f"{count} clients imported")


def _credentials(client: Client, secret: str, endpoint: str) -> dict[str, object]:
    """What a client has to know, under our names and under those that Circe's client library reads."""
    ours = {"id": client.id, "name": client.name, "secret": secret, "scopes": sorted(client.scopes)}
    return {**ours, "uuid": client.id, "title": client.name, "endpoint": endpoint}


def _endpoint(settings: Settings) -> str:
    """Where clients on this machine reach the gateway, or ``PUBLIC_URL``; with a slash at the end."""
    if settings.public_url:
        return f"{settings.public_url}/"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}/" if ":" in host else f"http://{host}:{settings.port}/"


def _scopes(gateway: Gateway, wanted: tuple[str, ...]) -> frozenset[str]:
    known, granted = gateway.scopes()
    for scope in wanted:
        if not any(_related(scope, other) for other in known):
            names = ", ".join(sorted(known))
            raise click.BadParameter(f"no scope {scope!r}; there are: {names}", param_hint="--scope")
    return frozenset(wanted) or granted


def _related(scope: str, known: str) -> bool:
    """Whether the one covers the other: ``archive:*`` and ``pipe:call:node1`` are fine, ``archve:x`` is not."""
    from gateway_core.auth.client import scope_covers

    return scope != "*" and (scope_covers(scope, known) or scope_covers(known, scope))


def _moment(text: str) -> float:
    try:
        moment = time.time() + float(parse_duration(text))
    except ValueError:
        moment = _date_in(text)
    try:
        datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise click.BadParameter("later than any date", param_hint="--expires") from exc
    if moment <= time.time():
        raise click.BadParameter("that is over already", param_hint="--expires")
    return moment


def _date_in(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter("a span such as 90d, or a date such as 2030-01-31", param_hint="--expires") from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _id(text: str) -> str:
    plain = text.replace("-", "").lower()
    if len(plain) != 32 or set(plain) - set("0123456789abcdef"):
        raise click.BadParameter("an id has 32 hex digits", param_hint="--id")
    return plain


@contextmanager
def _secret_file(path: Path | None) -> Iterator[IO[str] | None]:
    """A new file for its owner alone, there before the secret is made; None for no path. Removed when that fails."""
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise click.ClickException(f"cannot create {path}: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _date(moment: float | None) -> str:
    return "never" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
