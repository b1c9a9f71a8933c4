"""The journal of a part file: what it says, and when it is not believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.get.journal import Heading, Journal, read_journal
from gateway_blocks.get.model import Control, Options, Unreachable
from gateway_blocks.get.part import PartFile, PartSink
from gateway_blocks.get.plain import PlainMap
from gateway_blocks.get.resume import kept_blocks
from gateway_blocks.get.session import Session
from tests.blocks.get_notes import noise

BLOCK = 4096
HEADING = Heading("http://h/a", 10 * BLOCK, BLOCK, '"1"')
RECORD_BYTES = 33


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


DIGESTS = [sha1(bytes([n])) for n in range(10)]


def written(path: Path, blocks: list[int], *, marked: int | None = None, heading: Heading = HEADING) -> Path:
    journal = Journal.begin(path, heading, {}, held={})
    for index in blocks:
        journal.keep(index, DIGESTS[index])
    if marked is not None:
        journal.mark(marked)
    journal.close()
    return path


def session() -> Session:
    return Session("http://h/a", "a", Options(), control=Control())


def test_what_was_kept_is_read(tmp_path):
    record = read_journal(written(tmp_path / "j", [3, 1, 7]))
    assert record.heading == HEADING
    assert record.blocks == {index: DIGESTS[index] for index in (3, 1, 7)}


def test_blocks_are_unsure_until_a_mark_covers_them(tmp_path):
    assert read_journal(written(tmp_path / "j", [3, 1, 7], marked=2)).unsure == {7}


def test_no_journal_says_nothing(tmp_path):
    assert read_journal(tmp_path / "none") is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"no json\n",
        b"[1]\n",
        b'{"format": "gateway-part/9"}\n',
        b'{"format": "gateway-part/1"}\n',
        json.dumps({"format": "gateway-part/1", "url": 1, "size_bytes": 1, "block_bytes": 1, "validator": ""}).encode()
        + b"\n",
        json.dumps({"format": "gateway-part/1", "url": "", "size_bytes": 1, "block_bytes": 0, "validator": ""}).encode()
        + b"\n",
    ],
)
def test_a_heading_that_cannot_be_understood_says_nothing(tmp_path, line):
    path = tmp_path / "j"
    path.write_bytes(line)
    assert read_journal(path) is None


@given(cut=st.integers(0, 10 * RECORD_BYTES))
def test_a_journal_cut_anywhere_says_what_stands_before_the_cut(tmp_path_factory, cut):
    path = written(tmp_path_factory.mktemp("cut") / "j", list(range(10)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    whole = 10 - -(-cut // RECORD_BYTES)
    assert read_journal(path).blocks == {index: DIGESTS[index] for index in range(whole)}


@given(at=st.integers(0, 10 * RECORD_BYTES - 1), flip=st.integers(1, 255))
def test_a_damaged_byte_takes_its_record_and_all_after_it_away(tmp_path_factory, at, flip):
    path = written(tmp_path_factory.mktemp("flip") / "j", list(range(10)))
    data = bytearray(path.read_bytes())
    data[len(data) - 10 * RECORD_BYTES + at] ^= flip
    path.write_bytes(data)
    assert list(read_journal(path).blocks) == list(range(at // RECORD_BYTES))


def test_a_journal_begun_anew_speaks_for_what_it_was_given_only(tmp_path):
    path = written(tmp_path / "j", [1, 2, 3])
    Journal.begin(path, HEADING, {5: DIGESTS[5]}, held={6: DIGESTS[6]}).close()
    record = read_journal(path)
    assert record.blocks == {5: DIGESTS[5], 6: DIGESTS[6]}
    assert record.unsure == {6}


def test_held_blocks_stay_unsure_until_they_are_kept(tmp_path):
    journal = Journal.begin(tmp_path / "j", HEADING, {}, held={6: DIGESTS[6], 7: DIGESTS[7]})
    journal.keep(7, DIGESTS[7])
    journal.mark(journal.count)
    journal.close()
    assert read_journal(tmp_path / "j").unsure == {6}


def part_of(tmp_path: Path, data: bytes) -> PartFile:
    part = PartFile(tmp_path / "out")
    part.reserve(len(data))
    part.path.write_bytes(data)
    return part


def test_unsure_blocks_are_believed_if_their_bytes_are_there(tmp_path):
    data = noise(3 * BLOCK)
    part = part_of(tmp_path, data[: 2 * BLOCK] + bytes(BLOCK))
    digests = {n: sha1(data[n * BLOCK : (n + 1) * BLOCK]) for n in range(3)}
    journal = Journal.begin(part.journal_path, HEADING, {}, held={})
    for index, digest in digests.items():
        journal.keep(index, digest)
    journal.close()
    assert kept_blocks(part, HEADING, PlainMap(3 * BLOCK, BLOCK), session=session()) == {0: digests[0], 1: digests[1]}
    part.close()


def test_marked_blocks_are_believed_without_reading_them(tmp_path):
    part = part_of(tmp_path, bytes(10 * BLOCK))
    written(part.journal_path, [0, 1, 2], marked=2)
    assert kept_blocks(part, HEADING, PlainMap(10 * BLOCK, BLOCK), session=session()) == {0: DIGESTS[0], 1: DIGESTS[1]}
    part.close()


def test_a_part_file_without_a_journal_is_hashed(tmp_path):
    data = noise(2 * BLOCK + 7)
    part = part_of(tmp_path, data)
    kept = kept_blocks(part, HEADING, PlainMap(len(data), BLOCK), session=session())
    assert kept == {n: sha1(data[n * BLOCK : (n + 1) * BLOCK]) for n in range(3)}
    part.close()


def test_without_checksums_only_the_same_version_counts(tmp_path):
    plain = Heading("http://h/a", 10 * BLOCK, BLOCK, '"1"', proven=False)
    part = part_of(tmp_path, bytes(10 * BLOCK))
    written(part.journal_path, [0], marked=1, heading=plain)
    blocks = PlainMap(10 * BLOCK, BLOCK)
    other = Heading("http://h/a", 10 * BLOCK, BLOCK, '"2"', proven=False)
    assert kept_blocks(part, plain, blocks, session=session()) == {0: DIGESTS[0]}
    assert kept_blocks(part, other, blocks, session=session()) == {}
    part.close()


def test_a_new_part_file_has_nothing_to_do_with_the_journal_of_an_old_one(tmp_path):
    part = PartFile(tmp_path / "out")
    part.close()
    written(part.journal_path, [0, 1, 2], marked=3)
    part = PartFile(tmp_path / "out")
    assert part.record() is None
    part.close()


def test_a_part_file_belongs_to_one_download(tmp_path):
    part = PartFile(tmp_path / "out")
    with pytest.raises(Unreachable, match="another download"):
        PartFile(tmp_path / "out")
    part.close()
    PartFile(tmp_path / "out").close()


def test_marks_follow_what_is_on_the_disk(tmp_path):
    part = PartFile(tmp_path / "out")
    part.reserve(2 * BLOCK)
    sink = PartSink(part, HEADING, {})
    sink.write(0, memoryview(b"x" * BLOCK))
    sink.keep(0, DIGESTS[0])
    assert part.record().unsure == {0}
    sink.finish(Control().stop)
    sink.close()
    assert part.record().unsure == frozenset()
    part.close()


def test_a_disk_without_room_leaves_nothing_half(tmp_path):
    part = PartFile(tmp_path / "out")
    with pytest.raises(Unreachable, match="no space left"):
        part.reserve(1 << 50)
    assert list(tmp_path.iterdir()) == []


def test_a_part_file_that_cannot_grow_stays_as_it_was(tmp_path):
    part = PartFile(tmp_path / "out")
    part.reserve(BLOCK)
    part.path.write_bytes(b"x" * BLOCK)
    with pytest.raises(Unreachable, match="no space left"):
        part.reserve(1 << 50)
    assert part.path.read_bytes() == b"x" * BLOCK
    part.close()
