"""The first five minutes: what ``gateway demo`` prints can be pasted and works at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_core.testing.requirements import require_program
from gateway_core.testing.services import free_port


@asynccontextmanager
async def demo(folder: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running demo and the text it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    command = [sys.executable, "-m", "gateway_core", *options, "demo", "--port", str(free_port()), "--data-dir", "var"]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environ, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(30):
            text = (await process.stdout.readuntil(b"unzip -t collection.zip")).decode()
        yield process, text
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


def children(process: asyncio.subprocess.Process) -> str:
    """Numbers of its children, with spaces between them."""
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()


def program_of(pid: str) -> str:
    """Name of the module that a process runs."""
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return command[command.index("-m") + 1]


async def paste(folder: Path, text: str) -> tuple[int, str]:
    """Run the printed lines as a person would, in a shell of their own."""
    require_program("unzip")
    lines = text[text.index("    GATEWAY=") :]
    shell = await asyncio.create_subprocess_exec("bash", "-c", lines, cwd=folder, stdout=PIPE, stderr=PIPE)
    out, err = await shell.communicate()
    return shell.returncode, (out + err).decode()


async def test_the_printed_lines_give_a_zip_that_unzip_finds_sound(tmp_path):
    async with demo(tmp_path) as (_, text):
        code, told = await paste(tmp_path, text)
    assert code == 0, told
    assert "No errors detected in compressed data of collection.zip." in told
    assert "hello.txt" in told


async def test_the_second_run_has_the_same_secret(tmp_path):
    secrets = []
    for _ in range(2):
        async with demo(tmp_path) as (_, text):
            secrets.append(next(word for word in text.split() if word.startswith("gw_")))
    assert secrets[0] == secrets[1]


async def test_the_demo_is_one_process_and_what_makes_sandboxes_whatever_the_settings(tmp_path):
    async with demo(tmp_path, "--set", "workers=2") as (process, text):
        code, told = await paste(tmp_path, text)
        assert [program_of(pid) for pid in children(process).split()] == ["gateway_transform.box.zygote"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert code == 0, told
