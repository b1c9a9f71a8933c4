"""The table of a file's blocks: what it knows, keeps and tells."""

from __future__ import annotations

import hashlib
import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.sums.layout import BlockLayout
from gateway_blocks.sums.table import SEGMENT_BLOCKS, BlockTable

BLOCK = 7
COUNTS = st.one_of(st.integers(0, 3), st.sampled_from([511, 512, 513, 1024, 1025, 1300]))


def table_of(count: int) -> BlockTable:
    """A table of ``count`` blocks, the last of them one byte long."""
    return BlockTable(BlockLayout(max(0, (count - 1) * BLOCK + 1) if count else 0, BLOCK))


def digest(index: int, salt: str = "") -> bytes:
    return hashlib.sha1(f"{salt}{index}".encode()).digest()


def told(table: BlockTable, after: int = -1) -> list[list[object]]:
    return json.loads(b"".join(table.rendered(after)))


@st.composite
def counts_and_blocks(draw: st.DrawFn) -> tuple[int, list[int]]:
    count = draw(COUNTS)
    return count, draw(st.lists(st.integers(0, count - 1), max_size=40)) if count else []


@given(counts_and_blocks())
def test_what_was_set_is_known_and_the_rest_is_missing(case):
    count, indices = case
    table = table_of(count)
    for index in indices:
        table.set(index, digest(index))
    unknown = [index for index in range(count) if index not in indices]
    assert [table.get(index) for index in range(count)] == [
        digest(index) if index in indices else None for index in range(count)
    ]
    assert list(table.missing()) == unknown
    assert table.first_missing == (unknown[0] if unknown else count)
    assert (table.known, table.complete) == (count - len(unknown), not unknown)


@given(counts_and_blocks(), st.integers(-2, 1400))
def test_the_json_tells_every_block_after_the_given_one_in_order(case, after):
    count, indices = case
    table = table_of(count)
    for index in indices:
        assert told(table)[index][3] in {"pending", digest(index).hex()}  # fills the cache that must not go stale
        table.set(index, digest(index))
    assert told(table, after) == [
        [
            index,
            index * BLOCK,
            index * BLOCK + BLOCK - 1 if index < count - 1 else index * BLOCK,
            digest(index).hex() if index in indices else "pending",
        ]
        for index in range(max(0, after + 1), count)
    ]


@given(counts_and_blocks())
def test_exported_segments_make_the_same_table_again(case):
    count, indices = case
    table, other = table_of(count), table_of(count)
    for index in indices:
        table.set(index, digest(index))
    for number in range(-(-count // SEGMENT_BLOCKS)):
        assert len(told(other)) == count  # fills the cache that must not go stale
        other.load(number, *table.export(number))
    assert told(other) == told(table)
    assert (other.known, other.first_missing) == (table.known, table.first_missing)


def test_the_first_missing_block_moves_over_whole_segments():
    table = table_of(1025)
    for index in range(1024):
        assert table.first_missing == index
        table.set(index, digest(index))
    assert table.first_missing == 1024
    table.set(1024, digest(1024))
    assert table.first_missing == table.layout.count


def test_missing_blocks_leave_out_what_becomes_known_on_the_way():
    table = table_of(1025)
    missing = table.missing()
    assert list(islice(missing, 2)) == [0, 1]
    for index in (0, 1, 2, 3, 600, 1024):
        table.set(index, digest(index))
    assert list(missing) == [index for index in range(4, 1024) if index != 600]


def test_a_version_grows_with_everything_new():
    table, stored = table_of(3), table_of(3)
    versions = [table.version]
    table.set(0, digest(0))
    versions.append(table.version)
    table.set(0, digest(0, "again"))
    versions.append(table.version)
    stored.set(2, digest(2))
    table.load(0, *stored.export(0))
    versions.append(table.version)
    assert versions == sorted(set(versions))
    table.load(0, bytes(64), bytes(10240))
    assert table.version == versions[-1]


def test_loading_what_is_known_already_changes_nothing():
    table = table_of(600)
    table.set(3, digest(3))
    table.set(599, digest(599))
    stored = [table.export(number) for number in (0, 1)]
    version, before = table.version, table.rendered()
    for number, (known, digests) in enumerate(stored):
        table.load(number, known, digests)
    assert table.version == version
    assert all(old is new for old, new in zip(before, table.rendered(), strict=True))


def test_a_segment_has_one_bit_and_twenty_bytes_a_block():
    table = table_of(1025)
    table.set(512 + 9, digest(9))
    known, digests = table.export(1)
    assert known == bytes([0, 0b10]) + bytes(62)
    assert digests == bytes(180) + digest(9) + bytes(10240 - 200)
    assert table.export(2) == (bytes(64), bytes(10240))


def test_bits_beyond_the_last_block_are_ignored():
    table = table_of(SEGMENT_BLOCKS + 3)
    table.load(1, b"\xff" * 64, b"d" * 10240)
    assert table.known == 3
    assert list(table.missing()) == list(range(SEGMENT_BLOCKS))
    assert table.export(1)[0] == b"\x07" + bytes(63)


def test_what_is_loaded_takes_the_place_of_what_was_known_and_leaves_the_rest():
    stored = table_of(3)
    for index in (0, 1):
        stored.set(index, digest(index, "stored"))
    table = table_of(3)
    for index in (1, 2):
        table.set(index, digest(index, "old"))
    table.load(0, *stored.export(0))
    expected = [digest(0, "stored"), digest(1, "stored"), digest(2, "old")]
    assert [table.get(index) for index in range(3)] == expected
    assert table.known == 3


def test_a_block_told_anew_replaces_the_old_digest_everywhere():
    table = table_of(4)
    table.set(2, digest(2))
    assert told(table)[2][3] == digest(2).hex()
    table.set(2, digest(2, "again"))
    assert (table.get(2), table.known) == (digest(2, "again"), 1)
    assert told(table)[2][3] == digest(2, "again").hex()


def test_only_the_segment_that_changed_is_rendered_again():
    table = table_of(3 * SEGMENT_BLOCKS)
    before = table.rendered()
    table.set(SEGMENT_BLOCKS, digest(1))
    after = table.rendered()
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, True, False, True]


def test_an_empty_file_has_no_blocks_and_is_complete():
    table = table_of(0)
    assert (table.known, table.complete, table.first_missing) == (0, True, 0)
    assert list(table.missing()) == []
    assert table.rendered() == [b"[]"]


@pytest.mark.parametrize("index", [-1, 5, 512])
def test_a_block_that_is_not_in_the_file_is_refused(index):
    table = table_of(5)
    with pytest.raises(IndexError):
        table.set(index, digest(0))
    with pytest.raises(IndexError):
        table.get(index)


def test_a_digest_of_another_length_is_refused():
    with pytest.raises(ValueError, match="20 bytes"):
        table_of(5).set(0, hashlib.sha256().digest())


@pytest.mark.parametrize(("known", "digests"), [(63, 10240), (64, 10239), (0, 0)])
def test_a_segment_of_other_lengths_is_refused(known, digests):
    with pytest.raises(ValueError, match="no segment"):
        table_of(5).load(0, bytes(known), bytes(digests))


@pytest.mark.parametrize("number", [-1, 1])
def test_a_segment_that_the_file_does_not_have_is_refused(number):
    with pytest.raises(IndexError):
        table_of(5).load(number, bytes(64), bytes(10240))
