"""The real ``gateway`` command line in processes of its own: what operators start, signal and read the logs of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

from aiohttp import ClientError, ClientSession

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 45.0
COMMAND_TIMEOUT_S = 60.0
_LOG_TIMEOUT_S = 5.0
_POLL_S = 0.05
_LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


async def run_gateway(*arguments: str, data_dir: Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run ``gateway`` with ``arguments`` to its end; raises TimeoutError after a minute.

    ``env`` is added to the environment, of which no ``GATEWAY_`` names are passed on.
    """
    process = await _start(arguments, _environment(data_dir, env), stderr=PIPE)
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            out, err = await process.communicate()
    finally:
        await _end(process)
    return Finished(await process.wait(), out.decode(), err.decode())


@asynccontextmanager
async def serve_process(
    *arguments: str, data_dir: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[ServeProcess]:
    """``gateway serve`` on a free port until the end of the block, ready when it begins.

    ``env`` as for ``run_gateway``. Raises RuntimeError with the log when it does not become ready in 30 s.
    """
    environment = _environment(data_dir, env)
    process = await _start(["serve", "--host", "127.0.0.1", "--port", "0", *arguments], environment, stderr=STDOUT)
    server = ServeProcess(process, data_dir, env or {})
    reading = asyncio.create_task(server.read_log(), name="log of gateway serve")
    try:
        await server.wait_ready()
        yield server
    finally:
        if process.returncode is None:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                await server.stop()
        await _end(process)
        await asyncio.wait({reading}, timeout=STOP_TIMEOUT_S)
        reading.cancel()


class ServeProcess:
    """A running ``gateway serve``; made by ``serve_process``.

    ``logs`` are its JSON log lines as they come, a line that is none is ``{"event": <the line>}``.
    """

    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path, env: Mapping[str, str]) -> None:
        self.logs: list[dict[str, Any]] = []
        self.url = ""
        self._process = process
        self._data_dir = data_dir
        self._env = env
        self._changed = asyncio.Event()
        self._log_ended = asyncio.Event()

    @property
    def pid(self) -> int:
        """Of the process that was started, with ``--workers`` the parent of those that answer."""
        return self._process.pid

    def session(self, **options: Any) -> ClientSession:
        """An HTTP client whose URLs are paths of the main port; close it, or use it as an async context manager."""
        return ClientSession(self.url, **options)

    async def command(self, *arguments: str) -> Finished:
        """Run another ``gateway`` command beside it, with the same settings."""
        return await run_gateway(*arguments, data_dir=self._data_dir, env=self._env)

    async def secret(self, *scopes: str) -> str:
        """The secret of a new client; without ``scopes`` it gets what any new client gets."""
        wanted = [part for scope in scopes for part in ("--scope", scope)]
        done = await self.command("client", "add", f"test-{uuid.uuid4().hex[:8]}", "--json", *wanted)
        if done.code:
            raise RuntimeError(done.err)
        return str(json.loads(done.out)["secret"])

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, and do not wait."""
        self._process.send_signal(number)

    async def stop(self) -> int:
        """Send SIGTERM and wait for its end; returns the exit code, raises TimeoutError after 45 s."""
        self.send_signal(signal.SIGTERM)
        return await self.wait()

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, raises TimeoutError after 45 s.

        ``logs`` are whole then, unless a child outlives it by more than 5 s.
        """
        async with asyncio.timeout(STOP_TIMEOUT_S):
            code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOG_TIMEOUT_S):
                await self._log_ended.wait()
        return code

    async def wait_log(self, event: str, *, count: int = 1) -> list[dict[str, Any]]:
        """Wait until ``event`` was logged ``count`` times; returns those lines, raises TimeoutError after 30 s."""
        await self._wait_for(lambda: len(self._logged(event)) >= count)
        return self._logged(event)

    async def wait_ready(self) -> None:
        """Wait for the port and for ``/readyz`` to answer 200; ``serve_process`` does it."""
        try:
            await self._wait_for(lambda: any(line.get("url") for line in self._logged("ready")))
            self.url = next(line["url"] for line in self._logged("ready") if line.get("url"))
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._wait_readyz()
        except TimeoutError as error:
            raise RuntimeError(f"gateway serve did not become ready:\n{self._tail()}") from error

    async def read_log(self) -> None:
        """Fill ``logs`` until the process and its children have closed the stream; ``serve_process`` does it."""
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            self.logs.append(_parsed(raw.decode(errors="replace")))
            self._notify()
        self._log_ended.set()
        await self._process.wait()
        self._notify()

    def _logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.logs if line.get("event") == event]

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not condition():
                if self._process.returncode is not None:
                    raise RuntimeError(f"gateway serve ended with {self._process.returncode}:\n{self._tail()}")
                await self._changed.wait()

    async def _wait_readyz(self) -> None:
        async with self.session() as session:
            for _ in range(round(START_TIMEOUT_S / _POLL_S)):
                with contextlib.suppress(ClientError):
                    async with session.get("/readyz") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(_POLL_S)
        raise TimeoutError

    def _tail(self) -> str:
        return "\n".join(json.dumps(line) for line in self.logs[-40:])


def _parsed(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"event": text.rstrip("\n")}


def _environment(data_dir: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return {**inherited, "GATEWAY_DATA_DIR": str(data_dir), "GATEWAY_LOG_FORMAT": "json", **(env or {})}


async def _start(
    arguments: Sequence[str], environment: Mapping[str, str], *, stderr: int
) -> asyncio.subprocess.Process:
    command = [sys.executable, "-P", "-m", "gateway_core", *arguments]  # -P: as the installed script, not from "."
    return await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=stderr, env=environment, limit=_LONGEST_LINE_BYTES
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
