"""The end of boxes: whatever they started, however it hides, nothing outlives them, their zygote or their worker."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.transform import boxes
from tests.transform.boxes import Box, Zygote

everywhere = boxes.held_by("namespaces", "landlock", "rlimits")
KILLED = int(signal.SIGKILL)


@pytest.fixture(scope="module")
def held(request: pytest.FixtureRequest) -> Iterator[Zygote]:
    """A zygote of one user and level."""
    who, level = request.param
    with boxes.zygote(who, best=level) as zygote:
        assert zygote.first["level"] == level, zygote.first
        yield zygote


@everywhere
def test_killed_box_takes_daemons_along(held: Zygote) -> None:
    box = held.spawn()
    for _ in range(3):
        assert box.call("daemon") == "left behind"
    assert held.kill(box) == KILLED
    assert box.all_gone()


@everywhere
def test_box_that_ends_by_itself_takes_daemons_along(held: Zygote) -> None:
    box = held.spawn()
    box.call("daemon")
    box.send("end")
    assert held.exited(box) == 0
    assert box.all_gone()


@everywhere
def test_box_ends_daemons_between_steps_and_lives_on(held: Zygote) -> None:
    box = held.spawn()
    box.call("daemon")
    box.call("daemon")
    box.send("sweep")
    assert box.receive() == {"type": "swept", "value": 2}
    box.send("sweep")
    assert box.receive() == {"type": "swept", "value": 0}
    held.kill(box)


@everywhere
def test_endless_loop_ends_with_the_box(held: Zygote) -> None:
    box = held.spawn()
    box.send("call", name="endless", arguments=[], wait=True)
    assert held.kill(box) == KILLED
    assert box.all_gone()


@everywhere
def test_fork_bomb_stops_at_the_limit_and_ends_with_the_box(held: Zygote) -> None:
    box = held.spawn()
    made = box.call("fork_bomb", 40, wait=False)
    assert 5 < made <= 40
    assert held.kill(box) == KILLED
    assert box.all_gone()


@boxes.held_by("namespaces")
def test_box_that_is_full_leaves_others_their_processes(held: Zygote) -> None:
    full, other = held.spawn(), held.spawn()
    full.call("fork_bomb", 40, wait=False)
    assert other.call("work_is_writable") == "hello\n"
    for box in (full, other):
        held.kill(box)


@everywhere
def test_memory_bomb_gets_an_error(held: Zygote) -> None:
    box = held.spawn()
    assert box.call("memory_bomb") == "out of memory after True"
    held.kill(box)


@everywhere
def test_file_larger_than_allowed_cannot_be_written(held: Zygote) -> None:
    box = held.spawn()
    assert box.call("disk_filler") == "EFBIG"
    assert (box.folder / "work" / "big").stat().st_size == 1 << 20
    held.kill(box)


@everywhere
def test_file_without_a_name_is_seen(held: Zygote) -> None:
    box = held.spawn()
    mebibytes, entries = box.call("unnamed_file")
    assert (mebibytes, entries) == (3, 0)
    held.kill(box)


@everywhere
def test_output_that_nobody_reads_blocks_nothing(held: Zygote) -> None:
    box = held.spawn()
    assert box.call("much_output") == 64
    held.kill(box)


@boxes.held_by("namespaces", "landlock")
def test_boxes_do_not_see_each_other(held: Zygote) -> None:
    one, two = held.spawn(), held.spawn()
    one.call("work_is_writable")
    seen = two.call("readable", [str(one.folder / "work" / "moved"), str(one.folder / "work")])
    assert seen == []
    for box in (one, two):
        held.kill(box)


@everywhere
def test_worker_that_closes_the_socket_ends_all(held: Zygote) -> None:
    with boxes.zygote(held.who, best=held.first["level"]) as zygote:
        made = [zygote.spawn() for _ in range(3)]
        for box in made:
            box.call("daemon")
        zygote.control.close()
        assert zygote.process.wait(boxes.PATIENCE_S) == 0
        assert all(box.all_gone() for box in made)


@everywhere
def test_killed_worker_takes_zygote_and_boxes_along(held: Zygote) -> None:
    with _worker(who=held.who, best=held.first["level"]) as (worker, zygote, box):
        assert box.receive() == {"type": "ready"}
        box.call("daemon")
        worker.kill()
        assert box.all_gone()
        assert _ended(zygote)


def test_zygote_that_never_finishes_loading_dies_with_its_worker() -> None:
    with _worker(who=boxes.MYSELF, modules=["slow"]) as (worker, zygote, box):
        assert box.sock.recv(1) == b"x"
        worker.kill()
        assert _ended(zygote)


@everywhere
def test_killed_zygote_takes_boxes_along(held: Zygote) -> None:
    """By the kernel in a namespace; elsewhere the box's own process ends all when the worker lets go of it."""
    with boxes.zygote(held.who, best=held.first["level"]) as zygote:
        box = zygote.spawn()
        box.call("daemon")
        if held.first["level"] != "namespaces":
            box.send("sweep")
            assert box.receive() == {"type": "swept", "value": 1}
            box.sock.shutdown(socket.SHUT_WR)
        zygote.process.kill()
        zygote.process.wait()
        assert box.all_gone()


@contextlib.contextmanager
def _worker(**options: Any) -> Iterator[tuple[subprocess.Popen[bytes], int, Box]]:
    """A worker that can be killed, a descriptor of its zygote's process, and its only box."""
    ours, theirs = socket.socketpair()
    ours.settimeout(boxes.PATIENCE_S)
    with boxes.open_folder() as folder, theirs, ours:
        boxes.box_folder(folder)
        (folder / "slow.py").write_text(_SLOW)
        with subprocess.Popen(
            [sys.executable, str(boxes.HERE / "box_worker.py"), str(theirs.fileno()), str(folder), json.dumps(options)],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(boxes.HERE.parents[1])},
        ) as worker:
            theirs.close()
            assert worker.stdout is not None
            zygote = os.pidfd_open(int(worker.stdout.readline()))
            try:
                yield worker, zygote, boxes.Box("only", ours, folder)
            finally:
                worker.kill()
                os.close(zygote)


def _ended(pidfd: int) -> bool:
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(1000 * boxes.PATIENCE_S))


#: Takes the box's end of the socket out of the order that the worker has sent already, says so, and waits for ever.
_SLOW = """
import json, signal, socket, sys
from gateway_transform.box import wire

control = socket.socket(fileno=json.loads(sys.argv[-1])["socket"])
socket.socket(fileno=wire.receive(control)[1][0]).send(b"x")
signal.pause()
"""
