"""For the tests of plugins: a running gateway, upstreams that misbehave, real services, conformance suites.

Names are loaded when they are first used, so that pytest does not import the core before tests do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway_core.testing.harness import RunningGateway, running_gateway
    from gateway_core.testing.process import Finished, ServeProcess, run_gateway, serve_process
    from gateway_core.testing.sources import SourceBed, SourceConformance
    from gateway_core.testing.storage import StorageConformance
    from gateway_core.testing.upstream import Upstream

_HOMES = {
    "gateway_core.testing.harness": ("RunningGateway", "running_gateway"),
    "gateway_core.testing.process": ("Finished", "ServeProcess", "run_gateway", "serve_process"),
    "gateway_core.testing.sources": ("SourceBed", "SourceConformance"),
    "gateway_core.testing.storage": ("StorageConformance",),
    "gateway_core.testing.upstream": ("Upstream",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Finished",
    "RunningGateway",
    "ServeProcess",
    "SourceBed",
    "SourceConformance",
    "StorageConformance",
    "Upstream",
    "run_gateway",
    "running_gateway",
    "serve_process",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gateway_core.testing' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
