"""The real curl as a client for tests: what it makes of a broken answer is what users see."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import IntEnum
from subprocess import PIPE


class CurlExit(IntEnum):
    """Exit codes that tell how a transfer ended (curl(1), EXIT CODES)."""

    OK = 0
    REFUSED = 7
    PARTIAL_FILE = 18
    TIMED_OUT = 28
    TOO_MANY_REDIRECTS = 47
    GOT_NOTHING = 52
    RECEIVE_ERROR = 56


@dataclass(frozen=True, slots=True)
class Curled:
    """How it ended, the body as far as it came, and all heads (of redirects too) followed by curl's own messages."""

    code: int
    body: bytes
    head: str


async def curl(*arguments: str, max_time_s: float = 10) -> Curled:
    """Run curl with ``arguments`` and take in the whole body; raises FileNotFoundError where curl is not installed."""
    command = ("curl", "--disable", "--silent", "--show-error", "--max-time", str(max_time_s), "--noproxy", "*")
    process = await asyncio.create_subprocess_exec(
        *command, "--dump-header", "/dev/stderr", *arguments, stdout=PIPE, stderr=PIPE
    )
    body, head = await process.communicate()
    return Curled(await process.wait(), body, head.decode("latin-1"))
