"""Frames and their metadata: what is written is read again, and whatever else comes is refused, never taken."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.errors import BadRequest
from gateway_pipe.link import messages
from gateway_pipe.link.frames import Type, frame, parse
from gateway_pipe.link.model import Farewell, Goodbye, Head, Hello, Kind, Opening, ProtocolViolation, Reset

names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)
values = st.text(st.characters(blacklist_characters="\0\r\n"), max_size=50)
headers = st.lists(st.tuples(names, values), max_size=5).map(tuple)
openings = st.builds(
    Opening,
    kind=st.sampled_from(Kind),
    method=st.sampled_from(["GET", "POST", "M-SEARCH"]),
    target=st.text(st.characters(min_codepoint=0x21, blacklist_characters="\x7f"), max_size=50),
    headers=headers,
    node=st.sampled_from(["", "node1", "a.b-c"]),
    call=st.sampled_from(["", "0" * 32]),
    key=st.sampled_from(["", "my key"]),
    timeout_ms=st.none() | st.integers(0, 10**9),
)


@given(openings)
def test_an_opening_is_read_as_it_was_written(opening):
    assert messages.parse_open(messages.open_payload(opening, opening.timeout_ms)) == opening


@given(st.builds(Head, status=st.integers(100, 599), code=st.integers(0, 10**6), headers=headers))
def test_a_head_is_read_as_it_was_written(head):
    assert messages.parse_head(messages.head_payload(head)) == head


def test_the_other_payloads_are_read_as_they_were_written():
    farewell = Farewell(Goodbye.SHUTDOWN, "bye", 2.5)
    assert messages.parse_farewell(messages.farewell_payload(farewell)) == farewell
    assert messages.parse_reset(messages.reset_payload(Reset.REFUSED, "no", 1)) == (Reset.REFUSED, "no", 1)
    hello = Hello(name="node1", instance="i", version="1", tags=("a",), nouns=("time",), apps=("x",), epoch=7)
    assert messages.parse_hello(messages.hello_payload(hello)) == hello


def test_header_bytes_that_are_no_utf8_survive():
    head = Head(headers=(("x-name", b"caf\xe9".decode("utf-8", "surrogateescape")),))
    assert messages.parse_head(messages.head_payload(head)) == head


@given(st.lists(st.tuples(st.sampled_from(Type), st.booleans(), st.integers(0, 2**32 - 1), st.binary(max_size=50))))
def test_frames_of_one_message_are_read_as_they_were_written(frames):
    message = b"".join(frame(kind, stream, payload, fin=fin) for kind, fin, stream, payload in frames)
    if frames:
        assert list(parse(message)) == frames


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_violation(message):
    with contextlib.suppress(ProtocolViolation):
        assert list(parse(message))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(JSON | st.tuples(*[JSON] * 3) | st.tuples(*[JSON] * 8))
def test_any_json_is_metadata_or_a_violation(value):
    payload = json.dumps(value).encode()
    for read in (
        messages.parse_open,
        messages.parse_head,
        messages.parse_reset,
        messages.parse_farewell,
        messages.parse_hello,
    ):
        with contextlib.suppress(ProtocolViolation):
            read(payload)


@pytest.mark.parametrize(
    "hello",
    [
        {"name": "../etc"},
        {"name": ""},
        {"name": "x" * 129},
        {"instance": ""},
        {"instance": "a\nb"},
        {"window": 1},
        {"window": 2**40},
        {"streams": 0},
        {"ping_s": -1},
        {"ping_s": None},
        {"tags": "a"},
        {"nouns": ["\x1b[2J"]},
        {"protocol": 2},
    ],
    ids=lambda hello: next(iter(hello)) + "=" + repr(next(iter(hello.values())))[:12],
)
def test_a_hello_that_cannot_be_believed_is_refused(hello):
    good = json.loads(messages.hello_payload(Hello(name="node1", instance="i")))
    messages.parse_hello(json.dumps(good).encode())
    with pytest.raises(ProtocolViolation):
        messages.parse_hello(json.dumps({**good, **hello}).encode())


def test_metadata_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="65536"):
        messages.head_payload(Head(headers=(("x", "y" * 70_000),)))


@pytest.mark.parametrize(
    "opening",
    [
        {"method": "get"},
        {"method": "G T"},
        {"target": "a b"},
        {"headers": (("a b", "c"),)},
        {"headers": (("a", "b\r\nc: d"),)},
        {"headers": (("a", "b" * 70_000),)},
        {"key": "é"},
    ],
    ids=["lower case method", "method", "target", "header name", "header value", "too much", "key"],
)
def test_what_the_other_end_would_take_for_a_violation_is_a_bad_request_here(opening):
    good = {"kind": Kind.NOUN, "method": "GET", "target": "time"}
    messages.open_payload(Opening(**good), None)
    with pytest.raises(BadRequest):
        messages.open_payload(Opening(**{**good, **opening}), None)
