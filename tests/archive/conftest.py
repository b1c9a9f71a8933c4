"""Fixtures of the archive tests: the unzip programs, as far as this machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

READERS = Path(__file__).parent / "readers"

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs ``program, *arguments``, with ``piped`` as its input, and returns its output as bytes and its exit code.

    A missing program skips the test, or fails it where ``GATEWAY_TEST_REQUIRE`` (``unzip,7z,bsdtar,java``) names it.
    """
    required = {name.strip() for name in os.environ.get("GATEWAY_TEST_REQUIRE", "").split(",")}

    def run_program(
        program: str, *arguments: str | Path, piped: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        if shutil.which(program) is None:
            if program in required:
                pytest.fail(f"{program} is required but not installed")
            pytest.skip(f"{program} is not installed")
        # a pipe, because programs seek in a standard input that is a file
        with subprocess.Popen(["cat", piped or os.devnull], stdout=subprocess.PIPE) as source:
            return subprocess.run(
                [program, *arguments],
                stdin=source.stdout,
                capture_output=True,
                timeout=300,
                check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", **environment},
            )

    return run_program


@pytest.fixture(scope="session")
def java(run: Run) -> Run:
    """Runs ``readers/Reader.java`` with ``mode, archive``; it prints ``name<TAB>size<TAB>crc32<TAB>modified`` lines."""

    def run_java(mode: str, archive: Path) -> subprocess.CompletedProcess[bytes]:
        return run("java", "-Dfile.encoding=UTF-8", READERS / "Reader.java", mode, archive)

    return run_java
