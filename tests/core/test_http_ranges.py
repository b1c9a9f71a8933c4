from __future__ import annotations

import email
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.errors import RangeNotSatisfiable
from gateway_core.http.ranges import ByteRange, MultipartRanges, parse_range

SIZE = 10_000


def asked(value: str | None, size: int = SIZE, **options: int) -> list[tuple[int, int]] | None:
    found = parse_range(value, size, **options)
    return None if found is None else [(part.first, part.last) for part in found]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-499", [(0, 499)]),
        ("bytes=500-999", [(500, 999)]),
        ("bytes=-500", [(9500, 9999)]),
        ("bytes=9500-", [(9500, 9999)]),
        ("bytes=0-0,-1", [(0, 0), (9999, 9999)]),
        ("BYTES=0-0", [(0, 0)]),
        ("bytes=0-99999", [(0, 9999)]),
        ("bytes=-99999", [(0, 9999)]),
        ("bytes=007-008", [(7, 8)]),
        ("bytes=5-9223372036854775808", [(5, 9999)]),
        ("bytes=-18446744073709551616", [(0, 9999)]),
        ("bytes= 0-1 ,\t4-5", [(0, 1), (4, 5)]),
        ("bytes=,,0-1,,", [(0, 1)]),
        ("bytes=0-1,20000-20001", [(0, 1)]),
        ("bytes=-0,3-3", [(3, 3)]),
    ],
)
def test_valid_ranges_select_the_bytes_of_rfc_9110_14_1_2(value: str, expected: list[tuple[int, int]]) -> None:
    assert asked(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=--1", "bytes=0--1", "bytes=5-4", "bytes=0-1,5-4"),
        *("bytes=a-b", "bytes=0-1,x", "bytes=0 -1", "bytes =0-1", " bytes=0-1", "bytes=0-1;", "bytes=1", "bytes=+1-2"),
        *("bytes=0x1-2", "bytes=1_0-20", "bytes=\u0661-\u0662", "bytes=0-1\n", "bytes:0-1", "0-1"),
        *("items=0-5", "lines=1-2", "none=", f"bytes={'9' * 5000}-"),
    ],
)
def test_unknown_units_and_invalid_sets_are_ignored(value: str | None) -> None:
    assert asked(value) is None


@pytest.mark.parametrize(
    "value", ["bytes=10000-", "bytes=10000-10001", "bytes=-0", "bytes=-0,10000-", "bytes=9223372036854775808-"]
)
def test_valid_sets_without_a_byte_are_not_satisfiable(value: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        asked(value)
    assert caught.value.headers == {"Content-Range": "bytes */10000"}


def test_an_empty_representation_satisfies_no_position() -> None:
    with pytest.raises(RangeNotSatisfiable):
        asked("bytes=0-", size=0)


def test_the_end_of_an_empty_representation_is_answered_whole() -> None:
    assert asked("bytes=-5", size=0) is None


def test_ranges_keep_the_order_in_which_they_were_asked() -> None:
    assert asked("bytes=900-999,0-99,-100") == [(900, 999), (0, 99), (9900, 9999)]


def test_overlapping_and_adjacent_ranges_merge_where_the_first_of_them_stood() -> None:
    assert asked("bytes=500-599,0-9,600-650,550-560,5-20") == [(500, 650), (0, 20)]
    assert asked("bytes=5-9,20-30,0-6") == [(0, 9), (20, 30)]


def test_a_flood_of_overlapping_ranges_is_one_range() -> None:
    assert asked("bytes=" + ",".join(["0-"] * 2000)) == [(0, 9999)]


def test_more_parts_than_allowed_are_refused() -> None:
    assert len(asked("bytes=" + ",".join(f"{first}-{first}" for first in range(0, 256, 2))) or ()) == 128
    with pytest.raises(RangeNotSatisfiable):
        asked("bytes=" + ",".join(f"{first}-{first}" for first in range(0, 258, 2)))
    with pytest.raises(RangeNotSatisfiable):
        asked("bytes=0-0,2-2,4-4", max_parts=2)


POSITIONS = st.one_of(*[st.integers(0, 60)] * 4, st.integers(2**63 - 2, 2**64 + 2))
SPECS = st.one_of(
    st.tuples(POSITIONS, POSITIONS).filter(lambda spec: spec[0] <= spec[1]),
    st.tuples(POSITIONS, st.none()),
    st.tuples(st.none(), POSITIONS),
)


def selected_by(spec: tuple[int | None, int | None], size: int) -> set[int]:
    """RFC 9110 14.1.2, byte by byte."""
    first, last = spec
    if first is None:
        return {place for place in range(size) if place >= size - (last or 0)}
    return {place for place in range(size) if place >= first and (last is None or place <= last)}


@given(st.lists(SPECS, min_size=1, max_size=12), st.integers(0, 50))
def test_exactly_the_bytes_of_the_set_are_selected_once(specs: list[tuple[int | None, int | None]], size: int) -> None:
    value = "bytes=" + ", ".join(f"{'' if a is None else a}-{'' if b is None else b}" for a, b in specs)
    wanted = set().union(*(selected_by(spec, size) for spec in specs))
    try:
        found = parse_range(value, size)
    except RangeNotSatisfiable:
        found = []
    if found is None:
        assert size == 0
        assert any(first is None and last for first, last in specs)
        return
    places = [place for part in found for place in range(part.first, part.last + 1)]
    assert sorted(places) == sorted(wanted)
    assert not {part.last + 1 for part in found} & {part.first for part in found}
    asked_at = [
        min(i for i, spec in enumerate(specs) if selected_by(spec, size) & set(range(part.first, part.last + 1)))
        for part in found
    ]
    assert asked_at == sorted(asked_at)


@given(st.text(alphabet="bytes=BYTES0123456789-, \t\x00é", max_size=40) | st.text(max_size=40), st.integers(0, 2**70))
def test_any_text_is_ignored_refused_or_selects_inside_the_size(value: str, size: int) -> None:
    try:
        found = parse_range(value, size)
    except RangeNotSatisfiable:
        return
    assert found is None or (found and all(0 <= part.first <= part.last < size for part in found))


def test_content_range_tells_the_size_or_that_it_is_not_known() -> None:
    assert ByteRange(0, 4).content_range(10) == "bytes 0-4/10"
    assert ByteRange(0, 4).content_range(None) == "bytes 0-4/*"
    assert ByteRange(3, 3).length == 1


@pytest.mark.parametrize(("first", "last"), [(-1, 4), (5, 4)])
def test_a_range_without_bytes_cannot_be_made(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="no byte range"):
        ByteRange(first, last)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_multipart_answers_have_the_promised_length_and_the_asked_parts(content: bytes, data: st.DataObject) -> None:
    firsts = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5))
    ranges = [ByteRange(first, data.draw(st.integers(first, len(content) - 1))) for first in firsts]
    framing = MultipartRanges(ranges, len(content), "application/zip")
    body = b""
    for index, part in enumerate(ranges):
        body += framing.part_header(index) + content[part.first : part.last + 1]
    body += framing.closing
    assert len(body) == framing.length
    if b"\r" in content or b"\n" in content:  # the reference parser below normalises line ends of text
        return
    message = email.message_from_bytes(f"Content-Type: {framing.content_type}\r\n\r\n".encode() + body, policy=HTTP)
    parts = list(message.iter_parts())
    assert [part["Content-Range"] for part in parts] == [part.content_range(len(content)) for part in ranges]
    assert {part["Content-Type"] for part in parts} == {"application/zip"}


def test_two_answers_do_not_share_a_boundary() -> None:
    first, second = (MultipartRanges([ByteRange(0, 1)], 2) for _ in range(2))
    assert first.boundary != second.boundary


def test_a_media_type_may_have_a_tab() -> None:
    assert b"text/plain;\tcharset=utf-8\r\n" in MultipartRanges(
        [ByteRange(0, 1)], 2, "text/plain;\tcharset=utf-8"
    ).part_header(0)


@pytest.mark.parametrize("media_type", ["text/plain\r\nX: 1", "a\x00b"])
def test_a_media_type_cannot_inject_a_header_into_a_part(media_type: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        MultipartRanges([ByteRange(0, 1)], 2, media_type)
