"""What a box is told about itself before it sees a job: the transformations it knows and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: What holds a box, best first: its own namespaces, Landlock's rules, or limits alone.
NAMESPACES = "namespaces"
LANDLOCK = "landlock"
RLIMITS = "rlimits"


@dataclass(frozen=True, slots=True)
class Entry:
    """A transformation that was found and can run: what to call, and what it said about itself.

    ``seconds`` and ``memory_mb`` (MiB) are None where the settings' limits hold; ``description`` is Circe's form.
    """

    name: str
    call: Callable[..., object]
    description: dict[str, Any]
    seconds: float | None = None
    memory_mb: int | None = None
    network: bool = False
    deterministic: bool = False
    version: str = ""
    preload: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """As the catalogue message has it; JSON."""
        return {
            "description": self.description,
            "limits": {"seconds": self.seconds, "memory_mb": self.memory_mb, "network": self.network},
            "deterministic": self.deterministic,
            "version": self.version,
            "preload": list(self.preload),
        }


@dataclass(frozen=True, slots=True)
class Context:
    """Where a box stands: absolute folders as the box sees them, and what holds it.

    ``pid1`` says that the box is the first process of its own process namespace: orphans come to it, and they all die
    with it. Without, it is their subreaper. ``network`` says that its sockets reach something; ``counted_alone`` that
    RLIMIT_NPROC counts this box's processes only.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    working_dir: str = "/work"
    tmp_dir: str = "/tmp"  # noqa: S108 - the box's own
    level: str = RLIMITS
    network: bool = False
    pid1: bool = False
    counted_alone: bool = False
