"""``gateway pipe connect`` as a process, as its users start it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

MODULES = Path(__file__).parent / "modules"
START_TIMEOUT_S = 30.0


class NodeProcess:
    """A running node; ``logs`` are its JSON log lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.logs: list[dict[str, Any]] = []
        self.process = process
        self._changed = asyncio.Condition()
        self.reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait_log(self, *events: str, count: int = 1) -> dict[str, Any]:
        """The ``count``-th line whose event is one of these."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.logs if line.get("event") in events]

        async with self._changed:
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await self._changed.wait_for(lambda: len(found()) >= count or self.process.returncode is not None)
            except TimeoutError:
                raise RuntimeError(f"no {events} in {self.logs}") from None
        if len(found()) < count:
            raise RuntimeError(f"the node ended with {self.process.returncode}: {self.logs}")
        return found()[count - 1]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(30):
            code = await self.process.wait()
            await self.reading
        return code

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for raw in self.process.stdout:
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": raw.decode(errors="replace").rstrip("\n")}
            async with self._changed:
                self.logs.append(line)
                self._changed.notify_all()
        await self.process.wait()
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def node_process(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, prefix: tuple[str, ...] = ()
) -> AsyncIterator[NodeProcess]:
    """``gateway pipe connect`` with ``arguments`` until the end of the block; ``prefix`` is a command that runs it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *(sys.executable, "-P", "-m", "gateway_core", "pipe", "connect", *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(MODULES), "GATEWAY_LOG_FORMAT": "json", **(env or {})},
    )
    node = NodeProcess(process)
    try:
        yield node
    finally:
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await node.stop()
        if process.returncode is None:
            process.kill()
            await process.wait()
        node.reading.cancel()
        await asyncio.wait({node.reading})
