"""Processes that start on a migrated database: most tests of processes are not about the first start of all."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gateway_core.testing import process
from gateway_core.testing.plugin import Serve

OURS = {"archive", "blocks", "pipe", "transform"}


@asynccontextmanager
async def serve_process(
    *arguments: str, data_dir: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[process.ServeProcess]:
    """``process.serve_process``; where ``env`` names plugins of ours, and no database, on one that was migrated."""
    await asyncio.to_thread(prepare, data_dir, env or {})
    async with process.serve_process(*arguments, data_dir=data_dir, env=env) as server:
        yield server


@pytest.fixture(name="serve_process")
def serve_prepared(tmp_path: Path) -> Serve:
    """The fixture for plugin authors, with ``serve_process`` of this module; for a conftest to import."""

    def serve(
        *arguments: str, env: Mapping[str, str] | None = None, data_dir: Path = tmp_path / "gateway"
    ) -> AbstractAsyncContextManager[process.ServeProcess]:
        return serve_process(*arguments, data_dir=data_dir, env=env)

    return serve


def prepare(data_dir: Path, env: Mapping[str, str]) -> None:
    """Put a migrated SQLite file where a gateway of ``env`` would make one, unless there is one."""
    plugins = env.get("GATEWAY_PLUGINS", "")
    file = data_dir / "gateway.db"
    if set(plugins.split(",")) <= OURS and "GATEWAY_DB_URL" not in env and not file.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(_migrated(plugins))


@functools.cache
def _migrated(plugins: str) -> bytes:
    """The file, as the command line makes it; migrating takes longer than the start itself."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "gateway_core", "--plugins", plugins, "db", "upgrade"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environ = {**inherited, "GATEWAY_DATA_DIR": folder}
        subprocess.run(command, env=environ, check=True, capture_output=True, timeout=60)
        return Path(folder, "gateway.db").read_bytes()
