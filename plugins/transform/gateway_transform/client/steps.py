r"""Steps as they are typed: ``NAME[:OPTION=VALUE]...``.

``image_resize:width=100:height=50`` is one step with two options. ``\:`` is a colon and ``\\`` a backslash in a value;
any other backslash is itself. Values are texts; the first ``=`` ends the option's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway_core.errors import ConfigError

_PIECE = re.compile(r"(?:\\[:\\]|[^:])*")
_ESCAPED = re.compile(r"\\([:\\])")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job."""

    name: str
    options: dict[str, str] = field(default_factory=dict)


def parse_step(text: str) -> Step:
    """Read one step; raises ConfigError that says what is wrong with it."""
    name, *given = _pieces(text)
    if not name or "=" in name:
        raise ConfigError(f"{text!r} does not begin with a transformation's name; expected NAME[:OPTION=VALUE]...")
    options: dict[str, str] = {}
    for piece in given:
        option, equals, value = piece.partition("=")
        if not (option and equals):
            raise ConfigError(rf"{piece!r} in {text!r} is not OPTION=VALUE (a colon in a value is written \:)")
        if option in options:
            raise ConfigError(f"{option!r} is given twice in {text!r}")
        options[option] = value
    return Step(name, options)


def job_json(steps: Sequence[Step], *, hook: str | None = None) -> bytes:
    """The archive's ``job.json``."""
    transformations = [{"name": step.name, "options": step.options} for step in steps]
    return json.dumps({"transformations": transformations, "notify_hook": hook}, indent=1).encode()


def _pieces(text: str) -> list[str]:
    pieces, at = [], 0
    while at <= len(text):
        found = _PIECE.match(text, at)
        assert found is not None
        pieces.append(_ESCAPED.sub(r"\1", found.group()))
        at = found.end() + 1
    return pieces
