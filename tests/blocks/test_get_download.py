"""Downloads from a server that is late, lies, cuts, stalls and changes its mind end bit-exact or with a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway_blocks.get import api
from gateway_blocks.get.connection import Busy
from gateway_blocks.get.disk import DiskFailed
from gateway_blocks.get.model import (
    Checked,
    Control,
    GetError,
    NoChecksums,
    NotThere,
    Options,
    Stopped,
    Summary,
    Unreachable,
)
from gateway_blocks.get.ranges import VersionChanged
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
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def notes() -> Notes:
    return Notes()


def get(url: str, out: Path | None, notes: Notes | None = None, options: Options | None = None) -> Summary:
    return api.download(url, out, options=options or quick(), control=(notes or Notes()).control)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextmanager
def getting(
    url: str, out: Path, notes: Notes, options: Options | None = None, *, ends: type[GetError] | None = None
) -> Iterator[Control]:
    """A download under way, that ends well or with an error of that type."""
    control = notes.control
    with aside(lambda: api.download(url, out, options=options or quick(), control=control), ends=ends):
        yield control


def once(fault: Fault):
    """The fault for the first request only."""
    return lambda asked: fault if asked.number == 0 else None


# -- sizes and places


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 7 * BLOCK, 7 * BLOCK + 13])
def test_files_of_any_size_arrive(server, out, size):
    url = server.put("/a", DATA[:size])
    summary = get(url, out)
    assert out.read_bytes() == DATA[:size]
    assert (summary.size_bytes, summary.fetched_bytes, summary.reused_bytes) == (size, size, 0)
    assert summary.checked is Checked.BLOCKS
    assert names(out.parent) == {"out"}


def test_blocks_larger_than_any_buffer_arrive(out):
    data = noise(13 << 20)
    with stand(block_bytes=5 << 20) as server:
        get(server.put("/a", data), out)
    assert out.read_bytes() == data


def test_without_a_name_the_file_is_named_after_its_url(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server.put("/x/sp ace.bin", DATA)
    summary = get(server.url("/x/sp%20ace.bin?q=1"), None)
    assert summary.path == Path("sp ace.bin")
    assert (tmp_path / "sp ace.bin").read_bytes() == DATA


def test_into_a_folder_the_file_is_named_after_its_url(server, tmp_path):
    assert get(server.put("/x/a.bin", DATA), tmp_path).path == tmp_path / "a.bin"


def test_a_link_is_followed(server, tmp_path, out):
    (tmp_path / "there").mkdir()
    out.symlink_to(tmp_path / "there" / "real")
    get(server.put("/a", DATA), out)
    assert out.is_symlink()
    assert (tmp_path / "there" / "real").read_bytes() == DATA


def test_a_missing_folder_is_wrong_usage(server, tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        get(server.put("/a", DATA), tmp_path / "none" / "out")


def test_a_pipe_in_the_place_of_the_file_is_wrong_usage(server, out):
    os.mkfifo(out)
    with pytest.raises(ConfigError, match="no file"):
        get(server.put("/a", DATA), out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_wrong_usage(server, tmp_path, out):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="denied"):
        get(server.put("/a", DATA), out)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("length", [243, 250, 256])
def test_a_name_too_long_for_its_suffixes_is_wrong_usage(server, tmp_path, length):
    with pytest.raises(ConfigError, match="too long"):
        get(server.put("/a", DATA), tmp_path / ("n" * length))
    assert names(tmp_path) == set()


def test_the_longest_names_that_urls_give_fit(server, tmp_path):
    url = server.put("/" + "n" * 255, DATA)
    assert get(url, tmp_path).path.name == "n" * 240


def test_the_mode_of_a_replaced_file_is_kept(server, out):
    out.write_bytes(b"old")
    out.chmod(0o640)
    get(server.put("/a", DATA), out)
    assert out.stat().st_mode & 0o777 == 0o640


def test_the_observer_hears_of_every_byte(server, out, notes):
    get(server.put("/a", DATA), out, notes)
    assert notes.starts == [(len(DATA), 0)]
    assert notes.advanced_bytes == len(DATA)
    assert [summary.path for summary in notes.summaries] == [out]


# -- requests


def test_adjacent_blocks_come_in_one_request(server, out):
    get(server.put("/a", DATA), out, options=quick(jobs=1))
    assert len(server.asked) < BLOCKS / 3
    assert max(asked.last + 1 - asked.first for asked in server.asked) == quick().run_bytes


def test_every_request_names_the_version(server, out):
    get(server.put("/a", DATA, etag='"v"'), out)
    assert {asked.headers.get("if-match") for asked in server.asked} == {'"v"'}


def test_every_block_comes_once(server, out):
    get(server.put("/a", DATA), out, options=quick(jobs=5))
    assert server.blocks_sent("/a") == dict.fromkeys(range(BLOCKS), 1)


def test_the_rate_is_limited(server, out):
    summary = get(server.put("/a", DATA[: 8 * BLOCK]), out, options=quick(limit_rate=8 * BLOCK))
    assert summary.seconds > 0.5


# -- what is there already


def test_a_whole_file_is_left_alone(server, out, notes):
    url = server.put("/a", DATA)
    out.write_bytes(DATA)
    before = out.stat()
    summary = get(url, out, notes)
    assert (summary.fetched_bytes, summary.reused_bytes) == (0, len(DATA))
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert server.asked == []
    assert notes.starts == [(len(DATA), len(DATA))]


def test_what_an_earlier_download_of_a_whole_file_left_is_swept(server, out):
    out.write_bytes(DATA)
    out.with_name("out.part.journal").write_bytes(b"old")
    get(server.put("/a", DATA), out)
    assert names(out.parent) == {"out"}


def test_good_blocks_of_the_old_file_are_used(server, out):
    url = server.put("/a", DATA)
    out.write_bytes(b"x" * BLOCK + DATA[BLOCK:])
    summary = get(url, out)
    assert out.read_bytes() == DATA
    assert (summary.fetched_bytes, summary.reused_bytes) == (BLOCK, len(DATA) - BLOCK)
    assert set(server.blocks_sent("/a")) == {0}


def test_an_old_file_longer_than_the_new_one_is_used_to_the_end(server, out):
    url = server.put("/a", DATA)
    out.write_bytes(DATA + b"more")
    assert get(url, out).fetched_bytes == 0
    assert out.read_bytes() == DATA


def test_blocks_of_seeds_are_used_wherever_they_are(server, tmp_path, out):
    seed = tmp_path / "seed"
    seed.write_bytes(DATA[5 * BLOCK : 20 * BLOCK])
    summary = get(server.put("/a", DATA), out, options=quick(seeds=(seed,)))
    assert out.read_bytes() == DATA
    assert summary.reused_bytes == 15 * BLOCK
    assert not set(server.blocks_sent("/a")).intersection(range(5, 20))


def test_a_seed_that_is_not_there_is_wrong_usage(server, tmp_path, out):
    with pytest.raises(ConfigError, match="no such file"):
        get(server.put("/a", DATA), out, options=quick(seeds=(tmp_path / "none",)))
    assert names(tmp_path) == set()


def test_only_one_download_of_a_file_at_a_time(server, out, notes):
    server.fault = lambda _: Fault(stall_after=BLOCK)
    url = server.put("/a", DATA)
    with getting(url, out, notes, ends=Stopped) as control:
        notes.wait_for(BLOCK)
        with pytest.raises(Unreachable, match="another download"):
            get(url, out)
        control.stop.set()


# -- resuming


def interrupted(server: Stand, url: str, out: Path, *, after: int) -> None:
    """A download that was stopped after so many blocks, with nothing lost."""
    notes = Notes()
    server.fault = lambda asked: Fault(stall_after=0) if asked.first >= after * BLOCK else None
    with getting(url, out, notes, quick(run_bytes=BLOCK), ends=Stopped) as control:
        notes.wait_for(after * BLOCK)
        control.stop.set()
    server.fault = lambda _: None
    server.sent.clear()


def test_a_stopped_download_is_gone_on_with(server, out, notes):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    assert names(out.parent) == {"out.part", "out.part.journal"}
    summary = get(url, out)
    assert out.read_bytes() == DATA
    assert summary.reused_bytes == 15 * BLOCK
    assert set(server.blocks_sent("/a")) == set(range(15, BLOCKS))


def test_a_stop_ends_a_stalled_download_within_a_second(server, out, notes):
    server.fault = lambda _: Fault(stall_after=BLOCK)
    with getting(server.put("/a", DATA), out, notes, quick(stall_s=30), ends=Stopped) as control:
        notes.wait_for(BLOCK)
        stopped = time.monotonic()
        control.stop.set()
    assert time.monotonic() - stopped < 1


def test_equal_blocks_of_a_new_version_are_kept(server, out, notes):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    new = b"x" * BLOCK + DATA[BLOCK:]
    server.put("/a", new)
    assert get(url, out).reused_bytes == 14 * BLOCK
    assert out.read_bytes() == new


@pytest.mark.parametrize("size", [20 * BLOCK + 5, 60 * BLOCK + 5])
def test_a_version_of_another_size_keeps_equal_blocks(server, out, notes, size):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    new = (DATA + noise(30 * BLOCK, 2))[:size]
    server.put("/a", new)
    assert get(url, out).reused_bytes == 15 * BLOCK
    assert out.read_bytes() == new


def test_a_lost_journal_costs_hashing_only(server, out, notes):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    out.with_name("out.part.journal").unlink()
    assert get(url, out).reused_bytes >= 15 * BLOCK
    assert out.read_bytes() == DATA


def test_another_block_size_costs_hashing_only(server, out, notes):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    server.block_bytes = BLOCK // 2
    server.put("/a", DATA)
    assert get(url, out).reused_bytes >= 15 * BLOCK
    assert out.read_bytes() == DATA


def test_blocks_whose_checksums_come_late_are_kept_when_gone_on_with(server, out, notes):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    server.put("/a", DATA, pending=set(range(BLOCKS)))
    with getting(url, out, notes):
        notes.wait_started()
        server.hashed("/a", *range(30))
        notes.wait_for(30 * BLOCK)
        server.hashed("/a")
    assert out.read_bytes() == DATA
    assert notes.starts == [(len(DATA), 0)]
    assert not set(server.blocks_sent("/a")).intersection(range(15))


def test_blocks_whose_checksums_never_came_survive_another_stop(server, out, notes):
    url = server.put("/a", DATA)
    interrupted(server, url, out, after=15)
    server.put("/a", DATA, pending=set(range(BLOCKS)))
    with getting(url, out, notes, ends=Stopped) as control:
        notes.wait_started()
        control.stop.set()
    server.hashed("/a")
    assert get(url, out).reused_bytes == 15 * BLOCK
    assert out.read_bytes() == DATA


# -- while the server hashes


def test_blocks_are_fetched_as_their_checksums_become_known(server, out, notes):
    url = server.put("/a", DATA, pending=set(range(BLOCKS)))
    with getting(url, out, notes):
        for block in range(0, BLOCKS, 10):
            server.hashed("/a", *range(block, block + 10))
            notes.wait_for(min(len(DATA), (block + 10) * BLOCK))
    assert out.read_bytes() == DATA


# -- what goes wrong on the way


def flip(block: int):
    """Zeros instead of the block."""

    def corrupt(offset: int, piece: bytes) -> bytes:
        return bytes(len(piece)) if block * BLOCK <= offset < (block + 1) * BLOCK else piece

    return corrupt


def test_a_damaged_block_is_fetched_again_and_reported_once(server, out, notes):
    times = iter(range(2))

    def damage(asked: Asked) -> Fault | None:
        hit = asked.first <= 7 * BLOCK <= asked.last and next(times, None) is not None
        return Fault(corrupt=flip(7)) if hit else None

    server.fault = damage
    summary = get(server.put("/a", DATA), out, notes)
    assert out.read_bytes() == DATA
    assert (summary.bad_blocks, summary.fetched_bytes) == ((7,), len(DATA))
    assert server.reported == [7]
    assert any("block 7 came damaged" in text for text in notes.remarks)


def test_a_block_that_is_always_damaged_ends_it_with_all_others_kept(server, out, notes):
    server.fault = lambda _: Fault(corrupt=flip(7))
    url = server.put("/a", DATA)
    with pytest.raises(Unreachable, match="block 7 comes damaged"):
        get(url, out, notes, quick(tries=4))
    server.fault = lambda _: None
    assert get(url, out).fetched_bytes == BLOCK
    assert out.read_bytes() == DATA


def test_a_server_that_finds_its_block_changed_is_believed(server, out):
    new = DATA[: 7 * BLOCK] + bytes(BLOCK) + DATA[8 * BLOCK :]
    url = server.put("/a", DATA)
    server.fault = lambda _: Fault(corrupt=flip(7))  # changed in place, unseen

    def look_again(path: str, _block: int) -> str:
        server.fault = lambda _: None
        server.put(path, new)
        return "changed"

    server.verdict = look_again
    get(url, out)
    assert out.read_bytes() == new


def test_a_cut_costs_only_what_was_not_received(server, out, notes):
    server.fault = once(Fault(cut_after=10 * BLOCK + 40_000))
    url = server.put("/a", DATA)
    get(url, out, notes, quick(jobs=1, run_bytes=1 << 30))
    assert out.read_bytes() == DATA
    assert server.asked[1].first >= 10 * BLOCK
    assert server.sent_bytes <= len(DATA) + BLOCK
    assert len(notes.remarks) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_busy_server_is_asked_again(server, out, status):
    server.fault = once(Fault(status=status))
    get(server.put("/a", DATA), out)
    assert out.read_bytes() == DATA


def test_the_server_says_when_to_ask_again(server, out):
    server.fault = once(Fault(status=503, retry_after="1"))
    summary = get(server.put("/a", DATA), out, options=quick(jobs=1))
    assert 1.0 <= summary.seconds < 5


def test_a_server_that_asks_for_an_hour_is_not_waited_for(server, out):
    server.fault = once(Fault(status=503, retry_after="3600"))
    with pytest.raises(Busy):
        get(server.put("/a", DATA), out)


def test_a_stalled_connection_is_given_up(server, out):
    server.fault = once(Fault(stall_after=3 * BLOCK))
    get(server.put("/a", DATA), out, options=quick(jobs=1, stall_s=0.5))
    assert out.read_bytes() == DATA


def test_the_last_blocks_of_a_slow_connection_are_taken_over(server, out, notes):
    server.fault = once(Fault(stall_after=BLOCK))
    summary = get(server.put("/a", DATA), out, notes, quick(stall_s=60))
    assert out.read_bytes() == DATA
    assert summary.seconds < 20
    assert any("slow" in text for text in notes.remarks)


def test_a_server_that_stays_away_ends_it_with_everything_kept(server, out):
    url = server.put("/a", DATA)
    server.fault = lambda asked: Fault(cut_after=0) if asked.first >= 12 * BLOCK else None
    with pytest.raises(Unreachable):
        get(url, out, options=quick(tries=3, run_bytes=BLOCK))
    server.fault = lambda _: None
    assert get(url, out).reused_bytes >= 12 * BLOCK
    assert out.read_bytes() == DATA


def test_progress_breaks_the_row_of_failures(server, out):
    server.fault = lambda asked: Fault(cut_after=BLOCK)
    get(server.put("/a", DATA), out, options=quick(tries=2, jobs=1))
    assert out.read_bytes() == DATA


def test_connections_reset_at_any_time_do_no_harm(server, out):
    url = server.put("/a", DATA)
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.02):
            server.cut_all()

    server.fault = lambda _: Fault(step_s=0.001)
    cutting = threading.Thread(target=cut)
    cutting.start()
    get(url, out, options=quick(tries=1000))
    over.set()
    cutting.join()
    assert out.read_bytes() == DATA


@pytest.mark.parametrize("status", [404, 403, 401, 410])
def test_what_is_not_there_ends_it(server, out, status):
    server.fault = lambda _: Fault(status=status)
    with pytest.raises(NotThere):
        get(server.put("/a", DATA), out)


def test_a_file_that_the_server_does_not_know_leaves_nothing(server, out):
    with pytest.raises(NotThere):
        get(server.url("/none"), out)
    assert names(out.parent) == set()


# -- the file changes while it is downloaded


@pytest.mark.parametrize("size", [10 * BLOCK + 5, len(DATA), 70 * BLOCK])
def test_a_file_replaced_in_the_middle_never_ends_as_a_mix(server, out, notes, size):
    new = (DATA[: 3 * BLOCK] + noise(80 * BLOCK, 3))[:size]
    url = server.put("/a", DATA)

    def replace(asked: Asked) -> None:
        if asked.number == 4:
            server.fault = lambda _: None
            server.put("/a", new)

    server.fault = replace
    get(url, out, notes, quick(run_bytes=2 * BLOCK))
    assert out.read_bytes() == new
    assert any("changed" in text or "another version" in text or "412" in text for text in notes.remarks)


def test_a_file_that_grows_keeps_what_it_had(server, out, notes):
    url = server.put("/a", DATA[: 20 * BLOCK])

    def grow(asked: Asked) -> None:
        if asked.number == 6:
            server.fault = lambda _: None
            server.put("/a", DATA)

    server.fault = grow
    summary = get(url, out, notes, quick(run_bytes=2 * BLOCK))
    assert out.read_bytes() == DATA
    assert summary.fetched_bytes <= len(DATA) + 6 * BLOCK


def test_a_file_replaced_while_it_is_hashed_ends_as_the_new_one(server, out, notes):
    new = noise(len(DATA), 4)
    url = server.put("/a", DATA, pending=set(range(20, BLOCKS)))
    with getting(url, out, notes):
        notes.wait_for(20 * BLOCK)
        server.put("/a", new)
    assert out.read_bytes() == new


def test_a_file_that_changes_all_the_time_is_given_up(server, out):
    url = server.put("/a", DATA)
    versions = iter(range(10_000))

    def change(_asked: Asked) -> None:
        server.put("/a", noise(2 * BLOCK, next(versions)))

    server.fault = change
    with pytest.raises(VersionChanged):
        get(url, out, options=quick(tries=3))


# -- no checksums


def test_without_checksums_ranges_of_one_version_are_fetched(out, notes):
    with stand(checksums=False) as server:
        data = noise(5 << 20)
        summary = get(server.put("/a", data, etag='"v"'), out, notes)
        assert out.read_bytes() == data
        assert summary.checked is Checked.NONE
        assert {asked.headers.get("if-match") for asked in server.asked if asked.last > 0} == {'"v"'}
        assert len(server.asked) > 1
    assert names(out.parent) == {"out"}


def test_required_checksums_are_missed_before_anything_is_written(out):
    with stand(checksums=False) as server, pytest.raises(NoChecksums):
        get(server.put("/a", DATA), out, options=quick(require_verify=True))
    assert names(out.parent) == set()


def plain_interrupted(server: Stand, url: str, out: Path) -> None:
    server.fault = lambda asked: Fault(cut_after=0) if asked.first >= 3 << 20 else None
    with pytest.raises(Unreachable):
        get(url, out, options=quick(tries=2, run_bytes=1 << 20))
    server.fault = lambda _: None


@pytest.mark.parametrize(("etag", "kept"), [('"v"', True), ('W/"v"', False)])
def test_without_checksums_only_a_strong_validator_is_gone_on_with(out, etag, kept):
    data = noise(6 << 20)
    with stand(checksums=False) as server:
        url = server.put("/a", data, etag=etag)
        plain_interrupted(server, url, out)
        summary = get(url, out)
    assert out.read_bytes() == data
    assert (summary.reused_bytes > 0) is kept


def test_without_checksums_a_new_version_is_begun_anew(out):
    new = noise(6 << 20, 9)
    with stand(checksums=False) as server:
        url = server.put("/a", noise(6 << 20))
        plain_interrupted(server, url, out)
        server.put("/a", new)
        assert get(url, out).reused_bytes == 0
    assert out.read_bytes() == new


def test_without_checksums_a_file_replaced_in_the_middle_is_no_mix(out):
    new = noise(5 << 20, 9)
    with stand(checksums=False) as server:
        url = server.put("/a", noise(6 << 20))

        def replace(asked: Asked) -> None:
            if asked.number == 3:
                server.fault = lambda _: None
                server.put("/a", new)

        server.fault = replace
        get(url, out, options=quick(run_bytes=1 << 20))
    assert out.read_bytes() == new


def test_without_ranges_the_file_comes_in_one_piece(out):
    with stand(checksums=False, ranges=False) as server:
        summary = get(server.put("/a", DATA), out)
    assert out.read_bytes() == DATA
    assert (summary.checked, summary.fetched_bytes) == (Checked.NONE, len(DATA))


def test_without_a_validator_the_file_comes_in_one_piece(out):
    with stand(checksums=False) as server:
        server.etags = False
        get(server.put("/a", DATA), out)
        assert [asked.headers.get("range") for asked in server.asked][-1] is None
    assert out.read_bytes() == DATA


def test_a_single_piece_that_is_cut_is_fetched_again(out):
    with stand(checksums=False, ranges=False) as server:
        cuts = iter(range(3))
        server.fault = lambda asked: Fault(cut_after=BLOCK) if next(cuts, None) is not None else None
        assert get(server.put("/a", DATA), out).fetched_bytes == len(DATA)
    assert out.read_bytes() == DATA


def test_a_single_piece_that_never_comes_leaves_nothing(out):
    with stand(checksums=False, ranges=False) as server:
        url = server.put("/a", DATA)
        server.fault = lambda asked: Fault(cut_after=BLOCK)
        with pytest.raises(Unreachable):
            get(url, out, options=quick(tries=3))
    assert names(out.parent) == set()


def test_checksums_without_ranges_are_checked_too(out, notes):
    with stand(ranges=False) as server:
        url = server.put("/a", DATA)
        faults = iter([Fault(corrupt=flip(7)), Fault(cut_after=30 * BLOCK)])
        server.fault = lambda asked: None if "range" in asked.headers else next(faults, None)
        summary = get(url, out, notes)
    assert out.read_bytes() == DATA
    assert (summary.checked, summary.bad_blocks) == (Checked.BLOCKS, (7,))


def test_a_part_of_a_plain_download_is_used_once_there_are_checksums(out):
    data = noise(6 << 20)
    with stand(checksums=False) as server:
        url = server.put("/a", data)
        plain_interrupted(server, url, out)
        server.checksums = True
        assert get(url, out).reused_bytes >= 2 << 20
    assert out.read_bytes() == data


# -- the disk


def test_a_file_larger_than_the_disk_leaves_nothing(server, out):
    url = server.put("/a", DATA)
    server.claimed["/a"] = 1 << 50
    with pytest.raises(DiskFailed, match="no space left"):
        get(url, out)
    assert names(out.parent) == set()


LIMITED = """
import resource, sys
from pathlib import Path
from gateway_blocks.get import api
from gateway_blocks.get.model import Options, Unreachable

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    api.download(sys.argv[1], Path(sys.argv[2]), options=Options(retry_base_s=60))
except Unreachable as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("checksums", [True, False])
def test_a_disk_that_takes_no_more_ends_it_at_once(out, checksums):
    with stand(checksums=checksums, ranges=checksums) as server:
        command = [sys.executable, "-c", LIMITED, server.put("/a", DATA), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, f"{out}: file too large")
    assert names(out.parent) == set()
