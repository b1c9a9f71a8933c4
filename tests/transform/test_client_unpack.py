"""What becomes of a result in the folder of a person."""

from __future__ import annotations

import hashlib
import io
import json
import stat
from pathlib import Path

import pytest

from gateway_transform.client.model import ClientError
from gateway_transform.client.unpack import LOG, Placed, unpacked
from tests.transform.job_stand import tar_of


def result(*, inputs: dict[str, bytes], **outputs: bytes) -> io.BytesIO:
    """An archive as a job that got ``inputs`` gives back: with them, its outputs (``a_txt`` is ``a.txt``) and a log."""
    told = {path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in inputs.items()}
    made = {name.replace("_", "."): data for name, data in outputs.items()}
    own = {"job.json": b"{}", LOG: b'{"level": "INFO"}\n', "status.json": json.dumps({"inputs": told}).encode()}
    return io.BytesIO(tar_of({**inputs, **made, **own}))


def placed(archive: io.BytesIO, into: Path, *, force: bool = False) -> Placed:
    with unpacked(archive, into) as found:
        return found.place(found.outputs(), into, force=force)


def test_only_what_the_job_made_or_changed_is_placed(tmp_path):
    archive = result(inputs={"in.txt": b"old", "same.txt": b"same"}, new_txt=b"new", in_txt=b"changed")
    assert placed(archive, tmp_path).written == (tmp_path / "in.txt", tmp_path / "new.txt")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"in.txt": b"changed", "new.txt": b"new"}


def test_trees_are_kept(tmp_path):
    archive = io.BytesIO(tar_of({"pages/1/a.png": b"a", "pages/2/b.png": b"b"}))
    assert placed(archive, tmp_path).written == (tmp_path / "pages/1/a.png", tmp_path / "pages/2/b.png")
    assert (tmp_path / "pages/2/b.png").read_bytes() == b"b"


def test_files_get_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    placed(result(inputs={}, a=b"alpha"), tmp_path)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("other", "a")}
    assert len(modes) == 1


def test_another_file_is_left_alone_without_force(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    done = placed(result(inputs={}, a=b"alpha", b=b"beta"), tmp_path)
    assert done == Placed((tmp_path / "b",), (), ((tmp_path / "a", "another file is there"),))
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert placed(result(inputs={}, a=b"alpha"), tmp_path, force=True).written == (tmp_path / "a",)
    assert (tmp_path / "a").read_bytes() == b"alpha"


def test_an_equal_file_is_no_obstacle(tmp_path):
    (tmp_path / "a").write_bytes(b"alpha")
    assert placed(result(inputs={}, a=b"alpha"), tmp_path) == Placed((), (tmp_path / "a",), ())


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_never_replaced(tmp_path, force):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    into = tmp_path / "into"
    (into / "folder").mkdir(parents=True)
    (into / "file").touch()
    (into / "dangling").symlink_to("nowhere")
    archive = io.BytesIO(tar_of({"folder": b"x", "file/inner": b"x", "dangling": b"x"}))
    reasons = {path.relative_to(into).as_posix(): why for path, why in placed(archive, into, force=force).kept}
    assert reasons == {
        "folder": "a folder is there",
        "file/inner": "a file is where its folder would be",
        "dangling": "a symbolic link is there",
    }


def test_a_link_gives_way_to_force_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "a").symlink_to("target")
    assert placed(result(inputs={}, a=b"alpha"), tmp_path).kept == ((tmp_path / "a", "a symbolic link is there"),)
    placed(result(inputs={}, a=b"alpha"), tmp_path, force=True)
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert (tmp_path / "a").read_bytes() == b"alpha"


def test_nothing_temporary_stays(tmp_path):
    with unpacked(result(inputs={}, a=b"alpha"), tmp_path) as found:
        assert found.log() == [{"level": "INFO"}]
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", tar_of({"../x": b"x"}), tar_of({"a": b"x" * 9000})[:60]],
    ids=["empty", "text", "outside", "cut"],
)
def test_what_is_no_sound_archive_is_refused_and_leaves_nothing(tmp_path, data):
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(ClientError, match="cannot be unpacked"):
        placed(io.BytesIO(data), into)
    assert [path.name for path in tmp_path.rglob("*")] == ["into"]
