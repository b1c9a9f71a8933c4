"""Commands that plugins bring."""

from __future__ import annotations

import click

from gateway_core.errors import PluginError
from gateway_core.plugins import load_plugins
from gateway_core.settings import Inputs, bootstrap


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


def plugin_commands(inputs: Inputs, *, taken: frozenset[str]) -> dict[str, click.Command]:
    """Commands by name; raises PluginError when two have one name or a plugin fails."""
    early = bootstrap(inputs)
    collector = _Collector(taken)
    for _ in load_plugins(early.plugins, strict=early.plugins_strict).each("gateway_commands", cli=collector):
        pass
    return dict(collector.commands)
