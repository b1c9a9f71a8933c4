"""For authors of transformations: what a callable may declare about itself. Standard library only.

A transformation is a function or class that takes ``(working_dir: str, logger: logging.Logger, options: dict)`` and
works on the files in ``working_dir``. ``@transformation`` is optional: a bare function works as it does in Circe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Transformation = Callable[[str, logging.Logger, dict[str, Any]], object]
F = TypeVar("F", bound=Callable[..., Any])


class BadInput(Exception):
    """The files are not what the transformation works on; the job fails with the code ``bad_input``."""


class BadOptions(Exception):
    """An option is wrong; the job fails with the code ``bad_options``. The message names the option."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option as ``/transformations/`` shows it: ``values`` are those allowed, with their labels.

    With ``free_input`` any text may stand in its place.
    """

    id: str
    label: str
    default: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    free_input: bool = False

    def described(self) -> dict[str, Any]:
        """Circe's form of it."""
        return {
            "id": self.id,
            "label": self.label,
            "values": dict(self.values),
            "default": self.default,
            "free_input": self.free_input,
        }


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run may take: seconds, memory in MiB (None: the settings' limits), the network.

    ``modules`` must be importable, ``programs`` be in the path and ``libraries`` (such as ``libpango-1.0.so.0``) be
    there to load, or the transformation is hidden. ``preload`` are modules that are loaded once, before boxes are made,
    as soon as the transformation has been used.
    """

    seconds: float | None = None
    memory_mb: int | None = None
    network: bool = False
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """As the attribute ``needs`` of a callable: a dict without what is not said."""
        said: dict[str, Any] = {"network": self.network}
        said |= {name: value for name in ("seconds", "memory_mb") if (value := getattr(self, name)) is not None}
        return said | {name: list(getattr(self, name)) for name in ("modules", "programs", "libraries", "preload")}


def transformation(
    *,
    label: str,
    help: str,  # noqa: A002 - Circe's word
    options: Sequence[Option] = (),
    needs: Needs | None = None,
    deterministic: bool = False,
    version: str = "",
) -> Callable[[F], F]:
    """Declare a transformation: sets ``description``, ``needs``, ``deterministic`` and ``version`` on the callable.

    ``deterministic`` promises equal output for equal files and options, so that results may be taken from the cache;
    change ``version`` when the output changes.
    """

    def declare(function: F) -> F:
        function.description = {  # type: ignore[attr-defined]
            "label": label,
            "help": help,
            "options": [option.described() for option in options],
        }
        function.needs = (needs or Needs()).described()  # type: ignore[attr-defined]
        function.deterministic = deterministic  # type: ignore[attr-defined]
        function.version = version  # type: ignore[attr-defined]
        return function

    return declare
