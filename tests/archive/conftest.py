"""Fixtures of the archive tests: a gateway to download from, and the unzip programs that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway_core.testing import RunningGateway, Upstream
from gateway_core.testing.plugin import MakeGateway
from tests.archive.stand import Stand, standing

READERS = Path(__file__).parent / "readers"

Run = Callable[..., subprocess.CompletedProcess[bytes]]

MakeStand = Callable[..., AbstractAsyncContextManager[Stand]]

IMPATIENT = {"stall_timeout_s": 0.5, "resume_tries": 1}
"""So that what fails for good fails soon."""


@pytest.fixture
def gateway_config() -> dict[str, Any]:
    return {"plugins": "archive", "archive": IMPATIENT}


@pytest.fixture
async def stand(gateway: RunningGateway, upstream: Upstream) -> AsyncIterator[Stand]:
    """A gateway and an upstream."""
    async with standing(gateway, upstream) as stood:
        yield stood


@pytest.fixture
def make_stand(make_gateway: MakeGateway, upstream: Upstream) -> MakeStand:
    """The same with other settings: ``async with make_stand({"queue": True}, write_stall_s=1) as stand:``."""

    @asynccontextmanager
    async def make(archive: dict[str, Any], **core: Any) -> AsyncIterator[Stand]:
        settings = {"plugins": "archive", "archive": {**IMPATIENT, **archive}, **core}
        async with make_gateway(settings) as gateway, standing(gateway, upstream) as stood:
            yield stood

    return make


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
