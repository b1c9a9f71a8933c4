"""Plugins made by tests: objects in memory, and modules with the entry point of a distribution in a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from gateway_core import hookimpl

ROOT = Path(__file__).parents[2]


def plugin_of(**hooks: Callable[..., object]) -> ModuleType:
    """A plugin that implements just these hooks."""
    module = ModuleType("made_by_a_test")
    vars(module).update({name: hookimpl(function) for name, function in hooks.items()})
    return module


def lay_out(folder: Path, name: str, *, value: str | None = None, module: str | None = None) -> Path:
    """Make ``folder`` one that brings plugin ``name`` when it stands on the path; returns it.

    Its entry point is ``value``, or a new module with the text ``module``.
    """
    if module is not None:
        value = f"{folder.name}_{name}".replace("-", "_")
        (folder / f"{value}.py").write_text(module)
    info = folder / f"test_{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: test-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[gateway.plugins]\n{name} = {value}\n")
    return folder


@contextmanager
def install(folder: Path, name: str, *, value: str | None = None, module: str | None = None) -> Iterator[None]:
    """Lay it out and put it on this process's path for the block."""
    sys.path.insert(0, str(lay_out(folder, name, value=value, module=module)))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def path_of(*folders: Path) -> dict[str, str]:
    """Environment of a process that finds plugins in ``folders``, and the modules of the tests."""
    return {"PYTHONPATH": ":".join(map(str, [*folders, ROOT]))}
