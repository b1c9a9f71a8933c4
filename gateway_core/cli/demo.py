"""``gateway demo``: everything on, with a client and lines to paste, for the first five minutes."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import click

from gateway_core.cli.context import current, run
from gateway_core.cli.serve import serve_now

if TYPE_CHECKING:
    from gateway_core.auth.client import Client
    from gateway_core.gateway import Gateway

CLIENT = "demo"
_CREDENTIALS = "demo-client.json"
_LINES = """
  The gateway answers at   {url}   (Ctrl-C stops it)
  Its API, to try out      {url}/docs
  Secret of client "{name}"  {secret}
  For other commands       export GATEWAY_DATA_DIR={data_dir}
"""


@click.command("demo")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to bind.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("var"),
    show_default=True,
    help="Where to keep everything.",
)
def command(*, port: int, data_dir: Path) -> None:
    """Serve with every plugin on embedded defaults, sample files and a client to try things with.

    The demo may fetch from its own address, which a gateway otherwise refuses. Made for a first look on one's own
    machine; `gateway serve` is what runs for others.
    """
    url = f"http://127.0.0.1:{port}"
    values = current()
    values.options = {
        "host": "127.0.0.1",
        "port": port,
        "workers": 1,
        "data_dir": str(data_dir.absolute()),
        "demo": True,
        "egress_allow": ("127.0.0.1/32",),
        "log_level": "warning",
    }

    async def prepare(gateway: Gateway) -> str:
        secret = await _client_secret(gateway, data_dir / _CREDENTIALS)
        told = gateway.hooks.each("gateway_demo", gateway=gateway, url=url, secret=secret)
        head = _LINES.format(url=url, secret=secret, name=CLIENT, data_dir=data_dir)
        return "\n".join([head, *(indent(text, "  ") for _, text in told)])

    text = run(prepare)
    serve_now(lambda: click.echo(text))


async def _client_secret(gateway: Gateway, path: Path) -> str:
    """The demo client's secret; the client is made on the first run, and anew when plugins ask for more scopes.

    It may do all that plugins have, also what a client must be given by name: to connect as a node, say.
    """
    from gateway_core.auth.store import CORE_SCOPES, NewClient

    scopes = gateway.scopes()[0] - CORE_SCOPES
    existing: Client | None = await gateway.clients.find(CLIENT)
    if existing is not None and existing.scopes >= scopes:
        return await gateway.clients.secret_of(existing.id)
    if existing is not None:
        await gateway.clients.revoke(CLIENT)
    client, secret = await gateway.clients.add(NewClient(CLIENT, scopes))
    text = json.dumps({"id": client.id, "name": client.name, "secret": secret, "scopes": sorted(client.scopes)})
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, stat.S_IRUSR | stat.S_IWUSR), "w") as file:
        file.write(text + "\n")
    return secret
