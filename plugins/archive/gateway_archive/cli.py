"""``gateway ticket``: the operator's view of tickets."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from gateway_archive.settings import ArchiveSettings
from gateway_archive.store import TicketStore
from gateway_core import Gateway, NotFound
from gateway_core.cli import run

DEMO = """\
A first ZIP, from the built-in samples; its download is cut after 1000 bytes, and goes on. Paste these lines into
another terminal:

  GATEWAY={url}
  ID=$(curl -s $GATEWAY/ticket/generate -H 'Authorization: {secret}' \\
    -d '{{"items": ["{url}/demo/hello.txt", {{"url": "{url}/demo/numbers.csv", "path": "data"}}]}}' \\
    | sed 's/.*"id": "\\([^"]*\\)".*/\\1/')
  curl -sr 0-999 -o collection.zip $GATEWAY/ticket/$ID/download
  curl -sC - -o collection.zip $GATEWAY/ticket/$ID/download
  unzip -t collection.zip
"""


def _store(gateway: Gateway) -> TicketStore:
    return TicketStore(gateway, ttl_s=gateway.section(ArchiveSettings).ticket_ttl)


@click.group()
def ticket() -> None:
    """Tickets of the archive plugin."""


@ticket.command("list")
def list_tickets() -> None:
    """List living tickets: id, type, when made, when gone, and whose."""

    async def work(gateway: Gateway) -> None:
        names = {client.id: client.name for client in await gateway.clients.list()}
        for found in await _store(gateway).everything():
            created, expires = (
                datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
                for moment in (found.created, found.expires)
            )
            owner = names.get(found.client_id, found.client_id)
            click.echo(f"{found.id}  {found.type.value}  {created}  {expires}  {owner}")

    run(work)


@ticket.command("drop")
@click.argument("ticket_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Drop all tickets.")
def drop_ticket(ticket_id: str | None, *, everything: bool) -> None:
    """Drop the ticket ID, or all of them."""
    if everything == (ticket_id is not None):
        raise click.UsageError("give either an ID or --all")

    async def work(gateway: Gateway) -> None:
        if ticket_id is None:
            click.echo(f"{await _store(gateway).drop_all()} tickets dropped")
        elif await _store(gateway).drop(ticket_id):
            click.echo(f"Ticket dropped: {ticket_id}")
        else:
            raise NotFound(f"no ticket {ticket_id}")

    run(work)
