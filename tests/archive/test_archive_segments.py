"""CRC-32s of entries add up from segments that come in any order, and are never wrong."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.layout.model import Segment
from gateway_archive.layout.segments import MAX_RUNS, Contradiction, SegmentMap

MANY = 5_000
DATA = random.Random(6).randbytes(3000)

cuts = st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, len(DATA))).map(sorted), max_size=40)
few = settings(max_examples=40)


def frozen_of(*sizes: int, known: int | None = None) -> Frozen:
    entries = (FrozenEntry(item, f"{item}.bin", size, crc32=known) for item, size in enumerate(sizes))
    return Frozen(entries, created=0)


def segment(start: int, end: int, entry: int = 0) -> Segment:
    return Segment(entry, start, end - start, crc32(DATA[start:end]))


def learned(*spans: tuple[int, int], known: int | None = None) -> SegmentMap:
    """What a map of one entry, ``DATA``, learned of these segments."""
    segments = SegmentMap(frozen_of(len(DATA), known=known))
    for start, end in spans:
        segments.add(segment(start, end))
    return segments


@given(cuts)
@few
def test_whatever_comes_in_whatever_order_the_crc32_is_right_or_unknown(spans: list[list[int]]):
    segments = learned(*((start, end) for start, end in spans))
    assert segments.crc32(0) in {None, crc32(DATA)}
    assert all(run.crc32 == crc32(DATA[run.start : run.end]) for run in segments.runs(0))
    assert (segments.crc32(0) is None) == bool(segments.missing(0))


@given(cuts)
@few
def test_runs_and_what_is_missing_make_up_the_entry(spans: list[list[int]]):
    segments = learned(*((start, end) for start, end in spans))
    runs = [(run.start, run.end) for run in segments.runs(0)] or [(0, len(DATA))] * (not segments.missing(0))
    covered = sorted([*runs, *segments.missing(0)])
    assert [covered[0][0], covered[-1][1]] == [0, len(DATA)]
    assert all(left[1] == right[0] for left, right in pairwise(covered))


@given(cuts)
@few
def test_segments_of_what_is_missing_complete_an_entry(spans: list[list[int]]):
    segments = learned(*((start, end) for start, end in spans))
    for start, end in segments.missing(0):
        segments.add(segment(start, end))
    assert segments.crc32(0) == crc32(DATA)


@given(cuts, st.integers(0, len(DATA) - 1))
@few
def test_segments_cut_where_told_are_learned_whole(spans: list[list[int]], start: int):
    segments = learned(*((first, end) for first, end in spans))
    while start < len(DATA):
        end = segments.next_cut(0, start) or len(DATA)
        segments.add(segment(start, end))
        assert not any(low < end and start < high for low, high in segments.missing(0))
        start = end


@given(st.permutations([(start, start + 100) for start in range(0, len(DATA), 100)]))
@few
def test_segments_without_overlap_add_up_in_any_order(spans: list[tuple[int, int]]):
    assert learned(*spans).crc32(0) == crc32(DATA)


def test_the_next_cut_is_the_next_boundary_of_a_run():
    segments = learned((100, 200), (300, 400))
    assert [segments.next_cut(0, position) for position in (0, 99, 100, 199, 200, 399, 400)] == [
        *(100, 100, 200, 200, 300, 400),
        None,
    ]


def test_of_runs_that_overlap_the_longer_one_stays():
    segments = learned((0, 100), (50, 150), (50, 151))
    assert segments.runs(0) == [segment(50, 151)]


def test_a_segment_that_grows_beside_a_known_one_takes_nothing_from_it():
    segments = learned((0, 100), (100, 110), (100, 180), (100, 300))
    assert segments.runs(0) == [segment(0, 300)]


def test_what_was_missing_still_counts_when_a_part_of_it_came_from_elsewhere_before():
    segments = learned((0, 1000), (2000, len(DATA)), (1000, 1900), (1000, 2000))
    assert segments.crc32(0) == crc32(DATA)


def test_a_whole_entry_counts_whatever_runs_there_were():
    assert learned((10, 20), (0, len(DATA))).crc32(0) == crc32(DATA)


def test_an_entry_without_data_is_known():
    frozen = Frozen([FrozenEntry(0, "folder/", 0), FrozenEntry(1, "empty", 0)], created=0)
    segments = SegmentMap(frozen)
    segments.add(Segment(1, 0, 0, 0))
    assert [segments.crc32(0), segments.crc32(1), segments.complete_count, [*segments.incomplete()]] == [0, 0, 2, []]


def test_a_crc32_given_beforehand_is_known_at_once():
    segments = learned(known=5)
    assert (segments.crc32(0), segments.missing(0), segments.complete_count) == (5, [], 1)


@pytest.mark.parametrize("spans", [[(0, len(DATA))], [(1000, len(DATA)), (0, 1000)]])
def test_bytes_with_another_crc32_than_the_given_one_are_a_contradiction(spans: list[tuple[int, int]]):
    *first, last = spans
    segments = learned(*first, known=5)
    with pytest.raises(Contradiction, match=f"is {crc32(DATA):08x} and not 00000005"):
        segments.add(segment(*last))
    assert (segments.crc32(0), segments.runs(0)) == (5, [])


def test_bytes_with_another_crc32_than_the_learned_one_are_a_contradiction():
    segments = learned((0, len(DATA)))
    with pytest.raises(Contradiction):
        segments.add(Segment(0, 0, len(DATA), 5))
    assert segments.crc32(0) == crc32(DATA)


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (0, len(DATA) + 1), (len(DATA), 1), (5, -1)])
def test_a_segment_must_lie_within_its_entry(start: int, length: int):
    with pytest.raises(ValueError, match="of an entry of"):
        learned().add(Segment(0, start, length, 0))


def test_the_incomplete_entries_come_in_order():
    segments = SegmentMap(frozen_of(*[len(DATA)] * 4))
    segments.add(segment(0, len(DATA), entry=1))
    assert [[*segments.incomplete()], [*segments.incomplete([3, 1, 0])]] == [[0, 2, 3], [3, 0]]


def test_the_version_counts_what_was_learned():
    segments = learned((0, 10))
    before = segments.version
    segments.add(segment(0, 10))
    unchanged = segments.version
    segments.add(segment(10, 11))
    assert (unchanged, segments.version > before) == (before, True)


@pytest.mark.parametrize("known", [None, crc32(DATA)])
def test_what_is_forgotten_can_be_learned_again(known: int | None):
    segments = learned((0, len(DATA)), known=known)
    segments.forget(0)
    forgotten = (segments.crc32(0), segments.complete_count, segments.runs(0))
    segments.add(segment(0, len(DATA)))
    assert forgotten == (known, int(known is not None), [])
    assert (segments.crc32(0), segments.complete_count) == (crc32(DATA), 1)


def test_runs_that_touch_become_one_rather_than_too_many():
    segments = SegmentMap(frozen_of(10 * MAX_RUNS))
    data = bytes(10 * MAX_RUNS)
    for start in range(10 * MAX_RUNS):
        segments.add(Segment(0, start, 1, crc32(b"\0")))
    assert segments.crc32(0) == crc32(data)


def test_many_small_runs_are_forgotten_rather_than_kept():
    segments = SegmentMap(frozen_of(10 * MAX_RUNS))
    for start in range(0, 10 * MAX_RUNS, 4):
        segments.add(Segment(0, start, 1, 0))
    assert MAX_RUNS // 2 <= len(segments.runs(0)) <= MAX_RUNS


def test_the_map_of_many_entries_is_small_also_when_all_are_known():
    frozen = frozen_of(*[1000] * MANY)
    tracemalloc.start()
    segments = SegmentMap(frozen)
    for entry in range(MANY):
        segments.add(Segment(entry, 0, 400, 0))
        segments.add(Segment(entry, 400, 600, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (segments.complete_count, peak < 40 * MANY) == (MANY, True)
