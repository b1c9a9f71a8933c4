from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway_core.http.conditional import (
    ETag,
    Validators,
    Verdict,
    applicable_range,
    evaluate,
    format_http_date,
    parse_http_date,
)

MODIFIED = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
NOW = Validators(ETag("v1"), MODIFIED + 0.7)
PROCEED, NOT_MODIFIED, FAILED = Verdict.PROCEED, Verdict.NOT_MODIFIED, Verdict.PRECONDITION_FAILED


def verdict(method: str = "GET", current: Validators = NOW, **fields: str) -> Verdict:
    return evaluate(method, CIMultiDict({name.replace("_", "-"): value for name, value in fields.items()}), current)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, PROCEED) for text in ('"v1"', "*", " * ", '"a", "v1"', ',, "a" ,\t"v1",', '"a","v1"', 'W/"a", "v1"')),
        *((text, FAILED) for text in ('"v2"', 'W/"v1"', "v1", "", '"v1', '"a" "v1"', '*, "v1"', 'w/"v1"', '"v1"x')),
    ],
)
def test_if_match_needs_the_same_strong_tag(value: str, expected: Verdict) -> None:
    assert verdict("PUT", If_Match=value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, NOT_MODIFIED) for text in ('"v1"', 'W/"v1"', "*", '"a,b", W/"v1"')),
        *((text, PROCEED) for text in ('"v2"', "v1", '"V1"', '"a, v1"', "")),
    ],
)
def test_if_none_match_compares_weakly(value: str, expected: Verdict) -> None:
    assert verdict("GET", If_None_Match=value) is expected


def test_if_none_match_fails_writing_methods() -> None:
    assert verdict("PUT", If_None_Match='W/"v1"') is FAILED
    assert verdict("HEAD", If_None_Match='"v1"') is NOT_MODIFIED


def test_a_star_asks_whether_there_is_anything() -> None:
    nothing = Validators(exists=False)
    assert verdict("PUT", nothing, If_None_Match="*") is PROCEED
    assert verdict("PUT", nothing, If_Match="*") is FAILED
    assert verdict("PUT", Validators(), If_Match="*") is PROCEED


def test_a_weak_current_tag_matches_no_if_match() -> None:
    weak = Validators(ETag("v1", weak=True))
    assert verdict("PUT", weak, If_Match='W/"v1"') is FAILED
    assert verdict("GET", weak, If_None_Match='"v1"') is NOT_MODIFIED


@pytest.mark.parametrize(
    ("value", "expected"),
    [(DATE, NOT_MODIFIED), (LATER, NOT_MODIFIED), (EARLIER, PROCEED), ("yesterday", PROCEED), ("", PROCEED)],
)
def test_if_modified_since_compares_whole_seconds(value: str, expected: Verdict) -> None:
    assert verdict("GET", If_Modified_Since=value) is expected


def test_if_modified_since_is_for_reading_methods_only() -> None:
    assert verdict("POST", If_Modified_Since=DATE) is PROCEED


@pytest.mark.parametrize(
    ("value", "expected"), [(DATE, PROCEED), (LATER, PROCEED), (EARLIER, FAILED), ("yesterday", PROCEED)]
)
def test_if_unmodified_since_fails_when_it_changed_later(value: str, expected: Verdict) -> None:
    assert verdict("PUT", If_Unmodified_Since=value) is expected


def test_dates_are_ignored_where_no_modification_date_is_known() -> None:
    unknown = Validators(ETag("v1"))
    assert verdict("GET", unknown, If_Modified_Since=LATER) is PROCEED
    assert verdict("GET", unknown, If_Unmodified_Since=EARLIER) is PROCEED


def test_tags_win_over_dates() -> None:
    assert verdict("GET", If_Match='"v1"', If_Unmodified_Since=EARLIER) is PROCEED
    assert verdict("GET", If_None_Match='"v2"', If_Modified_Since=LATER) is PROCEED


def test_if_match_is_decided_before_if_none_match() -> None:
    assert verdict("GET", If_Match='"v2"', If_None_Match='"v1"') is FAILED
    assert verdict("GET", If_Match='"v1"', If_None_Match='"v1"') is NOT_MODIFIED
    assert verdict("GET", If_Unmodified_Since=EARLIER, If_None_Match='"v1"') is FAILED


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT"])
def test_methods_without_a_representation_ignore_conditions(method: str) -> None:
    assert verdict(method, If_Match='"v2"') is PROCEED


def test_lines_of_one_field_are_one_list() -> None:
    headers = CIMultiDict([("If-Match", '"a"'), ("if-match", '"v1"')])
    assert evaluate("PUT", headers, NOW) is PROCEED


def test_verdicts_name_their_status() -> None:
    assert [found.status for found in (PROCEED, NOT_MODIFIED, FAILED)] == [None, 304, 412]


RANGE = "bytes=0-1"


@pytest.mark.parametrize(
    ("if_range", "obeyed"),
    [
        ('"v1"', True),
        ('"v2"', False),
        ('W/"v1"', False),
        ("v1", False),
        (DATE, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        (LATER, False),
        (EARLIER, False),
        ("", False),
        ('"v1", "v2"', False),
    ],
)
def test_if_range_needs_the_very_same_version(if_range: str, *, obeyed: bool) -> None:
    headers = CIMultiDict({"Range": RANGE, "If-Range": if_range})
    assert applicable_range("GET", headers, NOW) == (RANGE if obeyed else None)


def test_if_range_never_holds_for_weak_validators() -> None:
    weak = Validators(ETag("v1", weak=True), MODIFIED, modified_strong=False)
    for if_range in ('"v1"', 'W/"v1"', DATE):
        assert applicable_range("GET", CIMultiDict({"Range": RANGE, "If-Range": if_range}), weak) is None


def test_range_is_for_get_only() -> None:
    assert applicable_range("GET", CIMultiDict({"Range": RANGE}), NOW) == RANGE
    assert applicable_range("HEAD", CIMultiDict({"Range": RANGE}), NOW) is None
    assert applicable_range("GET", CIMultiDict(), NOW) is None


def test_headers_of_validators_round_down_to_the_second() -> None:
    assert NOW.headers() == {"ETag": '"v1"', "Last-Modified": DATE}
    assert Validators().headers() == {}


TAGS = st.builds(
    ETag,
    st.text(st.characters(min_codepoint=0x21, exclude_characters='"\x7f', exclude_categories=["Cc"])),
    st.booleans(),
)


@given(TAGS)
def test_tags_survive_the_header(tag: ETag) -> None:
    assert ETag.parse(str(tag)) == tag


@given(st.lists(TAGS, max_size=5), TAGS)
def test_a_tag_matches_a_list_exactly_when_it_is_in_it(tags: list[ETag], current: ETag) -> None:
    value = " , ".join(map(str, tags))
    found = verdict("GET", Validators(current), If_None_Match=value)
    assert (found is NOT_MODIFIED) == (current.tag in [tag.tag for tag in tags])


@given(st.text(alphabet='W/"v1*, \t\\a', max_size=30))
def test_any_list_is_decided_without_an_error(value: str) -> None:
    assert verdict("PUT", If_Match=value, If_None_Match=value) in {PROCEED, FAILED}


@pytest.mark.parametrize("text", ['a"b', "a b", "a\r\n", "\x7f"])
def test_text_that_cannot_be_a_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an entity tag"):
        ETag(text)


@pytest.mark.parametrize("text", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", f" {DATE}\t"])
def test_all_three_date_forms_are_read(text: str) -> None:
    assert parse_http_date(text) == MODIFIED


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 +0000"),
        *("Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT"),
        *("Sun, 06 Nov 1994 08:60:00 GMT", "Sun, 06 Nov 1994 08:49:61 GMT", "sun, 06 nov 1994 08:49:37 gmt"),
        *("Sun, 06 Nov 0000 08:49:37 GMT", "Sun Nov 6 08:49:37 1994", f"{DATE}, {DATE}", "1994-11-06T08:49:37Z"),
        "Sun, 06 Nov \u0661\u0669\u0669\u0664 08:49:37 GMT",
    ],
)
def test_other_dates_are_no_http_dates(text: str) -> None:
    assert parse_http_date(text) is None


def test_a_leap_second_is_the_next_second() -> None:
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == parse_http_date("Sun, 01 Jan 2017 00:00:00 GMT")


def test_a_two_digit_year_is_never_more_than_fifty_years_ahead() -> None:
    year = datetime.now(UTC).year
    for ahead in range(-49, 51):
        text = f"Monday, 01-Jun-{(year + ahead) % 100:02d} 00:00:00 GMT"
        found = parse_http_date(text)
        assert found is not None
        assert datetime.fromtimestamp(found, UTC).year == year + ahead


@given(st.integers(-62135596800, 253402300799))
def test_dates_survive_every_form_that_can_tell_them(unix_s: int) -> None:
    text = format_http_date(unix_s)
    assert parse_http_date(text) == unix_s
    weekday, day, month, year, clock, _ = text.split(" ")
    assert parse_http_date(f"{weekday[:3]} {month} {int(day):2d} {clock} {year}") == unix_s


@given(st.text(max_size=40))
def test_any_text_is_a_date_or_none(text: str) -> None:
    assert parse_http_date(text) is None or text.strip(" \t")[:3].isalpha()
