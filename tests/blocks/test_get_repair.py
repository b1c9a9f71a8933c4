"""Local files of any origin: verified, and mended where they differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_blocks.get import api
from gateway_blocks.get.model import Checked, Differs, NoChecksums, Stopped, Summary, Unreachable
from gateway_core.errors import ConfigError
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


@pytest.fixture
def url(server) -> str:
    return server.put("/a", DATA)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "local"


def verify(url: str, path: Path, notes: Notes | None = None) -> Summary:
    return api.verify(url, path, options=quick(), control=(notes or Notes()).control)


def repair(url: str, path: Path, notes: Notes | None = None, **changes) -> Summary:
    return api.repair(url, path, options=quick(**changes), control=(notes or Notes()).control)


def damaged(*blocks: int, data: bytes = DATA) -> bytes:
    """The data with one bit of each of these blocks flipped."""
    changed = bytearray(data)
    for block in blocks:
        changed[block * BLOCK + 10] ^= 1
    return bytes(changed)


def names(path: Path) -> set[str]:
    return {found.name for found in path.parent.iterdir()}


# -- verify


def test_an_equal_file_is_verified(server, url, path):
    notes = Notes()
    path.write_bytes(DATA)
    summary = verify(url, path, notes)
    assert (summary.checked, summary.fetched_bytes, summary.reused_bytes) == (Checked.BLOCKS, 0, len(DATA))
    assert notes.advanced_bytes == len(DATA)
    assert server.asked == []


def test_blocks_that_differ_are_named(url, path):
    path.write_bytes(damaged(3, 17))
    with pytest.raises(Differs, match="differs in 2 of 41 blocks") as told:
        verify(url, path)
    assert told.value.bad_blocks == (3, 17)


@pytest.mark.parametrize(
    ("size", "bad"),
    [(len(DATA) - 1, (40,)), (len(DATA) + 1, ()), (0, tuple(range(BLOCKS))), (5 * BLOCK, tuple(range(5, 41)))],
)
def test_another_size_is_named(url, path, size, bad):
    path.write_bytes((DATA + b"x")[:size])
    with pytest.raises(Differs, match=f"has {size} bytes, the server's has {len(DATA)}") as told:
        verify(url, path)
    assert told.value.bad_blocks == bad


def test_a_file_that_is_not_there_differs(url, path):
    with pytest.raises(Differs, match="not there"):
        verify(url, path)


def test_checksums_that_are_still_to_come_are_waited_for(server, url, path):
    server.put("/a", DATA, pending=set(range(BLOCKS)))
    path.write_bytes(DATA)
    with aside(lambda: verify(url, path)):
        server.hashed("/a", *range(20))
        server.hashed("/a")


def test_nothing_is_verified_without_checksums(path):
    path.write_bytes(DATA)
    with stand(checksums=False) as server, pytest.raises(NoChecksums):
        verify(server.put("/a", DATA), path)


def test_empty_files_are_equal(server, path):
    path.write_bytes(b"")
    assert verify(server.put("/empty", b""), path).size_bytes == 0


# -- repair


def test_only_what_differs_is_fetched(server, url, path):
    path.write_bytes(damaged(3, 4, 17))
    summary = repair(url, path)
    assert path.read_bytes() == DATA
    assert (summary.bad_blocks, summary.fetched_bytes) == ((3, 4, 17), 3 * BLOCK)
    assert set(server.blocks_sent("/a")) == {3, 4, 17}
    assert names(path) == {"local"}


def test_a_repaired_file_is_the_same_file(url, path):
    path.write_bytes(damaged(3))
    path.chmod(0o604)
    os.link(path, path.with_name("other name"))
    before = path.stat()
    repair(url, path)
    after = path.stat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert path.with_name("other name").read_bytes() == DATA


def test_nothing_is_done_to_a_good_file(server, url, path):
    path.write_bytes(DATA)
    before = path.stat().st_mtime_ns
    assert repair(url, path).bad_blocks == ()
    assert path.stat().st_mtime_ns == before
    assert server.asked == []


@pytest.mark.parametrize("data", [DATA + b"more", DATA[:-1], DATA[: 7 * BLOCK], b"", damaged(2) + b"more"])
def test_files_of_another_size_get_theirs(url, path, data):
    path.write_bytes(data)
    repair(url, path)
    assert path.read_bytes() == DATA


def test_blocks_that_are_elsewhere_in_the_file_are_not_fetched(url, path):
    path.write_bytes(DATA[BLOCK : 2 * BLOCK] + DATA[:BLOCK] + DATA[2 * BLOCK :])
    assert repair(url, path).fetched_bytes == 0
    assert path.read_bytes() == DATA


def test_a_missing_file_is_downloaded(url, path):
    assert repair(url, path).fetched_bytes == len(DATA)
    assert path.read_bytes() == DATA


def test_a_file_is_not_touched_before_all_that_it_lacks_is_there(server, url, path):
    bad = damaged(3, 17, 30)
    path.write_bytes(bad)
    server.fault = lambda asked: Fault(cut_after=100) if asked.first >= 30 * BLOCK else None
    with pytest.raises(Unreachable):
        repair(url, path, tries=2, jobs=1)
    assert path.read_bytes() == bad
    server.fault = lambda _: None
    server.sent.clear()
    assert repair(url, path).fetched_bytes == BLOCK
    assert set(server.blocks_sent("/a")) == {30}
    assert path.read_bytes() == DATA


def test_damaged_blocks_from_the_server_never_reach_the_file(server, url, path):
    bad = damaged(3)
    path.write_bytes(bad)
    server.fault = lambda _: Fault(corrupt=lambda _offset, piece: bytes(len(piece)))
    with pytest.raises(Unreachable):
        repair(url, path, tries=3)
    assert path.read_bytes() == bad


def test_a_stopped_repair_is_gone_on_with(server, url, path):
    notes = Notes()
    control = notes.control
    path.write_bytes(b"x" * len(DATA))
    server.fault = lambda asked: Fault(stall_after=0) if asked.first >= 10 * BLOCK else None
    options = quick(run_bytes=BLOCK)
    with aside(lambda: api.repair(url, path, options=options, control=control), ends=Stopped):
        notes.wait_for(10 * BLOCK)
        control.stop.set()
    server.fault = lambda _: None
    assert repair(url, path).fetched_bytes == len(DATA) - 10 * BLOCK
    assert path.read_bytes() == DATA


def test_a_download_that_was_stopped_helps_a_repair(server, url, path):
    server.fault = lambda asked: Fault(cut_after=0) if asked.first >= 10 * BLOCK else None
    with pytest.raises(Unreachable):
        api.download(url, path, options=quick(tries=2, run_bytes=BLOCK))
    server.fault = lambda _: None
    path.write_bytes(b"x" * len(DATA))
    assert repair(url, path).fetched_bytes <= len(DATA) - 10 * BLOCK
    assert path.read_bytes() == DATA


def test_a_file_that_changes_on_the_server_is_repaired_to_the_new_version(server, url, path):
    new = damaged(20, 21)
    path.write_bytes(damaged(3, 17))

    def replace(asked: Asked) -> None:
        server.fault = lambda _: None
        server.put("/a", new)

    server.fault = replace
    repair(url, path)
    assert path.read_bytes() == new


def test_a_file_written_to_meanwhile_is_left_alone(server, url, path):
    path.write_bytes(damaged(3))

    def write(_asked: Asked) -> None:
        path.write_bytes(b"somebody's")

    server.fault = write
    with pytest.raises(Unreachable, match="written to"):
        repair(url, path)
    assert path.read_bytes() == b"somebody's"


def test_blocks_of_seeds_mend_a_file(server, url, path):
    seed = path.with_name("seed")
    seed.write_bytes(DATA[17 * BLOCK : 18 * BLOCK])
    path.write_bytes(damaged(3, 17))
    repair(url, path, seeds=(seed,))
    assert path.read_bytes() == DATA
    assert set(server.blocks_sent("/a")) == {3}


def test_a_folder_cannot_be_repaired(url, tmp_path):
    with pytest.raises(ConfigError):
        repair(url, tmp_path)


def test_nothing_is_repaired_without_checksums(path):
    path.write_bytes(b"old")
    with stand(checksums=False) as server, pytest.raises(NoChecksums):
        repair(server.put("/a", DATA), path)
    assert path.read_bytes() == b"old"
