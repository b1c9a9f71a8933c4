"""Hooks of this plugin. Implement them with ``@hookimpl(optionalhook=True)``: the package then loads without it."""

from __future__ import annotations

from collections.abc import Iterable

from gateway_core import hookspec


class PipeHooks:
    """Asked while the gateway starts."""

    @hookspec
    def pipe_handlers(self) -> Iterable[type]:  # type: ignore[empty-body]
        """Return handler classes whose methods answer what connected nodes ask, ``get_time`` for GET time.

        They need no base class, are made without arguments, and may have the hooks of handlers as methods: see
        ``gateway_pipe.handlers``. A method that two classes have stops the start.
        """
