"""Journals outlive their process, show the living from the dead, and never stand in a download's way."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway_archive.layout.model import Segment
from gateway_archive.ledger.journal import KEEP_DEAD_S, Journal, adopt, journaled_tickets, read_journals, sweep_journals
from gateway_archive.ledger.segments import RECORD_BYTES, pack, unpack

ONE, TWO = "1" * 32, "2" * 32
CLOSED = [Segment(0, 0, 10, 0xFFFFFFFF), Segment(1, 5, 1 << 40, 0)]
CURRENT = Segment(2, 0, 3, 7)

OWNER = """
import sys
from pathlib import Path
from gateway_archive.layout.model import Segment
from gateway_archive.ledger.journal import Journal

folder, ticket, etag = sys.argv[1:]
journal = Journal(Path(folder), ticket, etag)
journal.write((), Segment(0, 0, 5, 1))
journal.write([Segment(0, 0, 10, 0xFFFFFFFF), Segment(1, 5, 1 << 40, 0)], Segment(2, 0, 3, 7))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "archive"


@pytest.fixture
def ticket() -> str:
    return str(uuid.uuid4())


@contextmanager
def owner(folder: Path, ticket: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a journal of CLOSED and CURRENT, which it holds until it is killed at the end."""
    command = [sys.executable, "-c", OWNER, str(folder), ticket, ONE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def dead_journal(folder: Path, ticket: str, etag: str = ONE, *, age_s: float = 0.0) -> Path:
    """The file that a killed owner of CLOSED and CURRENT leaves behind."""
    before = set(folder.rglob("*.seg"))
    journal = Journal(folder, ticket, etag)
    journal.write(CLOSED, CURRENT)
    (path,) = set(folder.rglob("*.seg")) - before
    written = path.read_bytes()
    journal.close()
    path.write_bytes(written)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


segments = st.builds(
    Segment,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)


@given(st.lists(segments, max_size=5))
@settings(max_examples=30)
def test_packed_segments_come_back(given_segments):
    packed = pack(given_segments)
    assert len(packed) == RECORD_BYTES * len(given_segments)
    assert list(unpack(packed)) == given_segments


@given(st.integers(0, RECORD_BYTES - 5), st.integers(1, 255))
@settings(max_examples=30)
def test_a_record_that_is_not_whole_is_left_out(at: int, other: int):
    packed = bytearray(pack(CLOSED))
    packed[at] ^= other
    assert list(unpack(bytes(packed))) == CLOSED[1:]


def test_records_cut_off_or_never_written_are_left_out():
    assert list(unpack(bytes(RECORD_BYTES) + pack(CLOSED) + pack([CURRENT])[:-1])) == CLOSED


def test_a_journal_is_read_at_once_and_adopted_when_its_process_was_killed(folder: Path, ticket: str):
    with owner(folder, ticket):
        assert [*read_journals(folder, ticket, ONE)] == [CURRENT, *CLOSED]
        assert adopt(folder, ticket, ONE) == ([], [])
    found, (path,) = adopt(folder, ticket, ONE)
    assert found == [CURRENT, *CLOSED]
    path.unlink()
    assert adopt(folder, ticket, ONE) == ([], [])


def test_a_journal_of_this_process_is_not_adopted(folder: Path, ticket: str):
    journal = Journal(folder, ticket, ONE)
    journal.write(CLOSED, None)
    assert [*read_journals(folder, ticket, ONE)] == CLOSED
    assert adopt(folder, ticket, ONE) == ([], [])
    journal.close()


def test_journals_are_read_with_a_torn_record(folder: Path, ticket: str):
    path = dead_journal(folder, ticket)
    with path.open("r+b") as file:
        file.write(b"torn")
    assert [*read_journals(folder, ticket, ONE)] == adopt(folder, ticket, ONE)[0] == CLOSED


def test_only_journals_of_the_same_layout_are_read(folder: Path, ticket: str):
    for etag in (TWO, f"{ONE}-2"):
        dead_journal(folder, ticket, etag)
    dead_journal(folder, str(uuid.uuid4()))
    assert [*read_journals(folder, ticket, ONE)] == []
    assert adopt(folder, ticket, ONE) == ([], [])


def test_a_segment_under_way_is_written_over(folder: Path, ticket: str):
    journal = Journal(folder, ticket, ONE)
    for length in range(1, 100):
        journal.write((), Segment(0, 0, length, length))
    journal.write([Segment(0, 0, 100, 100)], None)
    assert [*read_journals(folder, ticket, ONE)] == [Segment(0, 0, 99, 99), Segment(0, 0, 100, 100)]
    journal.close()


def test_a_closed_journal_is_gone_and_stays_away(folder: Path, ticket: str):
    journal = Journal(folder, ticket, ONE)
    journal.write(CLOSED, CURRENT)
    journal.close()
    journal.write(CLOSED, CURRENT)
    journal.close()
    assert list((folder / ticket).iterdir()) == []


def test_a_journal_that_was_left_is_adopted(folder: Path, ticket: str):
    journal = Journal(folder, ticket, ONE)
    journal.write(CLOSED, CURRENT)
    journal.leave()
    journal.write(CLOSED, CURRENT)
    journal.close()
    assert adopt(folder, ticket, ONE)[0] == [CURRENT, *CLOSED]


def test_there_is_no_file_before_the_first_write(folder: Path, ticket: str):
    Journal(folder, ticket, ONE).close()
    assert not folder.exists()


def test_only_the_owner_may_read_a_journal(folder: Path, ticket: str):
    path = dead_journal(folder, ticket)
    journal = Journal(folder, ticket, TWO)
    journal.write((), CURRENT)
    (written,) = set((folder / ticket).iterdir()) - {path}
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (folder, folder / ticket, written)]
    journal.close()
    assert modes == [0o700, 0o700, 0o600]


@contextmanager
def disk_full_at(file_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("room", [0, 10])
def test_a_full_disk_ends_the_journal_with_one_warning_and_no_error(folder: Path, ticket: str, room: int):
    journal = Journal(folder, ticket, ONE)
    journal.write(CLOSED, CURRENT)
    with capture_logs() as logs, disk_full_at(3 * RECORD_BYTES + room):
        journal.write([Segment(3, 0, 3, 3)], Segment(4, 0, 4, 4))
        journal.write([Segment(5, 0, 5, 5)], Segment(6, 0, 6, 6))
    assert [line["log_level"] for line in logs] == ["warning"]
    assert [*read_journals(folder, ticket, ONE)] == [CURRENT, *CLOSED]
    journal.close()
    assert list((folder / ticket).iterdir()) == []


def test_a_folder_that_cannot_be_made_gives_one_warning_and_no_error(folder: Path, ticket: str):
    folder.parent.mkdir()
    folder.write_text("not a folder")
    journal = Journal(folder, ticket, ONE)
    with capture_logs() as logs:
        journal.write(CLOSED, CURRENT)
        journal.write(CLOSED, CURRENT)
    journal.close()
    assert [line["log_level"] for line in logs] == ["warning"]


@pytest.mark.parametrize("name", ["", "..", "../../etc", "x" * 36, f"{uuid.UUID(int=1)}\n", f"{uuid.UUID(int=1)}/.."])
def test_what_is_no_tickets_id_names_no_path(folder: Path, name: str):
    for use in (Journal, read_journals, adopt):
        with pytest.raises(ValueError, match="not the id of a ticket"):
            use(folder, name, ONE)


@pytest.mark.parametrize("etag", ["", "../x", "a.b", "x" * 65, f"{ONE}\n"])
def test_what_is_no_etag_names_no_path(folder: Path, ticket: str, etag: str):
    for use in (Journal, read_journals, adopt):
        with pytest.raises(ValueError, match="not the ETag"):
            use(folder, ticket, etag)


def test_dead_journals_of_living_tickets_are_swept_after_a_day(folder: Path, ticket: str):
    old = dead_journal(folder, ticket, age_s=KEEP_DEAD_S + 60)
    new = dead_journal(folder, ticket, age_s=KEEP_DEAD_S - 60)
    assert sweep_journals(folder, {ticket}) == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_dead_journals_of_tickets_that_are_gone_are_swept_with_their_folder(folder: Path, ticket: str):
    dead_journal(folder, ticket)
    assert sweep_journals(folder, set()) == 1
    assert not (folder / ticket).exists()


def test_the_living_are_not_swept(folder: Path, ticket: str):
    journal = Journal(folder, ticket, ONE)
    journal.write((), CURRENT)
    (path,) = (folder / ticket).iterdir()
    os.utime(path, (0, 0))
    assert sweep_journals(folder, set()) == 0
    assert [*read_journals(folder, ticket, ONE)] == [CURRENT]
    journal.close()


def test_a_journal_is_made_although_its_folder_was_swept(folder: Path, ticket: str):
    journal = Journal(folder, ticket, ONE)
    dead_journal(folder, ticket, TWO)
    sweep_journals(folder, set())
    journal.write((), CURRENT)
    assert [*read_journals(folder, ticket, ONE)] == [CURRENT]
    journal.close()


def test_what_is_not_a_tickets_folder_is_left_alone(folder: Path, ticket: str):
    for name in ("note", "other.seg"):
        (folder / name).mkdir(parents=True)
    dead_journal(folder, ticket)
    assert journaled_tickets(folder) == [ticket]
    sweep_journals(folder, set())
    assert sorted(place.name for place in folder.iterdir()) == ["note", "other.seg"]


def test_what_cannot_be_read_is_passed_over(folder: Path, ticket: str):
    dead = dead_journal(folder, ticket)
    (folder / ticket / f"{ONE}-{uuid.uuid4().hex}.seg").mkdir()
    with capture_logs() as logs:
        assert len([*read_journals(folder, ticket, ONE)]) == 3
        assert adopt(folder, ticket, ONE)[1] == [dead]
        assert sweep_journals(folder, set()) == 1
    assert {entry["event"] for entry in logs} == {"a download's journal cannot be read"}


def test_there_is_nothing_to_sweep_where_nothing_was_written(folder: Path):
    assert sweep_journals(folder, set()) == 0
