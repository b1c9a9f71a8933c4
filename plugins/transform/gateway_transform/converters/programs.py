"""Programs run for a job: without a shell, with absolute paths, their words in the log at debug."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_KEPT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: its exit code (negative: the signal) and the last of what it wrote to both outputs."""

    code: int
    output: str


def run(
    argv: Sequence[str | Path],
    logger: logging.Logger,
    *,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ran:
    """Run ``argv`` to its end, in ``folder``, with ``variables`` added to the environment; it reads nothing.

    How long it may take is the step's limit, which ends all processes of the step.
    """
    with tempfile.TemporaryFile() as output:
        ended = subprocess.run(  # noqa: S603 - no shell; what comes from the job are absolute paths and checked values
            [os.fspath(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(variables or {})},
            check=False,
        )
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _KEPT_BYTES))
        words = output.read().decode("utf-8", "replace").strip()
    logger.debug("%s ended with %d: %s", Path(argv[0]).name, ended.returncode, words)
    return Ran(ended.returncode, words)
