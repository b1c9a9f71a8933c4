"""When a node tries again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_pipe.link.model import Farewell, Goodbye
from gateway_pipe.node.backoff import Backoff

SEEDS = st.integers(0, 2**32)
TIMES = st.floats(0, 1e7)


@given(SEEDS, TIMES)
def test_after_a_link_breaks_the_first_try_comes_within_a_second(seed, now):
    assert now <= Backoff(Random(seed)).broke(now) <= now + 1


@given(SEEDS, TIMES, st.lists(st.floats(0, 12), min_size=1, max_size=60))
def test_tries_start_at_most_the_cap_apart_unless_one_itself_takes_longer(seed, now, durations):
    backoff = Backoff(Random(seed))
    began = backoff.broke(now)
    for duration in durations:
        backoff.trying(began)
        ended = began + duration
        following = backoff.failed(ended)
        cap = 5 if ended - now <= 60 else 60
        assert ended <= following <= max(ended, began + cap) + 1e-6
        began = following


@given(SEEDS)
def test_the_cap_grows_to_a_minute_and_stays_there(seed):
    backoff = Backoff(Random(seed))
    backoff.broke(0)
    caps = [backoff.cap(now) for now in range(0, 3600, 10)]
    assert caps == sorted(caps)
    assert caps[6] == 5
    assert caps[-1] == 60


@given(SEEDS, st.floats(1, 299))
def test_retry_after_is_waited_for_and_spread(seed, asked):
    backoff = Backoff(Random(seed))
    backoff.trying(0)
    assert 10 + asked <= backoff.failed(10, retry_after_s=asked) <= 10 + asked + max(1, asked / 2)


@given(SEEDS, st.floats(301, 1e9))
def test_no_server_can_ask_for_more_than_minutes(seed, asked):
    backoff = Backoff(Random(seed))
    backoff.trying(0)
    assert 300 <= backoff.failed(0, retry_after_s=asked) <= 450


@pytest.mark.parametrize(
    ("farewell", "least", "most"),
    [
        (Farewell(Goodbye.REPLACED, ""), 30, 60),
        (Farewell(Goodbye.REVOKED, ""), 60, 66),
        (Farewell(Goodbye.SHUTDOWN, "", 40), 40, 41),
        (Farewell(Goodbye.SHUTDOWN, ""), 0, 5),
        (Farewell(Goodbye.OVERLOAD, "", 20), 20, 30),
        (Farewell(Goodbye.PROTOCOL, "", 7), 7, 10.5),
        (Farewell(Goodbye.EXPIRED, ""), 0, 1),
        (Farewell(None, "broke"), 0, 1),
    ],
)
@given(seed=SEEDS)
def test_a_goodbye_says_when_to_come_again(farewell, least, most, seed):
    assert least <= Backoff(Random(seed)).broke(0, farewell=farewell) <= most


def test_a_shutdown_without_a_time_spreads_nodes_over_seconds():
    times = [Backoff(Random(n)).broke(0, farewell=Farewell(Goodbye.SHUTDOWN, "")) for n in range(500)]
    assert min(times) < 0.5
    assert max(times) > 4.5
    assert 2 < sum(times) / len(times) < 3


def test_failures_are_counted_until_there_is_a_link():
    backoff = Backoff(Random(1))
    backoff.trying(0)
    backoff.failed(0)
    backoff.failed(1)
    assert backoff.failures == 2
    backoff.broke(5)
    assert backoff.failures == 0
