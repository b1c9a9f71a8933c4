from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway_transform.box.untar import Caps, Refused, unpack
from tests.transform.hostile_tars import HOSTILE, MIB
from tests.transform.tar_bytes import END, file, gz

CAPS = Caps(unpacked_bytes=4096 * MIB, files=10_000)

UNPACK_ALL = """
import json, os, pathlib, re, sys
from gateway_transform.box.untar import Caps, Refused, unpack
reasons = {}
for at, upload in enumerate(sorted(pathlib.Path(sys.argv[1]).iterdir(), key=lambda path: int(path.name))):
    inside = pathlib.Path(sys.argv[2], upload.name)
    inside.mkdir()
    folder = os.open(inside, os.O_RDONLY)
    try:
        with upload.open("rb") as stream:
            unpack(stream, folder, Caps(4096 << 20, 10_000))
        reasons[upload.name] = "taken"
    except Refused as refused:
        reasons[upload.name] = refused.reason
    os.close(folder)
peak_kb = int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
print(json.dumps([reasons, peak_kb]))
"""


def unpacked(data: bytes, folder: Path, caps: Caps = CAPS):
    fd = os.open(folder, os.O_RDONLY)
    try:
        return unpack(io.BytesIO(data), fd, caps)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory) -> tuple[dict[str, str], int, Path, float]:
    """Every hostile archive unpacked in one fresh process: reasons by name, peak memory, the folder, seconds."""
    base = tmp_path_factory.mktemp("hostile")
    (base / "uploads").mkdir()
    (base / "inside").mkdir()
    for at, (data, _) in enumerate(HOSTILE.values()):
        (base / "uploads" / str(at)).write_bytes(data)
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", UNPACK_ALL, base / "uploads", base / "inside"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    reasons, peak_kb = json.loads(ran.stdout)
    return {name: reasons[str(at)] for at, name in enumerate(HOSTILE)}, peak_kb, base, time.monotonic() - began


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_by_its_word(name, all_of_them):
    assert all_of_them[0][name] == HOSTILE[name][1]


def test_hostile_archives_take_little_memory(all_of_them):
    assert all_of_them[1] < 64 * 1024


def test_hostile_archives_take_little_time(all_of_them):
    assert all_of_them[3] < 30


def test_hostile_archives_leave_plain_files_inside_and_nothing_outside(all_of_them):
    base = all_of_them[2]
    assert sorted(path.name for path in base.iterdir()) == ["inside", "uploads"]
    for folder, _, names in os.walk(base / "inside"):
        for name in names:
            path = Path(folder, name)
            found = path.lstat()
            assert (stat.S_IFMT(found.st_mode), found.st_mode & 0o7777, found.st_nlink) == (stat.S_IFREG, 0o600, 1)
    for place in (Path("/tmp/outside"), Path("/outside"), base.parent / "outside"):
        assert not place.exists()


def test_all_37_attacks_of_the_reliability_list_are_among_them():
    assert len(HOSTILE) >= 37


def test_refusal_says_word_and_sentence(tmp_path):
    with pytest.raises(Refused, match=r"^path_escapes: '\.\./outside' leads upwards$"):
        unpacked(HOSTILE["parent"][0], tmp_path)


def test_links_that_lie_in_the_folder_are_not_followed(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "d").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        unpacked(gz(file(b"d/f"), END), inside)
    assert list(outside.iterdir()) == []


def test_files_that_lie_in_the_folder_are_not_written_to(tmp_path):
    (tmp_path / "f").write_bytes(b"before")
    with pytest.raises(FileExistsError):
        unpacked(gz(file(b"f", b"after"), END), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"before"


def test_deadline_ends_the_unpacking(tmp_path):
    with pytest.raises(Refused, match="too_slow"):
        unpacked(gz(file(b"f"), END), tmp_path, Caps(MIB, 10, deadline=time.monotonic() - 1))


def test_bytes_are_counted_over_all_files(tmp_path):
    files = [file(b"%d" % at, b"x" * 1000) for at in range(5)]
    with pytest.raises(Refused, match="too_big"):
        unpacked(gz(*files, END), tmp_path, Caps(4000, 10))


def test_result_caps_take_names_that_differ_in_case_only(tmp_path):
    assert set(unpacked(gz(file(b"A"), file(b"a"), END), tmp_path, Caps.of_result(MIB, 10)).files) == {"A", "a"}


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_no_beginning_of_an_archive_is_taken_for_the_whole(cut, tmp_path):
    whole = gz(*[file(b"%d" % at, os.urandom(50)) for at in range(3)], END)
    with pytest.raises(Refused):
        unpacked(whole[: len(whole) - 1 - cut], tmp_path)
