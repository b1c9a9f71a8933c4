"""Hooks of this plugin. Implement them with ``@hookimpl(optionalhook=True)``: the package then loads without it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway_core import hookspec


class TransformHooks:
    """Asked while the gateway starts, and by ``gateway doctor``."""

    @hookspec
    def transform_transformations(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Return transformations by name, each as ``package.module:callable``; a name that is taken stops the start.

        The callable takes ``(working_dir, logger, options)`` and works on the files in that folder; see
        ``gateway_transform.api`` for what it may declare. It is imported where boxes are made, never in the server.
        """
