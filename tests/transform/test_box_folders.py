"""Folders of boxes are removed whatever was built in them."""

import os

from gateway_core.storage.removal import remove_folder
from gateway_core.storage.scratch import scratch_folder
from gateway_transform.work.folders import make_folder, passable_folder


def deepen(folder, depth):
    """Make folders in one another."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_new_folder_has_a_place_for_files_and_one_for_temporary_ones(tmp_path):
    make_folder(tmp_path / "box", uid=None)
    assert sorted(path.name for path in (tmp_path / "box").iterdir()) == ["tmp", "work"]


def test_a_new_folder_can_be_passed_through_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        make_folder(tmp_path / "box", uid=None)
    finally:
        os.umask(before)
    assert (tmp_path / "box").stat().st_mode & 0o777 == 0o711


def test_folders_deeper_than_any_path_are_removed(tmp_path):
    make_folder(tmp_path / "box", uid=None)
    deepen(tmp_path / "box" / "work", 3000)
    remove_folder(tmp_path / "box")
    assert list(tmp_path.iterdir()) == []


def test_scratch_folder_of_a_dead_process_is_removed_however_deep(tmp_path):
    make_folder(tmp_path / "1-dead", uid=None)
    (tmp_path / "1-dead" / ".lock").touch()
    deepen(tmp_path / "1-dead" / "work", 3000)
    with scratch_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]
        deepen(own, 3000)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_nobody_may_enter_are_removed(tmp_path):
    locked = tmp_path / "box" / "work" / "locked"
    make_folder(tmp_path / "box", uid=None)
    (locked / "below").mkdir(parents=True)
    (locked / "below" / "file").write_bytes(b"x")
    (locked / "below").chmod(0)
    locked.chmod(0)
    (tmp_path / "box" / "work").chmod(0o500)
    remove_folder(tmp_path / "box")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"x")
    make_folder(tmp_path / "box", uid=None)
    (tmp_path / "box" / "work" / "link").symlink_to(kept)
    (tmp_path / "box" / "linked").symlink_to(kept)
    remove_folder(tmp_path / "box")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").read_bytes() == b"x"


def test_removing_what_is_not_there_is_no_error(tmp_path):
    remove_folder(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_passable_folder_lets_others_through_and_is_gone_afterwards(tmp_path):
    with passable_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o711
        make_folder(folder / "box", uid=None)
    assert list(tmp_path.iterdir()) == []


def test_passable_folders_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = tmp_path / "gateway-boxes-dead"
    (dead / "box").mkdir(parents=True)
    (dead / ".lock").touch()
    with passable_folder(tmp_path) as first, passable_folder(tmp_path) as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path):
    trap = tmp_path / "gateway-boxes-trap"
    trap.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".lock").touch()
    with passable_folder(tmp_path) as folder:
        assert folder.resolve().parent == tmp_path
        assert (tmp_path / "elsewhere" / ".lock").exists()
