"""What HTTP says and what a link's streams say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.errors import BadRequest, NotFound
from gateway_pipe.link.http import (
    check_request,
    http_error,
    is_strict,
    lax_head,
    parse_timeout,
    server_timing,
    strict_head,
    strip_headers,
)
from gateway_pipe.link.model import DeadlinePassed, Head, LinkError, LinkLost, Reset, StreamReset


def test_headers_of_one_connection_stay_there():
    pairs = [
        ("Connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("Keep-Alive", "5"),
        ("TE", "trailers"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Authorization", "Bearer x"),
        ("Accept", "a"),
        ("accept", "b"),
    ]
    assert strip_headers(pairs, {"authorization"}) == (("Accept", "a"), ("accept", "b"))


@pytest.mark.parametrize("pair", [("Bad Name", "x"), ("X", "a\r\nY: b"), ("X", "a\x00"), ("", "x"), ("X:", "y")])
def test_headers_that_could_split_a_message_are_left_out(pair):
    assert strip_headers([pair]) == ()


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8))))
def test_what_is_left_of_any_headers_is_some_of_them_in_their_order(pairs):
    left = list(strip_headers(pairs))
    rest = iter(pairs)
    assert all(pair in rest for pair in left)


@pytest.mark.parametrize(("text", "seconds"), [("1", 1), ("0.25", 0.25), (" 30 ", 30), ("999999999", 999999999)])
def test_time_limits_are_decimal_seconds(text, seconds):
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1e3", "inf", "nan", "1,5", "10s", "٣", "1" * 10])
def test_other_time_limits_are_refused(text):
    with pytest.raises(BadRequest, match="X-Request-Timeout"):
        parse_timeout(text)


@pytest.mark.parametrize(("text", "strict"), [("", False), ("lax", False), ("Strict", True)])
def test_the_mode_of_statuses(text, strict):
    assert is_strict(text) is strict


def test_another_mode_is_refused():
    with pytest.raises(BadRequest, match="X-Pipe-Status"):
        is_strict("real")


def test_lax_is_always_200_and_strict_is_the_status_itself():
    head = Head(status=502, code=251, headers=(("Content-Type", "application/json"),))
    headers = (("Content-Type", "application/json"), ("X-Event-Return-Code", "251"))
    assert lax_head(head) == (200, headers)
    assert strict_head(head) == (502, headers)


def test_a_node_cannot_give_its_own_return_code_date_or_interim_status():
    head = Head(status=101, code=3, headers=(("x-event-return-code", "0"), ("Date", "x"), ("Server", "y")))
    assert strict_head(head) == (502, (("X-Event-Return-Code", "3"),))


@pytest.mark.parametrize("lengths", [["x"], ["1", "2"], ["-1"], [""]])
def test_lengths_that_mean_nothing_are_left_out(lengths):
    head = Head(headers=tuple(("Content-Length", length) for length in lengths))
    assert lax_head(head)[1] == (("X-Event-Return-Code", "0"),)


def test_a_length_is_kept_and_bytes_that_are_no_text_become_question_marks():
    head = Head(headers=(("Content-Length", "12"), ("X-A", "caf\udce9")))
    assert lax_head(head)[1][:2] == (("Content-Length", "12"), ("X-A", "caf?"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LinkLost(started=False), 503),
        (LinkLost(started=True), 502),
        (DeadlinePassed(), 504),
        (StreamReset(Reset.REFUSED), 503),
        (StreamReset(Reset.DEADLINE), 504),
        (StreamReset(Reset.FORBIDDEN), 403),
        (StreamReset(Reset.GONE), 410),
        (StreamReset(Reset.INTERNAL), 502),
        (StreamReset(Reset.CANCEL), 502),
        (LinkError("x"), 502),
        (NotFound(), 404),
    ],
)
def test_each_failure_has_its_status(error, status):
    assert http_error(error).status == status


def test_a_refusal_says_when_to_try_again():
    assert http_error(StreamReset(Reset.REFUSED, "busy", retry_after_s=7.2)).headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("method", "target"), [("get", "x"), ("G_T", "x"), ("", "x"), ("GET", "a b"), ("GET", "a\x7f")]
)
def test_what_no_stream_may_have_is_refused(method, target):
    with pytest.raises(BadRequest):
        check_request(method, target)


def test_server_timing_is_milliseconds_by_name():
    assert server_timing({"wait": 0.5, "link": 12.345}) == "wait;dur=0.50, link;dur=12.35"
