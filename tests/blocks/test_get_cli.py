"""``gateway get``: the real command against real servers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway_blocks.cli import get as command
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_behaviour import Stall
from tests.blocks.conftest import BLOCK, MakeServed, Served
from tests.blocks.get_command import GetCommand, ended

DATA = random.Random(7).randbytes(10 * BLOCK + 1000)
SIZE = r"[0-9.]+ (bytes|[KMG]iB)"
TOOK = r"took [0-9.]+ m?s"


@pytest.fixture
def get(tmp_path: Path) -> GetCommand:
    here = tmp_path / "here"
    here.mkdir()
    return GetCommand(here)


@pytest.fixture
async def plain():
    """A server without checksums."""
    async with Upstream() as upstream:
        yield upstream


def damage(path: Path, *blocks: int) -> None:
    data = bytearray(path.read_bytes())
    for block in blocks:
        data[block * BLOCK] ^= 0xFF
    path.write_bytes(data)


# What arrives, and what is said of it


async def test_file_arrives_verified_and_one_line_says_so(served: Served, get: GetCommand):
    served.put("a b.bin", DATA)
    done = await get(f"{served.url}/files/a%20b.bin")
    assert (done.code, done.out) == (0, b"")
    assert re.fullmatch(rf"a b\.bin: 641 KiB verified; fetched 641 KiB at {SIZE}/s, {TOOK}", done.line)
    assert get.names() == ["a b.bin"]
    assert (get.here / "a b.bin").read_bytes() == DATA


async def test_file_that_is_whole_is_not_fetched_again(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    await get(f"{served.url}/files/a.bin")
    done = await get(f"{served.url}/files/a.bin")
    assert done.code == 0
    assert re.fullmatch(rf"a\.bin: 641 KiB verified; whole already, {TOOK}", done.line)


async def test_output_names_a_file_or_a_folder_that_is_made(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    assert (await get(f"{served.url}/files/a.bin", "-o", "x.bin")).code == 0
    assert (await get(f"{served.url}/files/a.bin", "-o", "new/folder/")).code == 0
    assert get.names() == ["new/folder/a.bin", "x.bin"]


async def test_standard_output_gets_the_bytes_and_nothing_else(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    done = await get(f"{served.url}/files/a.bin", "-o", "-")
    assert done.code == 0
    assert done.out == DATA
    assert re.fullmatch(rf"a\.bin: 641 KiB verified; fetched .*, {TOOK}", done.line)
    assert get.names() == []


async def test_output_that_nobody_reads_is_a_failure_without_a_traceback(served: Served, get: GetCommand):
    served.put("a.bin", DATA * 10)
    reading, writing = os.pipe()
    os.close(reading)
    async with get.running(f"{served.url}/files/a.bin", "-o", "-", stdout=writing) as process:
        os.close(writing)
        done = await ended(process)
    assert (done.code, done.line) == (1, "a.bin: nobody reads the output any more")


async def test_closed_standard_error_does_not_matter(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    command = f'"{sys.executable}" -P -m gateway_core get {served.url}/files/a.bin 2>&-'
    process = await asyncio.create_subprocess_shell(command, cwd=get.here)
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    assert (get.here / "a.bin").read_bytes() == DATA


async def test_server_without_checksums_is_said_plainly(plain: Upstream, get: GetCommand):
    done = await get(plain.add("/a.bin", DATA))
    assert done.code == 0
    assert re.fullmatch(
        rf"a\.bin: 641 KiB NOT verified: the server has no checksums; fetched 641 KiB at {SIZE}/s, {TOOK}", done.line
    )
    assert (get.here / "a.bin").read_bytes() == DATA


async def test_checksums_can_be_required(plain: Upstream, get: GetCommand):
    done = await get(plain.add("/a.bin", DATA), "--require-verify")
    assert done.code == 3
    assert "no checksums" in done.line
    assert get.names() == []


async def test_quiet_says_nothing_but_errors(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    done = await get("-q", f"{served.url}/files/a.bin", f"{served.url}/files/none")
    assert done.code == 1
    assert done.line.startswith("none: ")


async def test_missing_file_is_a_failure_in_the_words_of_the_server(served: Served, get: GetCommand):
    done = await get(f"{served.url}/files/none.bin")
    assert done.code == 1
    assert done.line.startswith("none.bin: ")
    assert "not found" in done.line.lower()
    assert get.names() == []


async def test_several_files_end_with_the_worst_code_and_a_total(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    served.put("b.bin", b"b" * 100)
    urls = [f"{served.url}/files/{name}" for name in ("a.bin", "none", "b.bin")]
    done = await get(*urls, "-o", "in")
    assert done.code == 1
    assert get.names() == ["in/a.bin", "in/b.bin"]
    assert [line.partition(":")[0] for line in done.lines] == ["in/a.bin", "in/none", "in/b.bin", "total"]
    assert re.fullmatch(rf"total: 2 of 3 files, 641 KiB verified, fetched .*, {TOOK}, 1 failed", done.lines[-1])


# A local file against the server's


async def test_verify_says_whether_a_file_is_the_same(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    (get.here / "a.bin").write_bytes(DATA)
    same = await get("--verify", f"{served.url}/files/a.bin")
    assert same.code == 0
    assert re.fullmatch(rf"a\.bin: 641 KiB verified; the same as the server's, {TOOK}", same.line)
    damage(get.here / "a.bin", 3, 7)
    before = (get.here / "a.bin").read_bytes()
    differs = await get("--verify", f"{served.url}/files/a.bin")
    assert differs.code == 4
    assert "2 blocks: 3, 7" in differs.line
    assert (get.here / "a.bin").read_bytes() == before


async def test_repair_fetches_only_what_differs(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    local = get.here / "old.bin"
    local.write_bytes(DATA)
    damage(local, 3)
    done = await get("--repair", f"{served.url}/files/a.bin", "-o", "old.bin")
    assert done.code == 0
    assert re.fullmatch(
        rf"old\.bin: 641 KiB verified; 1 block replaced, fetched 64\.0 KiB at {SIZE}/s, reused 577 KiB, {TOOK}",
        done.line,
    )
    assert local.read_bytes() == DATA
    assert get.names() == ["old.bin"]


async def test_seed_is_reused(served: Served, get: GetCommand):
    served.put("a.bin", DATA)
    (get.here / "old.bin").write_bytes(DATA[: 6 * BLOCK])
    done = await get(f"{served.url}/files/a.bin", "--seed", "old.bin")
    assert done.code == 0
    assert "fetched 257 KiB" in done.line
    assert "reused 384 KiB" in done.line


# Who is asking


async def test_secret_comes_from_option_environment_or_file(make_served: MakeServed, get: GetCommand):
    async with make_served({"public": False}) as served:
        served.put("a.bin", DATA)
        secret = await served.gateway.secret("blocks:read")
        url = f"{served.url}/files/a.bin"
        (get.here / "client.json").write_text(json.dumps({"secret": secret}))
        refused = await get(url)
        assert (refused.code, get.names()) == (1, ["client.json"])
        assert (await get(url, "-o", "1", "--secret", secret)).code == 0
        assert (await get(url, "-o", "2", GATEWAY_SECRET=secret)).code == 0
        assert (await get(url, "-o", "3", "--credentials", "client.json", GATEWAY_SECRET="other")).code == 0


async def test_headers_and_secret_are_sent_to_the_own_server_only(plain: Upstream, get: GetCommand):
    async with Upstream() as other:
        target = other.add("/a.bin", DATA)
        url = plain.redirect("/a.bin", target)
        done = await get(url, "-H", "X-Who: me", GATEWAY_SECRET="s1")
        assert done.code == 0
        assert {request.headers.get("Authorization") for request in plain.requests} == {"Bearer s1"}
        assert {request.headers.get("X-Who") for request in plain.requests} == {"me"}
        assert other.requests
        assert not any(name in request.headers for request in other.requests for name in ("Authorization", "X-Who"))


async def test_secret_of_the_environment_is_for_the_server_of_the_environment(plain: Upstream, get: GetCommand):
    url = plain.add("/a.bin", DATA)
    await get(url, GATEWAY_SECRET="s1", GATEWAY_URL="http://127.0.0.1:1/")
    assert plain.requests
    assert not any("Authorization" in request.headers for request in plain.requests)


async def test_user_in_the_url_is_stronger_than_the_environment(plain: Upstream, get: GetCommand):
    url = plain.add("/a.bin", DATA).replace("//", "//ann:pw@")
    assert (await get(url, GATEWAY_SECRET="s1")).code == 0
    assert {request.headers.get("Authorization") for request in plain.requests} == {"Basic YW5uOnB3"}


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_signal_stops_and_the_same_command_goes_on(plain: Upstream, get: GetCommand, number, code):
    url = plain.add("/a.bin", DATA, Stall(after=8 * BLOCK, method="GET", times=1))
    async with get.running(url, "-j", "1") as process:
        await plain.wait_for(lambda: any(request.sent_bytes >= 8 * BLOCK for request in plain.requests), timeout_s=30)
        process.send_signal(number)
        done = await ended(process)
    assert done.code == code
    assert done.line == "a.bin: stopped; the same command goes on from here"
    assert "a.bin.part" in get.names()
    assert (await get(url)).code == 0
    assert (get.here / "a.bin").read_bytes() == DATA


async def test_files_after_the_stop_are_left_alone(plain: Upstream, get: GetCommand):
    first = plain.add("/a.bin", DATA, Stall(after=0, method="GET"))
    second = plain.add("/b.bin", DATA)
    async with get.running(first, second) as process:
        await plain.wait_requests(1, path="/a.bin", timeout_s=30)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert (done.code, len(done.lines)) == (130, 1)
    assert plain.seen("/b.bin") == []


async def test_second_signal_ends_even_what_does_not_stop(get: GetCommand):
    code = (
        "import threading, time; from gateway_blocks.get.command import stopped_by_signals; stop = threading.Event()\n"
        "with stopped_by_signals(stop):\n"
        "    print('ready', flush=True); stop.wait(); print('stopping', flush=True)\n"
        "    while True: time.sleep(60)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGINT)
            assert await process.stdout.readline() == b"stopping\n"
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 143
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_signal_that_was_ignored_stays_ignored():
    code = (
        "import os, signal, threading; from gateway_blocks.get.command import stopped_by_signals\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); stop = threading.Event()\n"
        "with stopped_by_signals(stop) as caught:\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM); stop.wait()\n"
        "print(caught == [signal.SIGTERM], signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True True\n"


async def test_terminal_shows_a_bar_and_its_ctrl_c_stops(plain: Upstream, get: GetCommand):
    url = plain.add("/a.bin", DATA, Stall(after=8 * BLOCK, method="GET", times=1))
    async with get.on_terminal(url, "-j", "1") as (process, terminal):
        await terminal.wait_for("of 641 KiB")
        terminal.type("\x03")
        async with asyncio.timeout(30):
            assert await process.wait() == 130
        await terminal.wait_for("a.bin: stopped; the same command goes on from here")


# Usage


def refused(*arguments: str, **env: str) -> str:
    """Standard error of a call that is none; nothing is asked of any server."""
    done = CliRunner().invoke(command, arguments, env={"GATEWAY_SECRET": None, "GATEWAY_URL": None, **env})
    assert done.exit_code == 2, done.output
    return done.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "URL..."),
        (["ftp://h/a"], "http"),
        (["http:///a"], "URL"),
        (["http://h/a", "-j", "0"], "--jobs"),
        (["http://h/a", "--verify", "--repair"], "--verify and --repair"),
        (["http://h/a", "http://h/b", "-o", "-"], "--output -"),
        (["http://h/a", "-o", "-", "--verify"], "--verify"),
        (["http://h/a", "-o", "-", "--repair"], "--repair"),
        (["http://h/a", "-o", "-", "--recursive"], "--recursive"),
        (["http://h/a", "http://h/b", "--mirror", "http://c/a"], "--mirror"),
        (["http://h/a", "--mirror", "c"], "--mirror"),
        (["http://h/"], "--recursive"),
        (["http://h/pub/?x=/y"], "--recursive"),
        (["http://h/a", "--limit-rate", "fast"], "--limit-rate"),
        (["http://h/a", "-H", "Range: bytes=0-1"], "--header"),
        (["http://h/a", "-H", "no colon"], "--header"),
        (["http://h/a", "-H", "X: a\nY: b"], "--header"),
        (["http://h/a", "--seed", "missing"], "--seed"),
        (["http://h/a", "-o", "missing/a"], "--output"),
        (["http://h/a", "http://g/a"], "--output"),
        (["http://h/folder"], "--output"),
        (["http://h/pub", "-r", "-o", "file"], "--output"),
        (["http://h/pub", "-r", "--verify", "-o", "missing"], "--output"),
        (["http://h/a", "--verify", "-o", "missing/"], "--output"),
        (["http://h/a", "http://g/b", "--secret", "s"], "secret"),
        (["http://h/a", "--secret", "a\nb"], "--secret"),
        (["http://h/a", "--credentials", "file"], "--credentials"),
    ],
)
def test_wrong_usage_is_told_by_the_name_of_the_option(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("{}")
    assert words in refused(*arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_secret_of_the_environment_is_not_spread_over_several_servers():
    assert "several" in refused("http://h/a", "http://g/b", GATEWAY_SECRET="s")


def test_environment_that_is_wrong_is_told_by_its_name():
    assert "GATEWAY_URL" in refused("http://h/a", GATEWAY_SECRET="s", GATEWAY_URL="nowhere")


def test_error_about_a_header_does_not_repeat_it():
    assert "hunter2" not in refused("http://h/a", "-H", "Authorization hunter2")


async def test_help_names_every_option_and_exit_code(get: GetCommand):
    done = await get("--help")
    assert done.code == 0
    text = done.out.decode()
    for option in ("--output", "--jobs", "--recursive", "--verify", "--repair", "--seed", "--mirror", "--limit-rate"):
        assert option in text
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130 "):
        assert re.search(rf"^  +{code} +\S", text, re.MULTILINE), code


def test_command_loads_no_server_and_no_progress_bar():
    heavy = ("aiohttp", "sqlalchemy", "pydantic", "rich", "gateway_core.settings", "gateway_core.server")
    code = f"import gateway_blocks.get.command, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
