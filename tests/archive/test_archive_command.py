"""``gateway archive``: what people get from it when all is well, and when it is not."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from gateway_archive.client.command import archive as command
from gateway_archive.client.model import Order, Unreachable
from gateway_archive.client.part import Part, Record, Wanted
from gateway_archive.client.progress import Lines, display
from gateway_archive.client.run import Call, carry_out
from gateway_core.cli.remote import Remote
from gateway_core.errors import ConfigError
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_behaviour import Changed, Cut, Stall, Status, WrongRange
from tests.archive.archive_command import REPORT, ArchiveCommand, Played, cutting, ended, zip_of
from tests.archive.stand import Stand, entries_of, standing

DATA = random.Random(1).randbytes(400_000)
ZIP = zip_of({"a.bin": DATA, "b.txt": b"bbb"})


@pytest.fixture
def played(upstream: Upstream) -> Played:
    return Played(upstream)


@pytest.fixture
def archive(tmp_path: Path, upstream: Upstream) -> ArchiveCommand:
    here = tmp_path / "here"
    here.mkdir()
    return ArchiveCommand(here, upstream.base_url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    folder = tmp_path_factory.mktemp("stand")
    settings = {"plugins": "archive", "archive": {"stall_timeout_s": 1.5, "resume_tries": 0}}
    async with standing(folder, settings, templates=gateway_templates) as stood:
        yield stood


@pytest.fixture
def real_archive(tmp_path: Path, real: Stand) -> ArchiveCommand:
    return ArchiveCommand(tmp_path, real.gateway.url, real.secret)


# From a real gateway


@pytest.mark.asyncio(loop_scope="module")
async def test_urls_become_a_checked_zip_with_the_names_given(real: Stand, real_archive: ArchiveCommand):
    urls = [real.add("/one", 300_000), real.add("/two", 10)]
    done = await real_archive(*urls, "--name", "first.bin", "--path", "data")
    assert done.code == 0, done.err
    assert real_archive.names() == ["collection.zip"]
    truth = {"data/first.bin": real.upstream.content("/one"), "data/two": real.upstream.content("/two")}
    assert entries_of((real_archive.here / "collection.zip").read_bytes()) == truth
    assert "collection.zip: " in done.err
    assert "2 files, every checksum holds" in done.err


@pytest.mark.asyncio(loop_scope="module")
async def test_missing_files_are_told_and_have_an_exit_code_of_their_own(real: Stand, real_archive: ArchiveCommand):
    done = await real_archive(real.add("/there", 100), real.add("/gone", 5, Status(404)), "-o", "x.zip", "--json", "-q")
    assert done.code == 3, done.err
    assert [(one["name"], one["reason"]) for one in done.json["missing"]] == [("gone", "gone: status 404")]
    assert (done.json["file"], done.json["files"], done.json["missing_count"]) == ("x.zip", 1, 1)
    assert done.err.splitlines()[0] == "missing: gone: gone: status 404"
    assert real_archive.names() == ["x.zip"]


@pytest.mark.asyncio(loop_scope="module")
async def test_files_that_were_skipped_count_as_missing(real: Stand, real_archive: ArchiveCommand):
    urls = (real.add("/there", 100), real.add("/gone", 5, Status(404)))
    done = await real_archive(*urls, "-o", "x.zip", "--on-error", "skip")
    assert done.code == 3, done.err
    assert "1 file missing" in done.err


@pytest.mark.asyncio(loop_scope="module")
async def test_abort_ends_at_once_with_the_reason_and_leaves_nothing(real: Stand, real_archive: ArchiveCommand):
    urls = (real.add("/gone", 5, Status(404)), real.add("/there", 100))
    done = await real_archive(*urls, "-o", "x.zip", "--on-error", "abort")
    assert done.code == 1
    assert "gone: status 404" in done.err
    assert "trying again" not in done.err
    assert real_archive.names() == []


@pytest.mark.asyncio(loop_scope="module")
async def test_order_that_the_gateway_refuses_is_wrong_usage(real_archive: ArchiveCommand):
    done = await real_archive("gopher://host/x")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "422" in done.err
    assert "only these URLs can be fetched" in done.err


@pytest.mark.asyncio(loop_scope="module")
async def test_wrong_secret_is_told_with_what_to_do(real: Stand, tmp_path: Path):
    done = await ArchiveCommand(tmp_path, real.gateway.url, "wrong")("http://127.0.0.1/x")
    assert done.code == 1
    assert "GATEWAY_SECRET" in done.err


@pytest.mark.asyncio(loop_scope="module")
async def test_cut_download_of_a_real_archive_goes_on_in_the_middle(real: Stand, tmp_path: Path):
    urls = [real.add("/first", 600_000), real.add("/second", 600_000), real.add("/third", 50)]
    async with cutting(real.gateway.url, 200_000, 500_000) as cut:
        archive = ArchiveCommand(tmp_path, cut.url, real.secret)
        done = await archive(*urls, "-o", "x.zip", "--json")
    assert (done.code, done.json["resumed"], done.json["fetched"]) == (0, 2, done.json["size"]), done.err
    truth = {name: real.upstream.content(f"/{name}") for name in ("first", "second", "third")}
    assert entries_of((tmp_path / "x.zip").read_bytes()) == truth
    assert [b"\r\nRange: bytes=" in head for head in cut.heads] == [False, False, True, True]


@pytest.mark.asyncio(loop_scope="module")
async def test_tar_of_a_real_gateway_is_read_to_its_end(real: Stand, real_archive: ArchiveCommand):
    done = await real_archive(real.add("/one", 300_000), real.add("/gone", 5, Status(404)), "--format", "tar")
    assert done.code == 3, done.err
    assert "missing: gone: gone: status 404" in done.err
    with tarfile.open(real_archive.here / "collection.tar") as opened:
        assert opened.getnames() == ["one", REPORT]


# What is asked for


async def test_list_of_urls_and_headers_reach_the_gateway(played: Played, archive: ArchiveCommand):
    played.gives(ZIP)
    listed = b"\xef\xbb\xbf# a list\nhttp://h/b\n\n  http://h/c \n"
    done = await archive("http://h/a", "--from", "-", "-H", "X-Key: k1", "-o", "x.zip", piped=listed)
    asked = json.loads(played.upstream.seen("/ticket/generate")[0].body)
    headers = {"X-Key": "k1"}
    assert asked["items"] == [{"url": f"http://h/{name}", "headers": headers} for name in "abc"], done.err
    assert played.upstream.seen("/ticket/generate")[0].headers["Authorization"] == "Bearer s3cret"
    assert "Authorization" not in played.downloads[0].headers


async def test_standard_output_gets_the_archive_alone(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Cut(100_000, times=1))
    done = await archive("http://h/a", "-o", "-")
    assert (done.code, done.out) == (0, ZIP), done.err
    assert archive.names() == []


async def test_file_that_is_there_is_not_overwritten_unless_it_is_named(played: Played, archive: ArchiveCommand):
    (archive.here / "collection.zip").write_bytes(b"mine")
    played.gives(ZIP)
    done = await archive("http://h/a", "http://h/b")
    assert done.code == 0, done.err
    assert archive.names() == ["collection (2).zip", "collection.zip"]
    assert (archive.here / "collection.zip").read_bytes() == b"mine"


async def test_names_cannot_leave_the_folder_or_steer_the_terminal(played: Played, archive: ArchiveCommand):
    report = b"1 of 3 files\r\n\r\n\x1b]0;owned\x07.txt\r\n    from http://h/c\r\n    gone: status 404\r\n"
    named = {"Content-Disposition": 'attachment; filename="../../.ssh/\x1b[2Jkeys"'}
    played.gives(zip_of({"a": b"1", "b": b"2", REPORT: report}), headers=named)
    done = await archive("http://h/a", "http://h/b", "http://h/c")
    assert (done.code, archive.names()) == (3, ["_[2Jkeys"]), done.err
    assert "\ufffd]0;owned\ufffd.txt" in done.err
    assert not {c for c in done.err if not c.isprintable()} - {"\n"}


# Breaks


async def test_breaks_end_in_the_same_bytes(played: Played, archive: ArchiveCommand):
    played.gives(
        ZIP, Cut(100_000, times=1), Status(503, {"Retry-After": "0"}, times=1), Cut(50_000, times=1), etag='"v1"'
    )
    done = await archive("http://h/a", "http://h/b", "-o", "x.zip", "--json")
    assert (done.code, done.json["resumed"], done.json["fetched"]) == (0, 2, len(ZIP)), done.err
    assert (archive.here / "x.zip").read_bytes() == ZIP
    assert played.ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert {request.headers.get("If-Range") for request in played.downloads[1:]} == {'"v1"'}


async def test_killed_command_goes_on_when_it_is_called_again(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Stall(200_000, times=1))
    order = ("http://h/a", "http://h/b")
    async with archive.running(*order) as process:
        await until_size(archive.here / "collection.zip.part", 200_000)
        process.kill()
        await process.wait()
    assert archive.names() == ["collection.zip.part", "collection.zip.part.json"]
    assert (archive.here / "collection.zip.part.json").stat().st_mode & 0o777 == 0o600
    done = await archive(*order)
    assert done.code == 0, done.err
    assert (archive.here / "collection.zip").read_bytes() == ZIP
    assert played.ranges == [None, "bytes=200000-"]
    assert len(played.upstream.seen("/ticket/generate")) == 1
    assert archive.names() == ["collection.zip"]


async def test_archive_that_changed_comes_from_the_start(played: Played, archive: ArchiveCommand):
    other = zip_of({"a.bin": DATA[::-1], "b.txt": b"BBB"})
    played.gives(ZIP, Cut(100_000, times=1), Changed(other))
    done = await archive("http://h/a", "http://h/b", "-o", "x.zip")
    assert (done.code, played.ranges) == (0, [None, "bytes=100000-"]), done.err
    assert (archive.here / "x.zip").read_bytes() == other
    assert "has changed" in done.err


async def test_part_from_another_place_is_not_taken(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Cut(100_000, times=1), WrongRange(-5, times=1))
    done = await archive("http://h/a", "http://h/b", "-o", "x.zip")
    assert (done.code, played.ranges) == (0, [None, "bytes=100000-", None]), done.err
    assert (archive.here / "x.zip").read_bytes() == ZIP


async def test_damage_is_found_and_nothing_gets_the_name(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Cut(100_000, times=1), WrongRange(-5, honest=False, times=1))
    done = await archive("http://h/a", "http://h/b", "-o", "x.zip")
    assert done.code == 1
    assert "a.bin" in done.err
    assert archive.names() == []


async def test_archive_of_unknown_length_begins_again_after_a_break(played: Played, archive: ArchiveCommand):
    played.gives_chunks(ZIP, Cut(100_000, times=1))
    done = await archive("http://h/a", "http://h/b", "-o", "x.zip")
    assert (done.code, played.ranges) == (0, [None, None]), done.err
    assert (archive.here / "x.zip").read_bytes() == ZIP


async def test_too_many_breaks_without_progress_keep_what_came(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Cut(100_000, times=1), Status(503, {"Retry-After": "0"}))
    done = await archive("http://h/a", "-o", "x.zip", "--tries", "2")
    assert (done.code, len(played.downloads)) == (1, 3), done.err
    assert "the same command goes on from there" in done.err
    assert (archive.here / "x.zip.part").read_bytes() == ZIP[:100_000]


async def test_turn_in_the_queue_is_waited_for(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Status(403, {"Retry-After": "0"}, times=3))
    done = await archive("http://h/a", "http://h/b", "-o", "x.zip", "--tries", "0")
    assert (done.code, len(played.downloads)) == (0, 4), done.err


async def test_expired_ticket_of_an_earlier_call_gives_way_to_a_new_one(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Cut(100_000, times=1), Status(502))
    assert (await archive("http://h/a", "http://h/b", "--tries", "0")).code == 1
    played.upstream.add(played.path, b"", Status(404))
    later = Played(played.upstream)
    later.gives(ZIP)
    done = await archive("http://h/a", "http://h/b")
    assert (done.code, later.ranges) == (0, [None]), done.err
    assert (archive.here / "collection.zip").read_bytes() == ZIP


async def test_ticket_that_ends_on_the_way_is_not_gone_on_with(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Cut(100_000, times=1), Status(404))
    done = await archive("--ticket", played.ticket)
    assert (done.code, "goes on from there" in done.err) == (1, False), done.err


async def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(played: Played, archive: ArchiveCommand):
    played.gives(ZIP, Stall(200_000))
    async with archive.running("http://h/a", "-o", "x.zip") as process:
        await until_size(archive.here / "x.zip.part", 200_000)
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.code == 130, done.err
    assert "are in x.zip.part; the same command goes on from there" in done.err
    assert (archive.here / "x.zip.part").read_bytes() == ZIP[:200_000]


async def until_size(path: Path, size_bytes: int) -> None:
    """Wait until the file has so many bytes."""
    async with asyncio.timeout(20):
        while not path.exists() or path.stat().st_size < size_bytes:
            await asyncio.sleep(0.01)


# Part files


def part_with(target: Path, data: bytes, **told: object) -> None:
    """A part file of ticket ``t`` that holds ``data``."""
    with Part(target) as part:
        part.begin(Record("f", "http://h", "t", "zip", "application/zip", '"e"', 1000))
        part.write(data)
    path = target.with_name(f"{target.name}.part.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))


def test_bytes_that_a_crash_of_the_machine_may_have_lost_are_not_believed(tmp_path: Path):
    part_with(tmp_path / "x", b"a" * 500, boot="another", synced_bytes=300)
    with Part(tmp_path / "x") as part:
        assert part.done_bytes == 300


def test_bytes_are_believed_while_the_machine_runs(tmp_path: Path):
    part_with(tmp_path / "x", b"a" * 500)
    with Part(tmp_path / "x") as part:
        assert part.done_bytes == 500


def test_part_file_of_another_program_is_left_alone(tmp_path: Path):
    (tmp_path / "x.part").write_bytes(b"somebody's")
    with pytest.raises(Exception, match="in the way"):
        Part(tmp_path / "x")
    assert (tmp_path / "x.part").read_bytes() == b"somebody's"


def test_part_file_is_for_one_process_at_a_time(tmp_path: Path):
    with Part(tmp_path / "x"), pytest.raises(Exception, match="another download"):
        Part(tmp_path / "x")


def test_only_bytes_of_the_same_order_or_ticket_are_gone_on_with():
    record = Record("f", "http://h", "t", "zip", "application/zip")
    assert Wanted("f", "http://h", "zip").fits(record)
    assert Wanted("g", "http://h", "zip", "t").fits(record)
    assert not Wanted("g", "http://h", "zip").fits(record)
    assert not Wanted("g", "http://h", "tar", "t").fits(record)


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_a_bar_that_ends_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = display(out := Terminal())
    shown.begin("downloading", 25 << 20, 100 << 20)
    shown.tell("a line \x1b[2J[red]above[/red]")
    shown.close()
    assert "25% 25.0 of 100 MiB" in out.getvalue()
    assert "a line \ufffd[2J[red]above[/red]\n" in out.getvalue()


def test_log_gets_a_line_every_five_seconds():
    now = 0.0
    lines = Lines(out := io.StringIO(), clock=lambda: now)
    lines.begin("downloading", 0, 500 << 20)
    for _ in range(10):
        now += 1
        lines.advance(10 << 20)
    first, second = out.getvalue().splitlines()
    assert first == "downloading: 10%, 50.0 of 500 MiB, 10.0 MiB/s, 0:45 left"
    assert second == "downloading: 20%, 100 of 500 MiB, 10.0 MiB/s, 0:40 left"


# Usage


def usage(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, env={"GATEWAY_URL": None, "GATEWAY_SECRET": None})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "no URL"),
        (("http://h/a", "--name", "a", "--name", "b"), "2 names"),
        (("http://h/a", "--ticket", "00000000-0000-0000-0000-000000000000"), "stands for the URLs"),
        (("--ticket", "../x"), "hex digits"),
        (("http://h/a", "-H", "no colon"), "NAME: VALUE"),
        (("http://h/a", "-o", "nowhere/x.zip"), "no folder"),
        (("http://h/a", "-o", os.devnull), "no file"),
        (("http://h/a", "-o", "-", "--json"), "exclude"),
        (("http://h/a", "--secret", "gw_\u00fc"), "ASCII"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(arguments: tuple[str, ...], word: str):
    done = usage(*arguments)
    assert done.exit_code == 2
    assert word in done.output


def test_name_that_no_folder_takes_is_wrong_usage():
    with pytest.raises(ConfigError, match="too long"):
        command.main(["http://h/a", "-o", "x" * 300], standalone_mode=False)


def test_closed_standard_output_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(click.UsageError, match="closed"):
        command.main(["http://h/a", "-o", "-"], standalone_mode=False)


def test_failure_is_told_although_standard_output_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    call = Call(Remote("http://127.0.0.1:1"), Order(), tmp_path, into=True, quiet=True, as_json=True)
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=True))
        with pytest.raises(Unreachable):
            carry_out(call)


def test_command_loads_no_server_and_no_progress_bar():
    heavy = ("aiohttp", "sqlalchemy", "pydantic", "rich", "isal", "gateway_core.settings", "gateway_core.server")
    code = f"import gateway_archive.client.run, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
