"""``gateway transform run`` and ``list`` as people call them, against a gateway that works."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE

import click
import pytest
import pytest_asyncio

from gateway_core import ConfigError
from gateway_core.testing import Upstream
from gateway_transform.cli import transform
from tests.transform.job_stand import Caller, JobStand, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Ended:
    """How the command ended, the paths it printed, and what it said."""

    code: int
    paths: list[str]
    lines: list[str]


@dataclass(frozen=True)
class Person:
    """A client at a command line, in a folder of its own."""

    here: Path
    url: str
    caller: Caller

    async def __call__(self, *arguments: str, **env: str) -> Ended:
        async with self.running(*arguments, **env) as process, asyncio.timeout(30):
            out, err = await process.communicate()
        assert process.returncode is not None
        ended = Ended(process.returncode, out.decode().splitlines(), err.decode().splitlines())
        assert not any(line.startswith("Traceback") for line in ended.lines)
        return ended

    @asynccontextmanager
    async def running(self, *arguments: str, stderr: int = PIPE, **env: str) -> AsyncIterator[Process]:
        """The process, killed at the end of the block if it lives on."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway_core", "transform", *arguments),
            cwd=self.here,
            env={**inherited, "GATEWAY_URL": self.url, "GATEWAY_SECRET": self.caller.secret, **env},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=stderr,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def write(self, **files: str) -> None:
        """Text files: ``a_txt`` is ``a.txt``."""
        for name, text in files.items():
            (self.here / name.replace("_", ".")).write_text(text)

    def files(self, folder: str = ".") -> dict[str, str]:
        """Text files below a folder, by path."""
        top = self.here / folder
        return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


@pytest_asyncio.fixture(loop_scope="module")
async def person(working_stand: JobStand, tmp_path: Path) -> Person:
    return Person(tmp_path, working_stand.gateway.url, await working_stand.caller())


async def test_what_the_job_makes_comes_home(person):
    (person.here / "in").mkdir()
    (person.here / "in" / "b.txt").write_text("beta")
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "in", "-t", "uppercase", "-t", "copy_here:folder=copies", "-o", "out")
    assert (done.code, done.paths) == (0, ["out/a.txt", "out/copies/a.txt"])
    assert person.files("out") == {"a.txt": "ALPHA", "copies/a.txt": "ALPHA"}
    assert done.lines[-1].startswith("2 files written, ran 0.")


async def test_a_file_that_is_there_and_differs_is_not_overwritten(person):
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "-t", "uppercase")
    assert (done.code, done.paths) == (1, [])
    assert "a.txt was not written: another file is there; --force overwrites it" in done.lines
    assert person.files() == {"a.txt": "alpha"}
    assert (await person("run", "a.txt", "-t", "uppercase", "--force")).code == 0
    assert person.files() == {"a.txt": "ALPHA"}


async def test_a_failed_job_says_why_and_leaves_its_log_on_request(person):
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "-t", "uppercase", "-t", "explode", "-o", "out", "--keep-log")
    assert (done.code, done.paths) == (1, ["out/out.log"])
    assert "WARNING: this will not go well" in done.lines
    assert any("it did not go well" in line for line in done.lines)
    assert done.lines[-1].startswith("failed: failed: ")
    assert done.lines[-1].endswith("(step explode)")
    log = [json.loads(line) for line in person.files("out")["out.log"].splitlines()]
    assert "this will not go well" in [line["message"] for line in log]


async def test_an_unknown_step_is_refused_before_it_runs(working_stand, person):
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "-t", "upercase")
    assert (done.code, done.paths) == (2, [])
    assert "transformations.0.name" in done.lines[-1]
    assert await working_stand.rows(person.caller.client) == []


async def test_without_strict_an_unknown_step_is_a_warning(person):
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "-t", "upercase", "--no-strict")
    assert done.code == 0
    assert "WARNING: No such transformation: upercase" in done.lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing parameter: files"),
        (["a.txt"], "Missing parameter: steps"),
        (["a.txt", "-t", "x:y"], "is not OPTION=VALUE"),
        (["no.txt", "-t", "uppercase"], "no.txt: No such file or directory"),
        (["a.txt", "-t", "uppercase", "-o", "a.txt"], "is a file"),
        (["a.txt", "-t", "uppercase", "--secret", "a\nb"], "printable ASCII"),
    ],
)
async def test_wrong_usage_is_told_before_anything_is_sent(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    asked = ["run", *arguments, "--server", "http://127.0.0.1:1"]
    with pytest.raises((click.UsageError, ConfigError), match=said):
        transform.main(asked, prog_name="transform", standalone_mode=False)


async def test_a_wrong_secret_is_denied(person):
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "-t", "uppercase", GATEWAY_SECRET="wrong")
    assert done.code == 1
    assert "403 Forbidden" in done.lines[-1]


async def test_a_gateway_that_is_not_there_is_told(person):
    person.write(a_txt="alpha")
    done = await person("run", "a.txt", "-t", "uppercase", "--server", "http://127.0.0.1:1")
    assert (done.code, done.lines) == (1, ["gateway: http://127.0.0.1:1: Connection refused"])


async def test_a_folder_that_cannot_be_made_is_told(person):
    person.write(a_txt="alpha", wall="x")
    done = await person("run", "a.txt", "-t", "uppercase", "-o", "wall/out")
    assert (done.code, done.lines) == (1, ["gateway: wall/out: Not a directory"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_the_job(working_stand, person, number, code):
    person.write(a_txt="alpha")
    async with person.running("run", "a.txt", "-t", "nap", "-o", "out") as process:

        async def running() -> bool:
            return [row.state for row in await working_stand.rows(person.caller.client)] == ["running"]

        await eventually(running)
        process.send_signal(number)
        async with asyncio.timeout(20):
            _, err = await process.communicate()
    assert (process.returncode, err.decode().splitlines()) == (code, ["cancelled"])

    async def cancelled() -> bool:
        return [row.state for row in await working_stand.rows(person.caller.client)] == ["cancelled"]

    await eventually(cancelled)
    assert person.files("out") == {}


async def test_the_hook_is_passed_on(person):
    person.write(a_txt="alpha")
    async with Upstream() as receiver:
        url = receiver.add("/hook", b"")
        done = await person("run", "a.txt", "-t", "copy_here", "-o", "out", "--hook", url)
        assert done.code == 0

        async def told() -> bool:
            return any(request.path == "/hook" for request in receiver.requests)

        await eventually(told)


async def test_a_terminal_shows_the_step(person):
    person.write(a_txt="alpha")
    master, slave = pty.openpty()
    try:
        async with person.running("run", "a.txt", "-t", "nap:seconds=2.5", "-o", "out", stderr=slave) as process:
            async with asyncio.timeout(30):
                assert await process.wait() == 0
        shown = os.read(master, 1 << 16).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "\r\x1b[Krunning nap\r\x1b[K" in shown
    assert shown.endswith("\r\x1b[K0 files written, ran 2.5 s\r\n")


async def test_transformations_are_listed(person):
    done = await person("list")
    assert (done.code, done.lines) == (0, [])
    assert ["uppercase", "Upper", "case", "alphabet=all|latin"] in [line.split() for line in done.paths]
    assert ["nap", "Nap"] in [line.split() for line in done.paths]


async def test_transformations_come_as_json_with_their_limits(person):
    told = json.loads("\n".join((await person("list", "--json")).paths))
    assert told["nap"]["help"] == "Sleeps"
    assert set(told["nap"]["limits"]) == {"seconds", "memory_mb", "network"}
