"""Commands that plugins bring."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import click

from gateway_core.errors import PluginError

if TYPE_CHECKING:
    from gateway_core.settings import Inputs

GROUP = "gateway.commands"
"""Entry points of commands that are clients of a running gateway: they start without any plugin or setting loaded."""


class _Collector(click.Group):
    """A group that refuses a name that is taken."""

    def __init__(self, taken: frozenset[str]) -> None:
        super().__init__()
        self._taken = taken
        self.owner = ""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """As click does; raises PluginError when the name is taken."""
        name = name or cmd.name or ""
        if name in self._taken or name in self.commands:
            raise PluginError(f"the command {name!r} is defined twice")
        super().add_command(cmd, name)


def client_commands() -> dict[str, EntryPoint]:
    """Clients by name, not loaded; raises PluginError when two distributions bring one name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if found.setdefault(point.name, point) != point:
            raise PluginError(f"the command {point.name!r} is defined twice")
    return found


def load_client(point: EntryPoint) -> click.Command:
    """The command of an entry point; raises PluginError that names it."""
    try:
        command = point.load()
    except Exception as exc:
        raise PluginError(f"the command {point.name!r} ({point.value}) cannot be loaded: {exc}") from exc
    if not isinstance(command, click.Command):
        raise PluginError(f"the command {point.name!r} ({point.value}) is no click command")
    return command


def plugin_commands(inputs: Inputs, *, taken: frozenset[str]) -> dict[str, click.Command]:
    """Commands by name; raises PluginError when two have one name or a plugin fails."""
    from gateway_core.plugins import load_plugins
    from gateway_core.settings import bootstrap

    early = bootstrap(inputs)
    collector = _Collector(taken)
    for _ in load_plugins(early.plugins, strict=early.plugins_strict).each("gateway_commands", cli=collector):
        pass
    return dict(collector.commands)
