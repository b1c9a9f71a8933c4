from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from circe_client import JobResult
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_transform.box.pack import PackCaps, Packed, pack
from gateway_transform.box.untar import Caps, unpack

CAPS = PackCaps(bytes=64 << 20, files=1000)
LAST = [("out.log", b'{"message": "hello"}\n'), ("status.json", b"{}\n")]


def packed(folder: Path, out: Path, caps: PackCaps = CAPS, job_json: bytes | None = b"{}") -> Packed:
    fd = os.open(folder, os.O_RDONLY)
    out_fd = os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        return pack(fd, out_fd, caps, job_json=job_json, last=lambda _tree: iter(LAST))
    finally:
        os.close(fd)
        os.close(out_fd)


def names_in(out: Path) -> list[str]:
    with tarfile.open(out) as tar:
        return tar.getnames()


@pytest.fixture
def work(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "result"


def test_result_has_the_files_in_order_with_sizes_and_digests(work, out):
    (work / "b").write_bytes(b"bb")
    (work / "a").mkdir()
    (work / "a" / "c").write_bytes(b"c" * 1000)
    found = packed(work, out)
    assert names_in(out) == ["job.json", "a", "a/c", "b", "out.log", "status.json"]
    assert found.tree.files == {
        "a/c": (1000, hashlib.sha256(b"c" * 1000).hexdigest()),
        "b": (2, hashlib.sha256(b"bb").hexdigest()),
    }
    assert (found.size, found.sha256) == (out.stat().st_size, hashlib.sha256(out.read_bytes()).hexdigest())


def test_members_after_the_files_are_made_of_what_was_packed(work, out):
    (work / "a").write_bytes(b"a")
    fd, out_fd = os.open(work, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
    pack(fd, out_fd, CAPS, job_json=None, last=lambda tree: iter([("names", ",".join(tree.files).encode())]))
    os.close(fd)
    os.close(out_fd)
    with tarfile.open(out) as tar:
        assert tar.extractfile("names").read() == b"a"


def test_own_names_are_not_taken_from_the_folder(work, out):
    for name in ("job.json", "out.log", "status.json"):
        (work / name).write_text("a transformation wrote this")
    packed(work, out)
    with tarfile.open(out) as tar:
        assert {info.name: tar.extractfile(info).read() for info in tar} == {"job.json": b"{}", **dict(LAST)}


def test_nothing_is_packed_but_files_and_folders(work, out):
    (work / "link").symlink_to("/etc/passwd")
    (work / "to-folder").symlink_to("/etc")
    os.mkfifo(work / "fifo")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(work / "socket"))
        found = packed(work, out)
    assert names_in(out) == ["job.json", "out.log", "status.json"]
    assert found.tree.skipped == [
        "fifo: a FIFO", "link: a symbolic link", "socket: a socket", "to-folder: a symbolic link",
    ]  # fmt: skip


def test_file_that_cannot_be_read_is_left_out(work, out):
    (work / "secret").write_text("x")
    (work / "secret").chmod(0)
    work.chmod(0o755)
    fd, out_fd = os.open(work, os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
    own = os.geteuid()
    try:
        os.seteuid(own or 65534)
        tree = pack(fd, out_fd, CAPS, job_json=None, last=lambda _tree: iter([])).tree
    finally:
        os.seteuid(own)
        os.close(fd)
        os.close(out_fd)
    assert tree.skipped == ["secret: Permission denied"]


def test_bytes_beyond_the_limit_are_left_out(work, out):
    (work / "a").write_bytes(b"a" * 600)
    (work / "b").write_bytes(b"b" * 600)
    (work / "c").write_bytes(b"c" * 400)
    found = packed(work, out, PackCaps(bytes=1000, files=10))
    assert list(found.tree.files) == ["a", "c"]
    assert found.tree.skipped == ["b: beyond the limit on bytes"]


def test_files_beyond_the_limit_are_counted_and_the_first_hundred_named(work, out):
    for at in range(300):
        (work / f"{at:03}").touch()
    found = packed(work, out, PackCaps(bytes=1000, files=50))
    assert (len(found.tree.files), found.tree.skipped_count, len(found.tree.skipped)) == (50, 250, 100)


def test_too_deep_folders_are_left_out(work, out):
    deep = work.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "f").touch()
    found = packed(work, out)
    assert found.tree.skipped == [f"{'/'.join(['d'] * 33)}: a path of 33 levels"]
    assert max(name.count("/") for name in names_in(out)) == 31


def test_odd_names_are_written_so_that_all_can_read_them(work, out):
    for name in (b"caf\xe9", b"back\\slash", b"new\nline", b"C:drive"):
        (Path(os.fsdecode(os.fsencode(work) + b"/" + name))).write_bytes(name)
    assert list(packed(work, out).tree.files) == ["C%3Adrive", "back%5Cslash", "caf%E9", "new%0Aline"]


def test_two_files_are_not_written_by_one_name(work, out):
    (work / "a\\b").write_bytes(b"odd")
    (work / "a%5Cb").write_bytes(b"plain")
    found = packed(work, out)
    assert list(found.tree.files) == ["a%5Cb"]
    assert found.tree.skipped == ["a%5Cb: another file is written by this name"]


def test_modes_and_owners_say_nothing_and_times_are_kept(work, out):
    (work / "a").write_bytes(b"a")
    (work / "a").chmod(0o4755)
    os.utime(work / "a", (1, 1_600_000_000))
    packed(work, out)
    with tarfile.open(out) as tar:
        info = tar.getmember("a")
    assert (info.mode, info.uid, info.gid, info.uname, info.mtime) == (0o600, 0, 0, "", 1_600_000_000)


def test_equal_files_make_equal_results(work, tmp_path):
    (work / "a").write_bytes(os.urandom(3000))
    assert packed(work, tmp_path / "1").sha256 == packed(work, tmp_path / "2").sha256


def test_result_that_cannot_be_written_is_an_error(work):
    (work / "a").write_bytes(os.urandom(1 << 20))
    fd, full = os.open(work, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            pack(fd, full, CAPS, job_json=None, last=lambda _tree: iter([]))
    finally:
        os.close(fd)
        os.close(full)


def test_result_without_a_folder_has_the_rest(out):
    out_fd = os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
    pack(None, out_fd, CAPS, job_json=b"{}", last=lambda _tree: iter(LAST))
    os.close(out_fd)
    assert names_in(out) == ["job.json", "out.log", "status.json"]


@pytest.mark.parametrize("tool", ["tar", "bsdtar"])
def test_other_tools_read_the_result(tool, work, out, tmp_path):
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    name = "caf\u00e9/" + "long" * 40
    (work / name).parent.mkdir()
    (work / name).write_bytes(b"content")
    packed(work, out)
    to = tmp_path / "to"
    to.mkdir()
    subprocess.run([tool, "-xzf", out, "-C", to], check=True, timeout=30, env={"LC_ALL": "C.UTF-8", **os.environ})
    assert (to / name).read_bytes() == b"content"


def test_circes_client_reads_the_result(work, out):
    (work / "d").mkdir()
    (work / "d" / "a.txt").write_bytes(b"a")
    packed(work, out)
    result = JobResult(str(out))
    assert {name: file.read() for name, file in result.documents} == {"d/a.txt": b"a", "status.json": b"{}\n"}
    assert [line["message"] for line in result.log] == ["hello"]


def test_sound_gzip_without_a_time(work, out):
    packed(work, out)
    data = out.read_bytes()
    assert data[4:8] == bytes(4)
    assert len(gzip.decompress(data)) % 10240 == 0


NAMES = st.binary(min_size=1, max_size=120).filter(
    lambda raw: (
        b"/" not in raw and b"\0" not in raw and raw not in {b".", b"..", b"job.json", b"out.log", b"status.json"}
    )
)


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(b"/".join), st.binary(max_size=2000), max_size=5)
)
def test_unpack_takes_whatever_was_packed(files):
    with tempfile.TemporaryDirectory() as base:
        work, to = os.fsencode(base) + b"/work", Path(base, "to")
        os.mkdir(work)
        to.mkdir()
        for name, data in files.items():
            try:
                os.makedirs(os.path.dirname(work + b"/" + name), exist_ok=True)
                with open(work + b"/" + name, "xb") as file:
                    file.write(data)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        found = packed(Path(os.fsdecode(work)), Path(base, "out"))
        fd = os.open(to, os.O_RDONLY)
        taken = unpack(io.BytesIO(Path(base, "out").read_bytes()), fd, Caps.of_result(1 << 24, 1000))
        os.close(fd)
        own = {"job.json", "out.log", "status.json"}
        assert {name: facts for name, facts in taken.files.items() if name not in own} == found.tree.files
