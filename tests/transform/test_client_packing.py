"""What is sent for files and folders of a person."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway_core import ConfigError
from gateway_transform.box.untar import Caps, members
from gateway_transform.client.packing import pack, plan, total_bytes

JOB = b'{"transformations": []}'
CAPS = Caps(unpacked_bytes=1 << 30, files=1000)


def packed(*paths: Path) -> bytes:
    out = io.BytesIO()
    pack(plan(paths), JOB, out, packed=lambda _: None)
    return out.getvalue()


def found(archive: bytes) -> dict[str, bytes | None]:
    """Files by path, folders as None, as the strict reader has them."""
    return {m.path: None if m.is_dir else b"".join(m.chunks) for m in members(io.BytesIO(archive), CAPS)}


def test_files_and_folders_come_under_their_own_names(tmp_path):
    data = os.urandom(700_000)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "ü.bin").write_bytes(data)
    (tmp_path / "in" / "void").mkdir()
    (tmp_path / "a.txt").write_bytes(b"alpha")
    (tmp_path / "empty").touch()
    assert found(packed(tmp_path / "a.txt", tmp_path / "in", tmp_path / "empty")) == {
        "job.json": JOB,
        "a.txt": b"alpha",
        "in": None,
        "in/deep": None,
        "in/deep/ü.bin": data,
        "in/void": None,
        "empty": b"",
    }


def test_long_names_are_kept(tmp_path):
    deep = tmp_path / "folder" / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    (deep / "z.txt").write_bytes(b"zeta")
    assert found(packed(tmp_path / "folder"))[f"folder/{'x' * 120}/{'y' * 120}/z.txt"] == b"zeta"


def test_the_folder_around_is_called_by_its_name(tmp_path, monkeypatch):
    inner = tmp_path / "folder" / "inner"
    inner.mkdir(parents=True)
    (inner / "a").write_bytes(b"a")
    monkeypatch.chdir(inner)
    assert list(found(packed(Path()))) == ["job.json", "inner", "inner/a"]
    assert "folder/inner/a" in found(packed(Path("..")))


def test_a_link_that_is_named_stands_for_its_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"alpha")
    (tmp_path / "latest.txt").symlink_to("a.txt")
    assert found(packed(tmp_path / "latest.txt"))["latest.txt"] == b"alpha"


def test_equal_files_give_an_equal_archive(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"alpha")
    first = packed(tmp_path / "a.txt")
    os.utime(tmp_path / "a.txt", (1, 1))
    assert packed(tmp_path / "a.txt") == first


def test_progress_ends_with_all_bytes(tmp_path):
    (tmp_path / "a").write_bytes(bytes(300_000))
    (tmp_path / "b").write_bytes(bytes(5))
    entries, told = plan([tmp_path / "a", tmp_path / "b"]), []
    pack(entries, JOB, io.BytesIO(), packed=told.append)
    assert told == sorted(told)
    assert told[-1] == total_bytes(entries) == 300_005


def refused(paths: Sequence[Path]) -> str:
    with pytest.raises(ConfigError) as refusal:
        packed(*paths)
    return refusal.value.detail


@pytest.mark.parametrize("name", ["job.json", "out.log", "status.json", "Out.Log"])
def test_names_of_the_job_itself_are_refused_at_the_top_only(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).touch()
    assert "belongs to the job itself" in refused([tmp_path / "in" / name])
    assert f"in/{name}" in found(packed(tmp_path / "in"))


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").touch()
    message = refused([tmp_path / "x" / "a.txt", tmp_path / "y" / "a.txt"])
    assert "the same name in the job: a.txt" in message
    assert str(tmp_path / "x" / "a.txt") in message


def test_names_that_differ_in_case_only_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "A.TXT"):
        (tmp_path / "in" / name).touch()
    assert "the same name" in refused([tmp_path / "in"])


def test_links_devices_and_pipes_are_refused_by_name(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fsencode(f"/proc/self/fd/{os.open(tmp_path, os.O_PATH)}/socket"))
        for name, kind in (("link", "a symbolic link"), ("pipe", "a FIFO"), ("socket", "a socket")):
            folder = tmp_path / f"with-{name}"
            folder.mkdir()
            (tmp_path / name).rename(folder / name)
            assert f"{folder / name} is {kind}" in refused([folder])
    assert "/dev/null is a device" in refused([Path("/dev/null")])


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"a\\b"])
def test_names_that_a_job_cannot_have_are_refused(tmp_path, name):
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()
    (path,) = tmp_path.iterdir()
    assert refused([path]).endswith("rename it")


def test_what_cannot_be_read_is_named(tmp_path):
    assert f"{tmp_path / 'no'}: No such file" in refused([tmp_path / "no"])


def test_a_file_that_changes_while_it_is_packed_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    entries = plan([tmp_path / "a"])
    (tmp_path / "a").write_bytes(b"1234567")
    with pytest.raises(ConfigError, match="a changed while it was packed"):
        pack(entries, JOB, io.BytesIO(), packed=lambda _: None)


def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    entries = plan([tmp_path / "a"])
    with pytest.raises(ConfigError, match="a changed while it was packed"):
        pack(entries, JOB, io.BytesIO(), packed=lambda _: os.truncate(tmp_path / "a", 0))
