"""Start zygotes and boxes as a worker does, as root and as somebody else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway_transform.box import wire
from gateway_transform.box.zygote import ZygoteOptions

HERE = Path(__file__).parent
PLUGIN = HERE.parents[1] / "plugins" / "transform"
NOBODY = 65534
PATIENCE_S = 30
WHO = ("root", "other")
MYSELF = "root" if os.geteuid() == 0 else "other"


@cache
def python_of_others() -> str | None:
    """An interpreter that any user can run, or None."""
    for path in (sys.executable, "/usr/bin/python3"):
        probe = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError):
            if subprocess.run(probe, check=False, user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0:
                return path
    return None


def held_by(*levels: str) -> pytest.MarkDecorator:
    """Run a test with the fixture ``held`` for these levels, as root and as another user."""
    return pytest.mark.parametrize(
        "held", [(who, level) for level in levels for who in WHO], indirect=True, ids="-".join, scope="module"
    )


def skip_unless_possible(who: str) -> None:
    """Root can be both if there is an interpreter for others; others only themselves."""
    possible = os.geteuid() != 0 or python_of_others() is not None if who == "other" else os.geteuid() == 0
    if not possible:
        pytest.skip(f"cannot be {who} here")


def identity(who: str) -> dict[str, Any]:
    """How to start a process as ``root`` or as one that is not."""
    if who == "other" and os.geteuid() == 0:
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return {}


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that any user gets through to, unlike the one of a test."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-box-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass
class Box:
    """The worker's end of one."""

    id: str
    sock: socket.socket
    folder: Path

    def call(self, name: str, *arguments: Any, wait: bool = True) -> Any:
        """Run one of ``box_hostile``'s functions in a child of the box's first process."""
        self.send("call", name=name, arguments=list(arguments), wait=wait)
        answer = self.receive()
        assert answer["type"] == "value", answer
        return answer["value"]

    def send(self, kind: str, **more: Any) -> None:
        wire.send(self.sock, {"type": kind, **more})

    def receive(self) -> dict[str, Any]:
        received = wire.receive(self.sock)
        assert received is not None
        return received[0]

    def all_gone(self) -> bool:
        """Wait until nobody holds the box's end any more: every process that came of it is dead."""
        try:
            while self.sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            return True
        return True


@dataclass
class Zygote:
    """The worker's end of one."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    folder: Path
    who: str
    first: dict[str, Any]
    _count: int = 0
    boxes: list[Box] = field(default_factory=list)

    def spawn(self, *, network: bool = False, folder: Path | None = None) -> Box:
        """A box that has said ``ready``."""
        box = self.ask(network=network, folder=folder)
        assert self.receive()["type"] == "spawned"
        answer = box.receive()
        assert answer == {"type": "ready"}, answer
        return box

    def ask(self, *, network: bool = False, folder: Path | None = None) -> Box:
        self._count += 1
        name = f"box{self._count}"
        folder = folder or self.folder / name
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        with theirs:
            message = {"type": "spawn", "box": name, "folder": str(box_folder(folder)), "network": network}
            wire.send(self.control, message, [theirs.fileno()])
        self.boxes.append(Box(name, ours, folder))
        return self.boxes[-1]

    def kill(self, box: Box) -> int:
        """The wait status."""
        wire.send(self.control, {"type": "kill", "box": box.id})
        return self.exited(box)

    def exited(self, box: Box) -> int:
        message = self.receive()
        assert (message["type"], message["box"]) == ("exited", box.id)
        return int(message["status"])

    def receive(self) -> dict[str, Any]:
        received = wire.receive(self.control)
        assert received is not None
        return received[0]

    def close(self) -> None:
        self.control.close()
        for box in self.boxes:
            box.sock.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()


def box_folder(folder: Path) -> Path:
    """With its two parts, of the user that boxes become."""
    for name in ("work", "tmp"):
        part = folder / name
        part.mkdir(parents=True)
        part.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(part, NOBODY, NOBODY)
    return folder


def start(
    who: str,
    *,
    script: Path | None = HERE / "box_zygote.py",
    cwd: Path | None = None,
    without: Sequence[str] = (),
    **options: Any,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A zygote's process and the worker's end of its socket; without ``script`` it is the real one.

    ``without`` names system calls that fail as on a kernel that has them not (see ``box_zygote``).
    """
    started = "other" if who == "other" or os.geteuid() != 0 else "root"
    python = (python_of_others() or sys.executable) if started == "other" else sys.executable
    what = [str(script)] if script else ["-m", "gateway_transform.box.zygote"]
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    with theirs:
        process = subprocess.Popen(
            [python, *what, json.dumps(asdict(ZygoteOptions(socket=theirs.fileno(), **options)))],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            cwd=cwd,
            env={"PATH": os.defpath, "PYTHONPATH": str(PLUGIN), "LC_ALL": "C.UTF-8", "WITHOUT": " ".join(without)},
            **identity(started),
        )
    return process, ours


@contextlib.contextmanager
def zygote(who: str = MYSELF, **options: Any) -> Iterator[Zygote]:
    """A started one (see ``start``), with its first message. Ends it and all its boxes."""
    skip_unless_possible(who)
    with open_folder() as folder:
        made = Zygote(*start(who, **options), folder, who, {})
        try:
            made.first = made.receive()
            yield made
        finally:
            made.close()
