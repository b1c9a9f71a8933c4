"""The words a box answers with, equal to those of ``jobs.model``, and how it refuses what it was given."""

from __future__ import annotations

import re
from typing import Any, Final

SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

UNKNOWN: Final = "unknown"
SKIPPED: Final = "skipped"

BAD_INPUT: Final = "bad_input"
UNKNOWN_TRANSFORMATION: Final = "unknown_transformation"
BAD_OPTIONS: Final = "bad_options"
TIMEOUT: Final = "timeout"
OUT_OF_MEMORY: Final = "out_of_memory"
CRASHED: Final = "crashed"
WORKER_LOST: Final = "worker_lost"

ERROR_CODES: Final = frozenset(
    {
        BAD_INPUT,
        UNKNOWN_TRANSFORMATION,
        BAD_OPTIONS,
        FAILED,
        TIMEOUT,
        OUT_OF_MEMORY,
        CRASHED,
        CANCELLED,
        WORKER_LOST,
    }
)
"""Why a job has no good result."""

_MESSAGE_CHARS = 2000
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


class Refused(Exception):
    """The input is not taken. ``reason`` is a short stable word, ``message`` says more in a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def error(code: str, message: str, step: str = "") -> dict[str, Any]:
    """As in status.json; the message is cut to 2000 characters, all of which a database can store."""
    return {"code": code, "message": storable(message)[:_MESSAGE_CHARS], "step": step or None}


def storable(text: str) -> str:
    """``text`` with U+FFFD for NULs and lone surrogates, which PostgreSQL and UTF-8 have no place for."""
    return _UNSTORABLE.sub("\ufffd", text)
