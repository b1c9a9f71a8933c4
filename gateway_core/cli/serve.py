"""``gateway serve``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway_core.cli.context import compose_now, current

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway


@click.command("serve")
@click.option("--host", help="Address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to bind; 0 picks a free one.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that share the port.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (Python).")
@click.option("--plugins", metavar="A,B", help="Enable only these plugins.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Set one setting: archive.max_items=5.")
@click.option("--inherit", hidden=True, help="Sockets of the parent process.")
def command(
    *,
    config: Path | None,
    plugins: str | None,
    assignments: tuple[str, ...],
    inherit: str | None,
    **options: Any,
) -> None:
    """Run the service until SIGTERM or Ctrl-C; a second signal does not wait for running downloads."""
    values = current()
    values.config = config or values.config
    values.plugins = values.plugins if plugins is None else plugins
    values.assignments = (*values.assignments, *assignments)
    values.options = options
    if inherit is not None:
        _serve_inherited(inherit)
    else:
        serve_now()


def serve_now(announce: Callable[[], None] = lambda: None) -> None:
    """Serve with the options of the running command line; returns when it has been told to stop.

    ``announce`` is called as soon as the port is bound: whoever connects then is answered.
    """
    from gateway_core.gateway import Role
    from gateway_core.server.process import serve
    from gateway_core.server.sockets import bind_all

    gateway = compose_now(Role.SERVER).gateway
    gateway.make_data_dir()
    sockets = bind_all(gateway)
    announce()
    if gateway.settings.workers == 1:
        asyncio.run(serve(gateway, sockets), debug=gateway.settings.debug)
        return
    asyncio.run(_prepare(gateway))
    from gateway_core.server.supervisor import Supervisor

    code = Supervisor(gateway, sockets, sys.argv[1:]).run()
    if code:
        raise SystemExit(code)


def work() -> None:
    """Run a process that serves no port and works off what plugins' lifespans do in ``Role.WORKER``, until SIGTERM.

    For commands of plugins. A second SIGTERM sets ``gateway.cut``.
    """
    from gateway_core.gateway import Role
    from gateway_core.server.process import serve

    gateway = compose_now(Role.WORKER).gateway
    gateway.make_data_dir()
    asyncio.run(serve(gateway, {}), debug=gateway.settings.debug)


async def _prepare(gateway: Gateway) -> None:
    """Bring the database up to the code before any worker looks at it."""
    async with gateway.database():
        await gateway.ensure_schema()


def _serve_inherited(inherit: str) -> None:
    from gateway_core.gateway import Role
    from gateway_core.server.process import serve
    from gateway_core.server.sockets import adopt

    numbers = {name: int(number) for name, _, number in (part.partition("=") for part in inherit.split(","))}
    parent = numbers.pop("parent")
    os.set_inheritable(parent, False)
    gateway = compose_now(Role.SERVER).gateway
    asyncio.run(serve(gateway, adopt(numbers), parent=parent), debug=gateway.settings.debug)
