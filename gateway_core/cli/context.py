"""What every command shares: the options before its name, a gateway to work with, and exit codes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway_core.app.compose import Composition
    from gateway_core.gateway import Gateway, Role
    from gateway_core.settings import Inputs

T = TypeVar("T")


@dataclass
class Globals:
    """Options that stand before the command's name; ``serve`` takes them after it as well."""

    config: Path | None = None
    plugins: str | None = None
    assignments: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> Inputs:
        """What settings are read from in this process."""
        from gateway_core.settings import Inputs

        return Inputs(
            options={**self.options, "plugins": self.plugins},
            assignments=self.assignments,
            environ=dict(os.environ),
            config=self.config,
        )


def current() -> Globals:
    """The options of the running command line."""
    found = click.get_current_context().find_object(Globals)
    return found if found is not None else Globals()


def compose_now(role: Role) -> Composition:
    """Put the gateway of this command line together, with logs on standard error; raises ConfigError."""
    from gateway_core.app.compose import compose
    from gateway_core.gateway import Role as Roles
    from gateway_core.observe.logs import configure_logging, get_logger

    composition = compose(current().inputs(), role=role)
    settings = composition.gateway.settings
    level = "warning" if role is Roles.CLI and settings.log_level == "info" else settings.log_level
    configure_logging(level=level, log_format=settings.log_format, debug=settings.debug)
    for warning in composition.loaded.warnings:
        get_logger("gateway.settings").warning(warning)
    return composition


def run(work: Callable[[Gateway], Awaitable[T]]) -> T:
    """Do ``work`` with an opened gateway: database at the code's revision, keys checked, storage; no lifespans.

    Raises ConfigError, StartupError, and whatever ``work`` raises; the command line turns them into exit codes.
    """
    from gateway_core.gateway import Role

    gateway = compose_now(Role.CLI).gateway

    async def opened() -> T:
        gateway.make_data_dir()
        async with gateway.opened():
            await gateway.ensure_schema()
            await gateway.clients.check_keys()
            return await work(gateway)

    return asyncio.run(opened())
