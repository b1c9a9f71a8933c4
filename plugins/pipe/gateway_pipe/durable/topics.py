"""Wake-up topics. They carry nothing: whoever is woken looks at the rows."""

from __future__ import annotations

CALLS = "pipe:calls"
"""A call waits for some node."""

ERASED = "pipe:erased"
"""A call that waited was erased by its client."""


def call_topic(call_id: str) -> str:
    """The call has its result, or never will have one."""
    return f"pipe:call:{call_id}"
