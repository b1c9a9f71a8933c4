"""Streams: bytes in order, none before its block is proven, and none taken back."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Iterator

import pytest

from gateway_blocks.get import api, outlet
from gateway_blocks.get.model import Checked, NoChecksums, Stopped, Summary, Unreachable
from gateway_blocks.get.outlet import OutputFailed
from tests.blocks.get_notes import Notes, aside, noise, quick
from tests.blocks.get_serving import without_proxies
from tests.blocks.rd_stand import BLOCK, Asked, Fault, Stand, stand

DATA = noise(40 * BLOCK + 1234)
BLOCKS = 41


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    without_proxies(monkeypatch)


@pytest.fixture
def server() -> Iterator[Stand]:
    with stand() as server:
        yield server


def streamed(url: str, **changes) -> tuple[bytes, Summary]:
    target = io.BytesIO()
    summary = api.stream(url, target, options=quick(**changes))
    return target.getvalue(), summary


def zeros(block: int):
    """Zeros instead of the block."""

    def corrupt(offset: int, piece: bytes) -> bytes:
        return bytes(len(piece)) if block * BLOCK <= offset < (block + 1) * BLOCK else piece

    return corrupt


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, len(DATA)])
def test_all_bytes_leave_in_order(server, size):
    data, summary = streamed(server.put("/a", DATA[:size]), jobs=5)
    assert data == DATA[:size]
    assert (summary.path, summary.size_bytes, summary.checked) == (None, size, Checked.BLOCKS)


def test_a_file_many_times_larger_than_the_window_arrives(server, monkeypatch):
    monkeypatch.setattr(outlet, "MEMORY_BYTES", 4 * BLOCK)
    assert streamed(server.put("/a", DATA), jobs=5)[0] == DATA


def test_blocks_too_large_for_memory_go_through_a_file(monkeypatch):
    monkeypatch.setattr(outlet, "MEMORY_BYTES", BLOCK)
    data = noise(10 * BLOCK + 7)
    with stand(block_bytes=3 * BLOCK) as server:
        assert streamed(server.put("/a", data))[0] == data


def test_a_damaged_block_never_leaves(server):
    faults = iter([Fault(corrupt=zeros(3))])
    server.fault = lambda asked: next(faults, None) if asked.first <= 3 * BLOCK <= asked.last else None
    data, summary = streamed(server.put("/a", DATA))
    assert data == DATA
    assert summary.bad_blocks == (3,)


def test_a_block_that_is_always_damaged_ends_it_before_that_block(server):
    server.fault = lambda _: Fault(corrupt=zeros(3))
    target = io.BytesIO()
    with pytest.raises(Unreachable):
        api.stream(server.put("/a", DATA), target, options=quick(tries=3))
    assert target.getvalue() == DATA[: 3 * BLOCK]


def test_cuts_do_no_harm(server):
    server.fault = lambda asked: Fault(cut_after=BLOCK + 100) if asked.number % 2 else None
    assert streamed(server.put("/a", DATA), tries=30)[0] == DATA


def test_blocks_leave_as_their_checksums_become_known(server):
    url = server.put("/a", DATA, pending=set(range(BLOCKS)))
    reading, writing = os.pipe()
    with open(writing, "wb") as target, open(reading, "rb") as source:
        with aside(lambda: (api.stream(url, target, options=quick()), target.close())):
            server.hashed("/a", *range(5))
            assert source.read(5 * BLOCK) == DATA[: 5 * BLOCK]
            server.hashed("/a")
            assert source.read() == DATA[5 * BLOCK :]


def test_a_slow_reader_is_waited_for(server):
    reading, writing = os.pipe()
    with open(writing, "wb") as target, open(reading, "rb") as source:
        with aside(lambda: (api.stream(server.put("/a", DATA), target, options=quick()), target.close())):
            assert b"".join(iter(lambda: source.read(5000), b"")) == DATA


def test_a_reader_that_goes_away_ends_it(server):
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as target:
        os.close(reading)
        with pytest.raises(OutputFailed, match="nobody reads"):
            api.stream(server.put("/a", DATA), target, options=quick())


def test_a_stop_ends_it_though_nobody_reads(server):
    notes = Notes()
    control = notes.control
    reading, writing = os.pipe()
    url = server.put("/a", DATA)
    with open(writing, "wb", buffering=0) as target:
        with aside(lambda: api.stream(url, target, options=quick(), control=control), ends=Stopped):
            notes.wait_for(5 * BLOCK)
            control.stop.set()
        os.close(reading)  # the thread that is stuck in its write ends
        for thread in threading.enumerate():
            if thread.name == "output":
                thread.join(20)


def test_a_full_disk_behind_the_output_is_told(server):
    with open("/dev/full", "wb", buffering=0) as target, pytest.raises(OutputFailed, match="No space left"):
        api.stream(server.put("/a", DATA), target, options=quick())


def test_targets_that_do_more_than_write_are_written_through(server, tmp_path):
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as target:
        api.stream(server.put("/a", DATA), target, options=quick())
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == DATA


def test_what_was_written_to_the_target_before_stays_before(server, tmp_path):
    with open(tmp_path / "a", "wb") as target:
        target.write(b"head")
        api.stream(server.put("/a", DATA), target, options=quick())
        target.write(b"tail")
    assert (tmp_path / "a").read_bytes() == b"head" + DATA + b"tail"


# -- the file changes


def replaced_at(server: Stand, block: int, new: bytes):
    def replace(asked: Asked) -> None:
        if asked.first >= block * BLOCK:
            server.fault = lambda _: None
            server.put("/a", new)

    return replace


def test_a_file_that_grew_is_gone_on_with(server, monkeypatch):
    monkeypatch.setattr(outlet, "MEMORY_BYTES", 4 * BLOCK)
    url = server.put("/a", DATA[: 20 * BLOCK])
    server.fault = replaced_at(server, 15, DATA)
    assert streamed(url, jobs=2)[0] == DATA


@pytest.mark.parametrize("size", [5 * BLOCK, len(DATA)])
def test_a_file_that_changed_in_what_has_left_ends_it(server, monkeypatch, size):
    monkeypatch.setattr(outlet, "MEMORY_BYTES", 4 * BLOCK)
    url = server.put("/a", DATA)
    server.fault = replaced_at(server, 15, noise(size, 7))
    target = io.BytesIO()
    with pytest.raises(OutputFailed, match="changed on the server"):
        api.stream(url, target, options=quick(jobs=2))
    assert DATA.startswith(target.getvalue())


# -- no checksums


def test_without_checksums_ranges_leave_in_order():
    data = noise(5 << 20)
    with stand(checksums=False) as server:
        got, summary = streamed(server.put("/a", data))
    assert got == data
    assert summary.checked is Checked.NONE


def test_without_ranges_bytes_are_passed_through():
    with stand(checksums=False, ranges=False) as server:
        got, summary = streamed(server.put("/a", DATA))
    assert (got, summary.size_bytes) == (DATA, len(DATA))


def test_a_pass_through_that_is_cut_cannot_be_taken_back():
    with stand(checksums=False, ranges=False) as server:
        server.fault = lambda _: Fault(cut_after=BLOCK)
        with pytest.raises(OutputFailed, match="taken back"):
            streamed(server.put("/a", DATA))


def test_required_checksums_are_missed_before_anything_leaves():
    target = io.BytesIO()
    with stand(checksums=False) as server, pytest.raises(NoChecksums):
        api.stream(server.put("/a", DATA), target, options=quick(require_verify=True))
    assert target.getvalue() == b""


def test_checksums_without_ranges_are_checked_on_the_way():
    with stand(ranges=False) as server:
        faults = iter([Fault(corrupt=zeros(7))])
        server.fault = lambda asked: None if "range" in asked.headers else next(faults, None)
        got, summary = streamed(server.put("/a", DATA))
    assert got == DATA
    assert summary.bad_blocks == (7,)
