"""The zygote as its worker sees it: what it says first, what it forks, and what its boxes may read of the house."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_transform.box import descendants, wire
from gateway_transform.box.skeleton import plan, unmasked
from tests.transform import boxes

LAZY_MODULE = '''
"""Transformations as a user of Circe writes them."""
import logging

def shout(working_dir: str, logger: logging.Logger, options: dict) -> None:
    """Needs nothing."""

shout.description = {"label": "Shout", "help": "Make it loud", "options": []}
'''


@pytest.fixture
def house() -> Iterator[Path]:
    """A folder with code, and with what is the gateway's own."""
    with boxes.open_folder() as folder:
        (folder / "mine.py").write_text(LAZY_MODULE)
        (folder / "gateway.toml").write_text("secret")
        for name in ("data", "shared", "shared/data", "shared/data/code", "shared/fonts"):
            (folder / name).mkdir()
            (folder / name / "file").write_text("words")
        yield folder


def test_first_message_is_the_catalogue(house: Path) -> None:
    with boxes.zygote(modules=["mine"], named={"loud": "mine:shout"}, cwd=house, sandbox="off") as zygote:
        assert zygote.first.pop("missing") is not None
        assert zygote.first == {
            "type": "catalogue",
            "transformations": {
                name: {
                    "description": {"label": "Shout", "help": "Make it loud", "options": []},
                    "limits": {"seconds": None, "memory_mb": None, "network": False},
                    "deterministic": False,
                    "version": "",
                    "preload": [],
                }
                for name in ("shout", "loud")
            },
            "hidden": {},
            "level": "rlimits",
        }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modules": ["absent_module"]}, ["module 'absent_module'", "ModuleNotFoundError"]),
        ({"named": {"bad": "mine:nothing"}}, ["transformation 'bad' (mine:nothing)"]),
        ({"sandbox": "require", "best": "landlock"}, ["namespaces"]),
    ],
)
def test_zygote_that_cannot_start_says_why(house: Path, options: dict, words: list[str]) -> None:
    with boxes.zygote(cwd=house, **options) as zygote:
        assert zygote.first["type"] == "failed"
        assert all(word in zygote.first["message"] for word in words), zygote.first
        assert zygote.process.wait(boxes.PATIENCE_S) == 1


def test_real_zygote_makes_boxes_that_wait_for_a_job(house: Path) -> None:
    with boxes.zygote(script=None, modules=["mine"], cwd=house) as zygote:
        box = zygote.spawn()
        box.sock.close()
        assert os.WIFEXITED(zygote.exited(box))


def test_box_says_where_it_stands() -> None:
    with boxes.zygote() as zygote:
        working_dir, tmp_dir, level, network, first = zygote.spawn().call("facts")["context"]
        assert (level, network, first) == ("namespaces", False, True)
        assert {Path(working_dir).name, Path(tmp_dir).name} == {"work", "tmp"}


def test_folder_that_cannot_be_had_is_told_on_the_socket_of_the_box(house: Path) -> None:
    with boxes.zygote() as zygote:
        box = zygote.ask(folder=house / "made")
        assert box.receive() == {"type": "ready"}
        zygote.boxes.clear()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            message = {"type": "spawn", "box": "lost", "folder": str(house / "absent"), "network": False}
            wire.send(zygote.control, message, [theirs.fileno()])
            theirs.close()
            said = wire.receive(ours)
        assert said is not None
        assert said[0]["type"] == "broken"
        assert "absent" in said[0]["message"]
        box.sock.close()


def test_preload_reaches_later_boxes_and_survives_bad_modules() -> None:
    with boxes.zygote() as zygote:
        wire.send(zygote.control, {"type": "preload", "modules": ["absent_module", "colorsys"]})
        assert "colorsys" in zygote.spawn().call("modules")


def test_many_boxes_can_be_asked_for_at_once() -> None:
    with boxes.zygote() as zygote:
        made = [zygote.ask() for _ in range(20)]
        assert [box.receive() for box in made] == [{"type": "ready"}] * 20
        assert [zygote.receive()["box"] for _ in made] == [box.id for box in made]


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_boxes_that_have_ended_leave_nothing_in_the_zygote(level: str) -> None:
    with boxes.zygote(best=level) as zygote:
        open_files = Path(f"/proc/{zygote.process.pid}/fd")
        zygote.kill(zygote.spawn())
        before = len(list(open_files.iterdir()))
        for _ in range(10):
            box = zygote.spawn()
            box.call("daemon")
            zygote.kill(box)
        assert len(list(open_files.iterdir())) == before
        latest = time.monotonic() + 10
        while descendants.descendants(zygote.process.pid) and time.monotonic() < latest:
            time.sleep(0.01)  # what a box left behind comes to the zygote when it dies
        assert descendants.descendants(zygote.process.pid) == []


def test_zygote_is_small() -> None:
    with boxes.zygote() as zygote:
        status = Path(f"/proc/{zygote.process.pid}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0])
        assert resident < 25 << 10


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_house_is_hidden_though_its_folder_may_be_read(house: Path, level: str) -> None:
    hide = [str(house / "shared" / "data"), str(house / "gateway.toml"), str(house / "absent")]
    with boxes.zygote(best=level, readable=[str(house)], hide=hide, cwd=house) as zygote:
        wanted = [str(path) for path in sorted(house.rglob("file"))]
        seen = zygote.spawn().call("contents", [*wanted, str(house / "gateway.toml")])
        hidden = {str(house / "shared" / "data" / "file"), str(house / "shared" / "data" / "code" / "file")}
        assert seen == {path: "words" for path in wanted if path not in hidden}


def test_whole_of_a_folder_that_boxes_need_may_be_shown() -> None:
    with boxes.zygote(readable=["/etc", "/tmp"]) as zygote:
        box = zygote.spawn()
        assert box.call("contents", ["/etc/passwd", "/etc/shadow"]) == {"/etc/passwd": Path("/etc/passwd").read_text()}
        assert box.call("work_is_writable") == "hello\n"


@pytest.mark.parametrize("path", ["/", "/proc", "/dev"])
def test_system_itself_cannot_be_shown(path: str) -> None:
    with boxes.zygote(readable=[path]) as zygote:
        assert zygote.first["type"] == "failed"
        assert f"a {path} of their own" in zygote.first["message"]


def test_names_of_the_network_come_with_it() -> None:
    with boxes.zygote() as zygote:
        hosts = Path("/etc/hosts").read_text()
        assert zygote.spawn(network=True).call("contents", ["/etc/hosts"]) == {"/etc/hosts": hosts}
        assert zygote.spawn().call("contents", ["/etc/hosts"])["/etc/hosts"].startswith("127.0.0.1 localhost\n")


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_hidden_folder_has_no_other_name(house: Path, level: str) -> None:
    """A link that may be read shows the folder under two names."""
    (house / "link").symlink_to(house / "shared")
    with boxes.zygote(best=level, readable=[str(house / "link")], hide=[str(house / "link" / "data")]) as zygote:
        wanted = [str(house / name / "file") for name in ("link", "shared", "link/data", "shared/data", "link/fonts")]
        assert set(zygote.spawn().call("contents", wanted)) == {wanted[0], wanted[1], wanted[4]}


@pytest.mark.parametrize("level", ["namespaces", "landlock"])
def test_code_inside_of_what_is_hidden_can_be_read(house: Path, level: str) -> None:
    readable = [str(house / "shared"), str(house / "shared" / "data" / "code")]
    with boxes.zygote(best=level, readable=readable, hide=[str(house / "shared" / "data")]) as zygote:
        wanted = [str(house / "shared" / name / "file") for name in ("data", "data/code", "fonts")]
        assert zygote.spawn().call("contents", wanted) == dict.fromkeys((wanted[1], wanted[2]), "words")


def test_module_of_the_current_folder_brings_itself_only(house: Path) -> None:
    with boxes.zygote(modules=["mine"], cwd=house) as zygote:
        wanted = [str(house / name) for name in ("mine.py", "gateway.toml", "data/file")]
        assert zygote.spawn().call("readable", wanted) == [str(house / "mine.py")]


def test_box_finds_other_places_where_its_own_are_taken() -> None:
    made = plan([*_first(["/tmp"]), "/usr"], ())
    assert made.places().tmp == "/box/tmp"
    assert plan(["/usr"], ()).places() == ("/work", "/tmp")


def _first(paths: list[str]) -> list[str]:
    return [path for path in paths if os.path.isdir(path)]


def test_paths_around_something_hidden_are_named_instead(house: Path) -> None:
    found = unmasked([str(house)], [str(house / "shared" / "data"), str(house / "data")])
    expected = ["gateway.toml", "mine.py", "shared/file", "shared/fonts"]
    assert sorted(found) == [str(house / name) for name in expected]
