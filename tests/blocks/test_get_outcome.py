"""Exit codes, and the line that says how a download ended."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from gateway_blocks.get.model import Checked, Differs, NoChecksums, NotThere, Stopped, Summary, Unreachable
from gateway_blocks.get.outcome import (
    Work,
    exit_code,
    failure_line,
    size_text,
    span_text,
    success_line,
    total_line,
    worst,
)
from gateway_core.errors import ConfigError, StorageFull

MIB = 1 << 20


def summary(**values) -> Summary:
    given = {"size_bytes": 100 * MIB, "checked": Checked.BLOCKS, "fetched_bytes": 100 * MIB, "seconds": 2.0, **values}
    return Summary("http://h/a", Path("a"), **given)


def test_line_tells_what_was_verified_fetched_and_reused_and_how_fast():
    line = success_line("a", summary(fetched_bytes=60 * MIB, reused_bytes=40 * MIB))
    assert line == "a: 100 MiB verified; fetched 60.0 MiB at 30.0 MiB/s, reused 40.0 MiB, took 2.0 s"


def test_line_says_plainly_what_is_not_verified():
    line = success_line("a", summary(checked=Checked.NONE))
    assert line == "a: 100 MiB NOT verified: the server has no checksums; fetched 100 MiB at 50.0 MiB/s, took 2.0 s"


def test_line_of_a_file_that_was_whole_already():
    line = success_line("a", summary(fetched_bytes=0, reused_bytes=100 * MIB))
    assert line == "a: 100 MiB verified; whole already, took 2.0 s"


def test_line_of_an_empty_file_claims_nothing_of_its_past():
    line = success_line("a", summary(size_bytes=0, fetched_bytes=0))
    assert line == "a: 0 bytes verified; fetched 0 bytes, took 2.0 s"


def test_line_counts_blocks_that_came_damaged():
    assert success_line("a", summary(bad_blocks=(4,))).endswith(", 1 block came damaged and was fetched again")
    assert success_line("a", summary(bad_blocks=(4, 7))).endswith(", 2 blocks came damaged and were fetched again")


def test_line_of_a_comparison():
    line = success_line("a", summary(fetched_bytes=0, reused_bytes=100 * MIB), Work.VERIFY)
    assert line == "a: 100 MiB verified; the same as the server's, took 2.0 s"


def test_line_of_a_repair():
    mended = summary(fetched_bytes=2 * MIB, reused_bytes=98 * MIB, bad_blocks=(3,))
    assert success_line("a", mended, Work.REPAIR) == (
        "a: 100 MiB verified; 1 block replaced, fetched 2.00 MiB at 1.00 MiB/s, reused 98.0 MiB, took 2.0 s"
    )
    whole = summary(fetched_bytes=0, reused_bytes=100 * MIB)
    assert success_line("a", whole, Work.REPAIR) == "a: 100 MiB verified; nothing to repair, took 2.0 s"


def test_total_counts_failures_and_what_is_not_verified():
    files = [summary(), summary(checked=Checked.NONE, size_bytes=5 * MIB, fetched_bytes=5 * MIB)]
    assert total_line(files, 1, 7.0) == (
        "total: 2 of 3 files, 100 MiB verified, 5.00 MiB NOT verified (no checksums), "
        "fetched 105 MiB at 15.0 MiB/s, took 7.0 s, 1 failed"
    )


def test_failure_of_a_comparison_names_the_first_blocks_and_the_way_out():
    line = failure_line("a", Differs("the local file differs", tuple(range(20))))
    assert line == (
        "a: the local file differs (20 blocks: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...); --repair fetches what differs"
    )


def test_failure_that_is_worth_retrying_says_that_nothing_is_lost():
    assert failure_line("a", Unreachable("h: connection refused")) == (
        "a: h: connection refused; the same command goes on from here"
    )


def test_failure_names_the_file_once():
    assert failure_line("x/a", Differs("x/a is not there")) == "x/a: not there"
    assert failure_line("a", Differs("a differs in 1 of 2 blocks")) == "a: differs in 1 of 2 blocks"


def test_text_of_a_server_cannot_steer_the_terminal():
    assert failure_line("a\x1b[2J\n", NotThere("no\r\x9b")) == "a\ufffd[2J\ufffd: no\ufffd\ufffd"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unreachable(), 1),
        (NotThere(), 1),
        (StorageFull(), 1),
        (ConfigError(), 2),
        (NoChecksums(), 3),
        (Differs("d"), 4),
        (Stopped(), 130),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert exit_code(error) == code


def test_worst_code_does_not_depend_on_the_order_of_files():
    order = [130, 2, 4, 3, 1, 0]
    for first, later in ((order[i], order[i:]) for i in range(len(order))):
        assert {worst(codes) for codes in permutations(later)} == {first}
    assert worst([]) == 0


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (10_035, "9.80 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (700 * MIB, "700 MiB"),
        (5_000_000_000, "4.66 GiB"),
        (1 << 70, "1048576 PiB"),
    ],
)
def test_sizes_have_three_digits(size_bytes, text):
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "40 ms"), (0.9999, "1.0 s"), (9.97, "10 s"), (59.6, "1:00"), (187, "3:07"), (3723, "1:02:03")],
)
def test_spans_are_short(seconds, text):
    assert span_text(seconds) == text
