"""Programs behind firewalls call each other with plain HTTP, through one link that each of them keeps."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway_pipe.handlers.failure import PipeFailError, raise_for_exception

_HOMES = {"PipeFailError": "gateway_pipe.handlers.failure", "raise_for_exception": "gateway_pipe.handlers.failure"}

__all__ = ["PipeFailError", "raise_for_exception"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
