"""A box without isolation: ``init.main`` in a forked child, and the worker's end of its socket."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway_transform.box import init, syscalls, wire
from gateway_transform.box.context import Context, Entry

JOB_ID = "0123456789abcdef0123456789abcdef"
LIMITS = {
    "seconds": 20.0,
    "memory_mb": 8192,
    "disk_mb": 64,
    "processes": 200,
    "max_unpacked_mb": 64,
    "max_files": 1000,
    "upload_bytes": 0,
}
MESSAGE_S = 20


def entry(call: Callable[..., object], name: str = "", **said: Any) -> Entry:
    name = name or call.__name__
    return Entry(name, call, said.pop("description", {"label": name, "help": name, "options": []}), **said)


def archive(files: dict[str, bytes], steps: list[Any] | None = None, **job: Any) -> bytes:
    """A tar.gz as the client makes it; with ``steps`` also its job.json."""
    if steps is not None:
        listed = [{"name": step} if isinstance(step, str) else step for step in steps]
        files = {"job.json": json.dumps({"transformations": listed, **job}).encode(), **files}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


class Box:
    """The worker's end. ``work`` is the box's folder, ``result`` and ``log`` are the files it writes."""

    def __init__(self, sock: socket.socket, folder: Path) -> None:
        self.sock = sock
        self.work = folder / "work"
        self.tmp = folder / "tmp"
        self.result = folder / "result"
        self.log = folder / "out.log"
        self.upload = folder / "upload"
        self.pid = 0

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        wire.send(self.sock, message, fds or [])
        for fd in fds or []:
            os.close(fd)

    def receive(self) -> dict[str, Any]:
        received = wire.receive(self.sock)
        assert received is not None, "the box has closed its socket"
        return received[0]

    def order(self, upload: bytes, *, kind: str = "job", offset: int = 0, **limits: Any) -> None:
        """Send a job or scan order for the upload, whose descriptor stands at ``offset``."""
        self.upload.write_bytes(upload)
        fds = [os.open(self.upload, os.O_RDONLY)]
        os.lseek(fds[0], offset, os.SEEK_SET)
        message: dict[str, Any] = {"type": kind, "limits": LIMITS | {"upload_bytes": len(upload)} | limits}
        if kind == "job":
            message |= {"id": JOB_ID, "attempt": 1, "queued_ms": 7, "created": 1.5}
            fds.append(os.open(self.result, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            fds.append(os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600))
        self.send(message, fds)

    def finish(self, upload: bytes, **limits: Any) -> dict[str, Any]:
        """Run a job to its end, letting it go at once; the message ``done``."""
        self.order(upload, **limits)
        while (message := self.receive())["type"] != "done":
            if message["type"] == "unpacked":
                self.send({"type": "go", "warnings": [], "restore": False})
        return message

    def files(self) -> dict[str, bytes]:
        """Regular files of the result."""
        with tarfile.open(self.result) as tar:
            return {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}

    def status(self) -> dict[str, Any]:
        return json.loads(self.files()["status.json"])

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files()["out.log"].splitlines()]

    def exit_status(self) -> int:
        """Wait for the box's end."""
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def box(folder: Path, *entries: Entry, file_bytes: int | None = None) -> Iterator[Box]:
    """A warm box that has said ``ready``, and may write no file beyond ``file_bytes``; killed at the end."""
    ours, theirs = socket.socketpair()
    ours.settimeout(MESSAGE_S)
    stand = Box(ours, folder)
    stand.work.mkdir()
    stand.tmp.mkdir()
    context = Context({each.name: each for each in entries}, str(stand.work), str(stand.tmp))
    stand.pid = os.fork()
    if stand.pid == 0:
        os.setsid()
        ours.close()
        syscalls.adopt_orphans()
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        init.main(theirs, context)
    theirs.close()
    try:
        assert stand.receive() == {"type": "ready"}
        yield stand
    finally:
        ours.close()
        if stand.pid:
            os.kill(stand.pid, signal.SIGKILL)
            os.waitpid(stand.pid, 0)


def run(tmp_path: Path, *calls: Callable[..., object], files=None, steps=None, **limits) -> tuple[dict[str, Any], Box]:
    """One job over these transformations to its end: the message ``done`` and the stand."""
    with box(tmp_path, *(entry(call) for call in calls)) as stand:
        upload = archive(files or {"a.txt": b"abc"}, steps or [call.__name__ for call in calls])
        done = stand.finish(upload, **limits)
        assert stand.exit_status() == 0
        return done, stand
