"""The real ``gateway get`` as a process in a folder of its own, without settings or proxies of this machine."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, what it wrote to standard output, and the lines on standard error."""

    code: int
    out: bytes
    lines: list[str]

    @property
    def line(self) -> str:
        """The only line."""
        (line,) = self.lines
        return line


@dataclass(frozen=True, slots=True)
class GetCommand:
    """``await get(url, "-o", "x")``; ``here`` is the folder it runs in."""

    here: Path

    async def __call__(self, *arguments: str, **env: str) -> Ended:
        async with self.running(*arguments, **env) as process:
            return await ended(process)

    @asynccontextmanager
    async def running(self, *arguments: str, stdout: int = PIPE, **env: str) -> AsyncIterator[Process]:
        """The process, killed at the end of the block if it lives on."""
        process = await self._start(*arguments, env=env, stdin=DEVNULL, stdout=stdout, stderr=PIPE)
        try:
            yield process
        finally:
            await _end(process)

    @asynccontextmanager
    async def on_terminal(self, *arguments: str) -> AsyncIterator[tuple[Process, Terminal]]:
        """The process in the foreground of a terminal of its own."""
        master, slave = pty.openpty()
        process = await self._start(
            *arguments, env={"TERM": "xterm", "COLUMNS": "100"}, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        try:
            yield process, Terminal(master)
        finally:
            await _end(process)
            os.close(slave)
            os.close(master)

    async def _start(self, *arguments: str, env: Mapping[str, str], **how: Any) -> Process:
        plain = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.here), "LC_ALL": "C.UTF-8"}
        command = (sys.executable, "-P", "-m", "gateway_core", "get", *arguments)
        return await asyncio.create_subprocess_exec(*command, cwd=self.here, env={**plain, **env}, **how)

    def names(self) -> list[str]:
        """All files below the folder, sorted."""
        return sorted(str(path.relative_to(self.here)) for path in self.here.rglob("*") if not path.is_dir())


class Terminal:
    """What a process writes to its terminal, and what is typed there."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._shown = b""

    def type(self, text: str) -> None:
        """As from the keyboard."""
        os.write(self._master, text.encode())

    async def wait_for(self, text: str) -> None:
        """Until this was shown, colours aside; raises TimeoutError."""
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, readable.set)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while text not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode(errors="replace")):
                    await readable.wait()
                    readable.clear()
                    self._shown += os.read(self._master, 1 << 16)
        finally:
            loop.remove_reader(self._master)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ended(process: Process) -> Ended:
    """Wait for its end; raises TimeoutError after a minute."""
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate()
    return Ended(await process.wait(), out or b"", err.decode().splitlines())
