"""How a handler class says what its methods want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_STREAMING = "_gateway_pipe_streaming"


def streaming(method: F) -> F:
    """Give the request's body to ``method`` as it comes: an async iterator, or to a plain method a file to read.

    As ``data`` of ``post_data``, bytes whatever the type, and of any size.
    """
    setattr(method, _STREAMING, True)
    return method


def is_streaming(method: Callable[..., Any]) -> bool:
    """Whether it was marked so."""
    return bool(getattr(method, _STREAMING, False))
