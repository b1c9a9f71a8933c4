"""The root command: global options, built-in commands by name, plugins' commands when a name is not built in."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

from gateway_core.cli.commands import client_commands, load_client
from gateway_core.cli.context import Globals
from gateway_core.errors import ConfigError, GatewayError
from gateway_core.version import __version__

_BUILT_IN = {
    "serve": "gateway_core.cli.serve",
    "demo": "gateway_core.cli.demo",
    "config": "gateway_core.cli.config",
    "plugins": "gateway_core.cli.plugins",
    "db": "gateway_core.cli.db",
    "client": "gateway_core.cli.client",
    "doctor": "gateway_core.cli.doctor",
    "completion": "gateway_core.cli.completion",
}


class Root(click.Group):
    """Loads a built-in command or a client only when it is called, and the plugins only when something else is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Built-in commands, then the clients and those of the plugins."""
        return [*_BUILT_IN, *sorted({*client_commands(), *self._of_plugins(ctx)} - set(_BUILT_IN))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, None when there is none."""
        if cmd_name in _BUILT_IN:
            command: click.Command = import_module(_BUILT_IN[cmd_name]).command
            return command
        client = client_commands().get(cmd_name)
        return self._of_plugins(ctx).get(cmd_name) if client is None else load_client(client)

    def _of_plugins(self, ctx: click.Context) -> dict[str, click.Command]:
        from gateway_core.cli.commands import plugin_commands

        values = ctx.find_object(Globals) or Globals(plugins=ctx.params.get("plugins"), config=ctx.params.get("config"))
        return plugin_commands(values.inputs(), taken=frozenset({*_BUILT_IN, *client_commands()}))


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gateway")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (Python).")
@click.option("--plugins", metavar="A,B", help="Enable only these plugins.")
@click.option("--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Set one setting: archive.max_items=5.")
@click.pass_context
def root(ctx: click.Context, *, config: Path | None, plugins: str | None, assignments: tuple[str, ...]) -> None:
    """One service for ZIP archives of URLs, document jobs, bit-exact downloads and an event pipe."""
    ctx.obj = Globals(config=config, plugins=plugins, assignments=assignments)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 it did not work, 2 wrong usage or configuration."""
    try:
        code = root.main(args=arguments, prog_name="gateway", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.Abort:
        click.echo("Aborted", err=True)
        sys.exit(1)
    except ConfigError as exc:
        _complain(exc)
        sys.exit(2)
    except GatewayError as exc:
        _complain(exc)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(error: GatewayError) -> None:
    click.echo(f"gateway: {error.detail or error.title}", err=True)
