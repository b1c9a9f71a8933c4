"""Systems that give less: what boxes still have then, and what is said about the rest."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.transform import boxes

NO_NAMESPACES = "syscalls.unshare"
NO_LANDLOCK = "landlock.restrict"
NO_FILTER = "syscalls.install_filter"


@pytest.mark.parametrize("who", boxes.WHO)
def test_before_linux_5_12_files_are_mounted_read_only_one_by_one(who: str) -> None:
    with boxes.zygote(who, without=["syscalls.mount_setattr"]) as zygote:
        assert (zygote.first["level"], zygote.first["missing"]) == ("namespaces", [])
        box = zygote.spawn()
        tried = box.call("writes", ["/", "/usr", "/etc", "/dev", str(boxes.PLUGIN / "gateway_transform")])
        assert set(tried.values()) == {"EROFS"} or set(tried.values()) == {"EROFS", "EACCES"}
        assert box.call("work_is_writable") == "hello\n"


@pytest.mark.parametrize("who", boxes.WHO)
def test_without_namespaces_landlock_holds(who: str) -> None:
    with boxes.zygote(who, without=[NO_NAMESPACES]) as zygote:
        assert zygote.first["level"] == "landlock"
        assert "namespaces: " in zygote.first["missing"][0]
        assert zygote.spawn().call("readable", ["/etc/passwd", "/etc/fstab", "/home"]) == []


@pytest.mark.parametrize("who", boxes.WHO)
def test_without_namespaces_and_landlock_limits_remain_and_both_are_said(who: str) -> None:
    with boxes.zygote(who, without=[NO_NAMESPACES, NO_LANDLOCK]) as zygote:
        assert zygote.first["level"] == "rlimits"
        assert [reason.partition(":")[0] for reason in zygote.first["missing"][:2]] == ["namespaces", "landlock"]
        assert zygote.spawn().call("work_is_writable") == "hello\n"


def test_sandbox_that_is_required_does_not_become_less() -> None:
    with boxes.zygote(without=[NO_NAMESPACES], sandbox="require") as zygote:
        assert zygote.first["type"] == "failed"
        assert "refused for a test" in zygote.first["message"]


def test_missing_filter_is_said() -> None:
    with boxes.zygote(without=[NO_FILTER]) as zygote:
        assert zygote.first["level"] == "namespaces"
        assert zygote.first["missing"] == ["no filter of system calls: [Errno 38] refused for a test"]
        facts = zygote.spawn().call("facts")
        assert facts["seccomp"] == "0"


def test_missing_filter_leaves_no_network_and_no_new_namespace_with_power() -> None:
    """The namespaces hold by themselves: a box without the filter still reaches nothing."""
    with boxes.zygote(without=[NO_FILTER]) as zygote:
        box = zygote.spawn()
        assert box.call("sockets", 1, 1, "name", "/absent")["tcp"] in {"ENETUNREACH", "EADDRNOTAVAIL"}
        assert box.call("readable", ["/etc/shadow", "/home", str(zygote.folder)]) == []


def test_users_that_may_make_no_user_namespace_share_the_count_of_processes() -> None:
    with boxes.zygote(without=["isolation.map_user"]) as zygote:
        assert zygote.first["level"] == "namespaces"
        assert "processes are counted for all boxes together" in zygote.first["missing"][0]


def test_interpreter_out_of_reach_is_said() -> None:
    with boxes.zygote("root", best="landlock") as zygote:
        said = any("cannot read" in reason for reason in zygote.first["missing"])
        assert said == (boxes.python_of_others() != boxes.sys.executable)


def test_folder_that_the_user_of_boxes_cannot_get_to_is_said(tmp_path: Path) -> None:
    """Where no mount brings it into the box, all folders above it must let that user through."""
    tmp_path.chmod(0o700)
    with boxes.zygote("root", best="landlock") as zygote:
        said = zygote.ask(folder=tmp_path / "box").receive()
        assert said["type"] == "broken"
        assert "cannot write in" in said["message"]


def test_signals_to_the_whole_group_leave_zygote_and_boxes_to_the_worker() -> None:
    with boxes.zygote() as zygote:
        box = zygote.spawn()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            zygote.process.send_signal(number)
        assert zygote.spawn().call("work_is_writable") == "hello\n"
        assert box.call("work_is_writable") == "hello\n"
