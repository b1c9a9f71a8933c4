"""The quickstart of pipe, pasted as it is written into two terminals: what it shows is what comes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway_core.testing.requirements import require_program
from gateway_core.testing.services import free_port

PAGE = Path(__file__).parents[2] / "docs" / "quickstart-pipe.md"
PORTS = ("8000", "9443", "8788")
PATIENCE_S = 30.0
BLOCK = re.compile(
    r"^<!-- (?P<to>[^\n]+) -->\n```\w+\n(?P<text>.*?)^```\n(?:\n```(?:json)?\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
BLANK = re.compile(r"\b(gwp?)_\.\.\.")
PRINTED = re.compile(r"\b(gwp?)_[\w-]{40,}$", re.MULTILINE)


class Step(NamedTuple):
    """Where a block goes, a terminal or a file; its text, and what the page shows below it."""

    to: str
    text: str
    shown: str


class Terminal:
    """A shell, and everything that it and what it started have said."""

    def __init__(self, shell: asyncio.subprocess.Process) -> None:
        self._shell = shell
        self._said = ""

    async def paste(self, text: str, shown: str) -> str:
        """Run the lines and wait until what the page shows has come; returns what came."""
        begin = len(self._said)
        wanted = pattern(shown)
        self._shell.stdin.write(f"{text}\necho; echo prompt$((1))\n".encode())
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (wanted.search(self._said, begin) and "prompt1\n" in self._said[begin:]):
                    said = await self._shell.stdout.read(65536)
                    assert said, f"the shell has ended:\n{self._said}"
                    self._said += said.decode()
        except TimeoutError as error:
            raise AssertionError(f"{text}\ngave\n{self._said[begin:]}\nand not\n{shown}") from error
        return self._said[begin:]


def pattern(shown: str) -> re.Pattern[str]:
    """``...`` is anything, and blanks are of any width: answers end without a line break."""
    parts = (r"\s*".join(map(re.escape, part.split())) for part in shown.split("..."))
    return re.compile(r".*?".join(parts), re.DOTALL)


@asynccontextmanager
async def terminal(folder: Path, port: int) -> AsyncIterator[Terminal]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    environ["GATEWAY_PORT"] = str(port)
    shell = await asyncio.create_subprocess_exec(
        "bash", cwd=folder, env=environ, stdin=PIPE, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    try:
        yield Terminal(shell)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        await shell.communicate()


def filled(printed: dict[str, str], blank: re.Match[str]) -> str:
    """The secret or token that was printed last, where the page says ``gw_...`` or ``gwp_...``."""
    return printed[blank[1]]


def steps(page: str) -> list[Step]:
    return [Step(found["to"], found["text"], found["shown"] or "") for found in BLOCK.finditer(page)]


async def test_the_page_does_what_it_says(tmp_path):
    require_program("curl")
    page, ports = PAGE.read_text(), {port: free_port() for port in PORTS}
    for port, free in ports.items():
        page = page.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
    page = page.replace("pipe connect --dir", f"pipe connect --local 127.0.0.1:{ports['8788']} --dir")
    printed: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        shells = [await stack.enter_async_context(terminal(tmp_path, ports["8000"])) for _ in range(2)]
        terminals = {f"terminal {number}": shell for number, shell in enumerate(shells, 1)}
        for to, text, shown in steps(page):
            if to not in terminals:
                (tmp_path / to).write_text(text)
                continue
            said = await terminals[to].paste(BLANK.sub(partial(filled, printed), text), shown)
            printed |= {found[1]: found[0] for found in PRINTED.finditer(said)}
    assert set(printed) == {"gw", "gwp"}
