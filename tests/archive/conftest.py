"""Fixtures of the archive tests: a gateway to download from, and the unzip programs that this machine has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway_core.testing.requirements import require_program
from tests.archive.stand import Stand, standing

READERS = Path(__file__).parent / "readers"

Run = Callable[..., subprocess.CompletedProcess[bytes]]

MakeStand = Callable[..., AbstractAsyncContextManager[Stand]]

IMPATIENT = {"stall_timeout_s": 1.5, "resume_tries": 1, "probe": "never"}
"""So that what fails for good fails soon, and archives of unknown length are made unless a test asks otherwise."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_stand(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    folder = tmp_path_factory.mktemp("stand")
    async with standing(folder, {"plugins": "archive", "archive": IMPATIENT}, templates=gateway_templates) as stood:
        yield stood


@pytest.fixture
def stand(shared_stand: Stand) -> Stand:
    """A gateway and an upstream for all tests of a module, which must run in the module's event loop."""
    shared_stand.upstream.requests.clear()
    return shared_stand


@pytest.fixture
def make_stand(tmp_path: Path, gateway_templates: Path) -> MakeStand:
    """A test's own, with other settings: ``async with make_stand({"queue": True}, write_stall_s=1) as stand:``."""

    def make(archive: dict[str, Any], **core: Any) -> AbstractAsyncContextManager[Stand]:
        settings = {"plugins": "archive", "archive": {**IMPATIENT, **archive}, **core}
        return standing(tmp_path / "gateway", settings, templates=gateway_templates)

    return make


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs ``program, *arguments``, with ``piped`` as its input, and returns its output as bytes and its exit code.

    A missing program skips the test, or fails it where ``GATEWAY_TEST_REQUIRE`` (``unzip,7z,bsdtar,java``) names it.
    """

    def run_program(
        program: str, *arguments: str | Path, piped: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        require_program(program)
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
        hasty = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # most of its time it compiles itself
        return run("java", *hasty, "-Dfile.encoding=UTF-8", READERS / "Reader.java", mode, archive)

    return run_java
