"""Programs that download, as their users run them: no settings of this machine, no proxy, all of it in one folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended, and what it printed to either stream."""

    code: int
    out: str


async def run(program: str, *arguments: str, cwd: Path, timeout_s: float = 60) -> Ran:
    """Run ``program`` in ``cwd``, its home too, to its end; when the time is over it is killed, raises TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, cwd=cwd, env=_environment(cwd), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return Ran(await process.wait(), out.decode(errors="replace"))


def _environment(home: Path) -> Mapping[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C.UTF-8"}
