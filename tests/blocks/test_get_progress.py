"""Progress on a terminal, in a log, and none at all."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import closing

import pytest

from gateway_blocks.get.progress import Bar, Display, Lines, Meter, display

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A pseudo-terminal: ``out`` is what a program writes to, ``shown()`` what came so far."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.out = os.fdopen(slave, "w", encoding="utf-8")
        self._bytes = b""

    def shown(self) -> str:
        try:
            while piece := os.read(self.master, 65536):
                self._bytes += piece
        except BlockingIOError:
            return self._bytes.decode()
        return self._bytes.decode()

    def close(self) -> None:
        self.out.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with closing(Terminal()) as made:
        yield made


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_speed_counts_only_what_came_since_the_start():
    meter = Meter(100, 60, 0.0)
    meter.done_bytes = 80
    assert meter.read(2.0).rate == 10.0
    assert meter.read(2.0).left_s == 2.0


def test_speed_forgets_what_is_long_ago():
    meter = Meter(1000, 0, 0.0)
    meter.done_bytes = 500
    rates = [meter.read(float(now)).rate for now in range(1, 30)]
    assert rates[0] == 500
    assert rates[-1] == 0
    assert meter.read(30.0).left_s is None


def test_log_gets_a_line_with_share_speed_and_time_left():
    clock, out = Clock(), io.StringIO()
    lines = Lines(out, clock=clock)
    lines.started("a.iso", 100 * MIB, 0)
    clock.now += 5
    lines.advanced("a.iso", 20 * MIB)
    lines.draw()
    assert out.getvalue() == "a.iso: 20%, 20.0 of 100 MiB, 4.00 MiB/s, 0:20 left\n"


def test_log_gets_no_line_for_a_file_that_is_over():
    out = io.StringIO()
    lines = Lines(out, clock=Clock())
    lines.started("a.iso", 100, 0)
    lines.settled("a.iso")
    lines.draw()
    assert out.getvalue() == ""


def test_log_gets_one_line_for_a_whole_folder():
    clock, out = Clock(), io.StringIO()
    lines = Lines(out, clock=clock)
    lines.planned(3, 100 * MIB)
    lines.started("a", 30 * MIB, 0)
    lines.settled("a", 30 * MIB)
    lines.started("b", 60 * MIB, 0)
    lines.advanced("b", 20 * MIB)
    clock.now += 5
    lines.draw()
    assert out.getvalue() == "1 of 3 files: 50%, 50.0 of 100 MiB, 10.0 MiB/s, 0:05 left\n"


def test_unknown_size_is_no_share_of_anything():
    clock, out = Clock(), io.StringIO()
    lines = Lines(out, clock=clock)
    lines.started("a", 0, 0)
    lines.advanced("a", 2048)
    clock.now += 1
    lines.draw()
    assert out.getvalue() == "a: 2.00 KiB, 2.00 KiB/s\n"


def test_remarks_become_lines_that_cannot_steer_the_terminal():
    out = io.StringIO()
    Lines(out).remarked("a\x1b[2J", "connection lost\r")
    assert out.getvalue() == "a\ufffd[2J: connection lost\ufffd\n"


def test_quiet_shows_complaints_only():
    out = io.StringIO()
    with display(out, quiet=True) as shown:
        shown.started("a", 10, 0)
        shown.remarked("a", "again")
        shown.tell("done")
        shown.complain("failed")
    assert out.getvalue() == "failed\n"


def test_nobody_reading_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.FileIO(writing, "w"), write_through=True) as out:
        Lines(out).tell("gone")
        with pytest.raises(BrokenPipeError):
            os.write(writing, b"gone indeed")


def test_terminal_gets_a_bar_and_a_pipe_gets_lines(terminal):
    assert type(display(terminal.out)) is Bar
    assert type(display(terminal.out, alone=False)) is Lines
    assert type(display(io.StringIO())) is Lines
    assert type(display(terminal.out, quiet=True)) is Display


@pytest.mark.parametrize("term", ["dumb", ""])
def test_terminal_that_cannot_move_its_cursor_gets_lines(terminal, monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    assert type(display(terminal.out)) is Lines


def test_bar_shows_share_size_speed_and_time_left(terminal):
    clock = Clock()
    with Bar(terminal.out, clock=clock) as bar:
        bar.started("a.iso", 100 * MIB, 0)
        bar.advanced("a.iso", 25 * MIB)
        clock.now += 5
        bar.draw()
        assert re.search(r"a\.iso ━+.*━* 25% 25\.0 of 100 MiB 5\.00 MiB/s 0:15", plain(terminal.shown()))


def test_bar_is_gone_at_the_end_and_lines_stay(terminal):
    with Bar(terminal.out, clock=Clock()) as bar:
        bar.started("a.iso", 100, 0)
        bar.draw()
        bar.tell("a.iso: done")
    ended = terminal.shown()
    assert plain(ended).count("a.iso: done") == 1
    assert "━" not in ended.rpartition("a.iso: done")[2].rpartition("\x1b[2K")[2]


def test_bar_never_leaves_the_cursor_hidden(terminal):
    with Bar(terminal.out, clock=Clock()) as bar:
        bar.started("a.iso", 100, 0)
        bar.draw()
        shown = terminal.shown()
        assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def test_names_in_a_bar_cannot_steer_the_terminal_nor_be_markup(terminal):
    with Bar(terminal.out, clock=Clock()) as bar:
        bar.started("[red]x\x1b]0;owned\x07", 100, 0)
        bar.remarked("[red]x\x1b]0;owned\x07", "lost")
        bar.draw()
    assert "\x1b]0" not in terminal.shown()
    assert "[red]x\ufffd]0;owned\ufffd: lost" in plain(terminal.shown())


@pytest.mark.parametrize("columns", [200, 100, 80, 79, 44])
def test_long_names_keep_their_end_and_the_bar_its_line(terminal, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with Bar(terminal.out, clock=Clock()) as bar:
        bar.started("pub/" * 50 + "last.iso", 5000 * MIB, 0)
        bar.advanced("pub/" * 50 + "last.iso", 4500 * MIB)
        bar.draw()
        row = [row for row in plain(terminal.shown()).split("\r") if "━" in row][-1].rstrip("\n")
    assert row.partition(" ")[0].endswith("last.iso")
    assert "90%" in row
    assert len(row) <= columns - len("^C")


def test_short_lived_files_of_a_folder_get_no_row(terminal):
    clock = Clock()
    with Bar(terminal.out, clock=clock) as bar:
        bar.planned(2, 200)
        bar.started("slow", 100, 0)
        clock.now += 1
        bar.started("quick", 100, 0)
        bar.draw()
        shown = plain(terminal.shown())
        assert "0 of 2 files" in shown
        assert "slow" in shown
        assert "quick" not in shown


def test_rich_is_loaded_for_a_bar_only():
    code = (
        "import io, sys; from gateway_blocks.get.progress import display;"
        "display(io.StringIO()).tell('x'); print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
