"""Blocks of local files: hashed in threads, found again in old files, copied."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway_blocks.get.disk import copy_span, data_spans
from gateway_blocks.get.journal import Heading
from gateway_blocks.get.local import hash_spans
from gateway_blocks.get.model import Stopped
from gateway_blocks.get.part import PartFile, PartSink
from gateway_blocks.get.plain import PlainMap
from gateway_blocks.get.seeds import OldFile, Seeds, open_olds
from gateway_core.errors import ConfigError
from tests.blocks.get_notes import noise

BLOCK = 64 << 10
DATA = noise(10 * BLOCK + 100)
STOP = threading.Event()


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def block(index: int, data: bytes = DATA) -> bytes:
    return data[index * BLOCK : (index + 1) * BLOCK]


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def opened(tmp_path, stack):
    def old_file(data: bytes, *, size_bytes: int = len(DATA), name: str = "old") -> OldFile:
        path = tmp_path / name
        path.write_bytes(data)
        return open_olds([path], PlainMap(size_bytes, BLOCK), stack)[0]

    return old_file


def spans(count: int) -> list[tuple[int, int]]:
    return [(index * BLOCK, BLOCK) for index in range(count)]


def test_every_span_gets_its_sha1(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        found = {offset: digest for offset, _, digest in hash_spans(file.fileno(), spans(10), STOP)}
    assert found == {index * BLOCK: sha1(block(index)) for index in range(10)}


def test_a_span_beyond_the_end_has_none(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"short")
    with path.open("rb") as file:
        assert [found.digest for found in hash_spans(file.fileno(), [(0, 5), (0, 6)], STOP)].count(None) == 1


def test_what_the_disk_cannot_read_any_more_has_none():
    with open("/proc/self/mem", "rb", buffering=0) as unreadable:  # EIO, where nothing is mapped
        assert [found.digest for found in hash_spans(unreadable.fileno(), [(0, 4096)], STOP)] == [None]


def test_hashing_stops_when_asked(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA)
    stop = threading.Event()
    with path.open("rb") as file:
        hashing = hash_spans(file.fileno(), iter(spans(10) * 1000), stop)
        next(hashing)
        stop.set()
        with pytest.raises(Stopped):
            list(hashing)


def test_what_cannot_be_read_is_told(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        list(hash_spans(folder, spans(1), STOP))
    os.close(folder)


def test_blocks_in_place_are_those_of_the_remote_layout(opened):
    old = opened(DATA)
    old.hash(STOP)
    assert [old.in_place(index) for index in range(11)] == [sha1(block(index)) for index in range(11)]


def test_the_last_block_of_a_shorter_file_is_found_in_a_longer_one(opened):
    old = opened(DATA, size_bytes=4 * BLOCK + 9)
    old.hash(STOP, first=lambda index: index < 5, rest=False)
    assert old.in_place(4) == sha1(DATA[4 * BLOCK : 4 * BLOCK + 9])


def test_a_shorter_file_lacks_the_block_that_it_ends_in(opened):
    old = opened(DATA[: 4 * BLOCK + 9])
    old.hash(STOP)
    assert old.in_place(3) == sha1(block(3))
    assert old.in_place(4) is None


def test_no_more_is_hashed_than_is_worth_it(opened):
    old = opened(DATA)
    old.hash(STOP, first=lambda index: index in {7, 9}, limit_bytes=3 * BLOCK)
    assert [index for index in range(11) if old.in_place(index)] == [0, 7, 9]


def copied(tmp_path: Path, seeds: Seeds, digest: bytes) -> tuple[bool, bytes]:
    part = PartFile(tmp_path / "out")
    sink = PartSink(part, Heading("", BLOCK, BLOCK, ""), {})
    done = seeds.copier(sink)(digest, count=BLOCK, target_at=0)
    data = part.path.read_bytes()
    sink.close()
    part.discard()
    return done, data


def test_a_block_is_copied_from_wherever_it_is(opened, tmp_path):
    old = opened(block(3) + block(1))
    old.hash(STOP)
    seeds = Seeds()
    seeds.add(old)
    assert copied(tmp_path, seeds, sha1(block(1))) == (True, block(1))


def test_a_file_written_to_since_is_no_seed_any_more(opened, tmp_path):
    old = opened(block(3) + block(1))
    old.hash(STOP)
    seeds = Seeds()
    seeds.add(old)
    old.path.write_bytes(block(4) + block(5))
    assert not copied(tmp_path, seeds, sha1(block(1)))[0]
    assert not seeds.has(sha1(block(3)))


def test_the_same_file_twice_is_one_seed(tmp_path, stack):
    path = tmp_path / "old"
    path.write_bytes(DATA)
    (tmp_path / "link").symlink_to(path)
    assert len(open_olds([path, tmp_path / "link"], PlainMap(1, 1), stack)) == 1


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_seed_that_is_no_file_is_wrong_usage(tmp_path, stack, name):
    with pytest.raises(ConfigError):
        open_olds([tmp_path / name], PlainMap(1, 1), stack)


def test_spans_are_copied_between_file_systems(tmp_path):
    memory = os.memfd_create("source")
    os.write(memory, DATA)
    with (tmp_path / "b").open("w+b") as target:
        assert copy_span(memory, target.fileno(), len(DATA) - 5, source_at=5, target_at=0)
        assert not copy_span(memory, target.fileno(), len(DATA), source_at=5, target_at=0)
    os.close(memory)
    assert (tmp_path / "b").read_bytes() == DATA[5:]


def test_only_what_was_written_is_told_as_data(tmp_path):
    with (tmp_path / "sparse").open("w+b") as file:
        os.ftruncate(file.fileno(), 64 << 20)
        os.pwrite(file.fileno(), b"x" * 4096, 32 << 20)
        told = list(data_spans(file.fileno(), 64 << 20))
    assert sum(end - start for start, end in told) < 1 << 20
    assert any(start <= 32 << 20 < end for start, end in told)
