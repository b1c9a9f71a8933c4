"""What a target names."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_core import BadRequest
from gateway_pipe.handlers.nouns import Noun, method_name, parse


@pytest.mark.parametrize(
    ("target", "method", "args"),
    [
        ("time", "get_time", ()),
        ("time/utc", "get_time_utc", ()),
        ("cat//hello%20/world", "get_cat", ("hello ", "world")),
        ("time/", "get_time_", ()),
        ("", "get_", ()),
        ("cat//", "get_cat", ("",)),
        ("cat//a/", "get_cat", ("a", "")),
        ("cat//a//b", "get_cat", ("a", "", "b")),
        ("cat///a", "get_cat", ("", "a")),
        ("//time", "get_", ("time",)),
        ("Time", "get_Time", ()),
        ("a-b.c", "get_a-b.c", ()),
    ],
)
def test_targets_name_methods_and_arguments_as_in_restpipe_but_lose_none(target, method, args):
    noun = parse(target)
    assert (method_name("GET", noun.name), noun.args) == (method, args)


def test_an_escaped_slash_splits_no_argument():
    assert parse("cat//a%2Fb/c").args == ("a/b", "c")


def test_escaped_slashes_in_a_noun_begin_no_arguments():
    assert parse("cat%2F%2Fx") == Noun("cat//x")


def test_the_query_is_kept_with_all_values_in_their_order():
    assert parse("cat//a?x=1&y=%C3%A4+b&x=2&empty=").query == (("x", "1"), ("y", "ä b"), ("x", "2"), ("empty", ""))


def test_a_question_mark_in_an_argument_is_escaped_or_begins_the_query():
    assert parse("cat//a%3Fb?c") == Noun("cat", ("a?b",), (("c", ""),))


@pytest.mark.parametrize("target", ["cat//%FF", "%ff", "time?x=%ff", "time?%C3=1", "cat//\udcff"])
def test_what_is_no_utf8_is_the_callers_error(target):
    with pytest.raises(BadRequest):
        parse(target)


def test_a_query_of_too_many_fields_is_the_callers_error():
    with pytest.raises(BadRequest):
        parse("time?" + "a=1&" * 1001)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_any_arguments_arrive_as_they_were(args):
    assert parse("cat//" + "/".join(quote(arg, safe="") for arg in args)).args == tuple(args)


def test_head_is_answered_by_the_method_of_get():
    assert method_name("HEAD", "time") == "get_time"
