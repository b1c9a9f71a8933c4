"""The limit on the rate of downloads: its spelling, and that it holds over threads."""

from __future__ import annotations

import threading
import time

import pytest

from gateway_blocks.get.limit import RateLimit, parse_rate
from gateway_blocks.get.model import Stopped
from gateway_core.errors import ConfigError
from tests.blocks.get_serving import stops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("0k", 0),
        ("1000", 1000),
        ("500k", 512_000),
        ("2M", 2 << 20),
        (" 2 MB ", 2 << 20),
        ("1.5MiB", 3 << 19),
        ("1g", 1 << 30),
        ("0.0001", 1),
    ],
)
def test_rates_are_spelt_in_powers_of_1024(text, expected):
    assert parse_rate(text) == expected


@pytest.mark.parametrize("text", ["", "k", "-1", "1e6", "2T", "1,5M", "2 M M", "inf", "nan", "\u0661", "1" * 16])
def test_other_rates_are_refused_by_name(text):
    with pytest.raises(ConfigError) as raised:
        parse_rate(text)
    assert repr(text) in str(raised.value)


def test_no_limit_waits_for_nothing():
    RateLimit(0).take(1 << 60, threading.Event())


@pytest.mark.parametrize(("rate", "expected"), [(0, 1 << 20), (1, 4096), (400_000, 100_000), (1 << 30, 1 << 20)])
def test_reads_are_small_where_the_limit_is(rate, expected):
    assert RateLimit(rate).piece_bytes == expected


def test_all_threads_together_stay_below_the_limit():
    rate, each, threads = 100_000, 10_000, 4
    limit, stop, began = RateLimit(rate), threading.Event(), time.monotonic()

    def receive() -> None:
        for _ in range(each // 1000):
            limit.take(1000, stop)

    running = [threading.Thread(target=receive) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    burst_s = 0.25
    assert time.monotonic() - began >= threads * each / rate - burst_s


def test_idle_time_is_not_saved_up():
    limit, stop = RateLimit(100_000), threading.Event()
    limit.take(1, stop)
    time.sleep(0.6)  # longer than the quarter of a second that may be saved
    began = time.monotonic()
    limit.take(40_000, stop)
    assert time.monotonic() - began >= 0.14


def test_a_stop_ends_the_wait():
    limit, stop = RateLimit(1), threading.Event()
    asked = threading.Event()

    def receive() -> None:
        asked.set()
        limit.take(1000, stop)

    assert stops(receive, stop, once=lambda: asked.wait(5))


def test_after_a_stop_nothing_passes():
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        RateLimit(1).take(1000, stop)
