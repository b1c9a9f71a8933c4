"""Boxes in namespaces of their own: files, processes, network, System V IPC, host name, users.

The zygote prepares one root for all boxes in its own mount namespace: ``/box`` of a tmpfs whose ``/host`` is the
system as it was. The zygote goes on inside ``/host``. A box copies the mounts, adds its two folders, makes ``/box``
its root and lets go of everything else.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway_transform.box import skeleton
from gateway_transform.box import syscalls as calls
from gateway_transform.box.mounts import bind_writable, tmpfs
from gateway_transform.box.skeleton import Places, Plan

_SPOTS = ("/tmp", "/var/tmp", "/run", "/mnt")  # noqa: S108 - covered for a moment in this process's own namespace


class Base:
    """The zygote's place. Making it changes this process for good; raises OSError where the system does not let it.

    As root no user namespace is made here: a box changes its user, then makes its own.
    """

    def __init__(self) -> None:
        self._places: Places | None = None
        privileged = os.geteuid() == 0
        uid, gid = os.geteuid(), os.getegid()
        calls.unshare(calls.CLONE_NEWNS | (0 if privileged else calls.CLONE_NEWUSER))
        if not privileged:
            map_user(uid, gid)
        calls.mount(None, "/", flags=calls.MS_SLAVE | calls.MS_REC)
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        spot = next(path for path in _SPOTS if Path(path).is_dir())
        tmpfs(spot, "mode=0755,size=1m")
        for name in ("host", "box"):
            Path(spot, name).mkdir(mode=0o755)
        tmpfs(f"{spot}/box", "mode=0755,size=4m")
        calls.pivot_root(spot, f"{spot}/host")
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.chroot("/host")
        os.fchdir(here)
        os.close(here)

    def build(self, plan: Plan, *, uid: int) -> None:
        """Make the root of boxes, once. Raises OSError."""
        before = os.umask(0o022)
        try:
            with self._outside():
                skeleton.build("/box", "/host", plan, uid=uid)
        finally:
            os.umask(before)
        self._places = plan.places()

    @contextmanager
    def _outside(self) -> Iterator[None]:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        self._go_outside()
        try:
            yield
        finally:
            os.chroot("/host")
            os.fchdir(here)
            os.close(here)

    def _go_outside(self) -> None:
        os.fchdir(self._root)
        os.chroot(".")

    def enter(self, folder: str | None, *, network: bool) -> Places:
        """In a box, process 1 of its namespace: shut everything else out; says where ``folder``'s two parts are now.

        Raises OSError. What is still to be done: change the user, drop what privileges there are. Without ``folder``
        it is a trial.
        """
        if self._places is None:
            raise OSError("the root of boxes has not been built")
        real = os.path.realpath(folder or "/")
        names = {path: os.path.realpath(path) for path in skeleton.NAME_FILES if network and Path(path).exists()}
        self._go_outside()  # before the mounts are copied: the descriptor stays with the zygote's own
        kinds = calls.CLONE_NEWNS | calls.CLONE_NEWIPC | calls.CLONE_NEWUTS
        calls.unshare(kinds if network else kinds | calls.CLONE_NEWNET)
        if folder is not None:
            for name, place in zip(("work", "tmp"), self._places, strict=True):
                bind_writable(f"/host{real}/{name}", f"/box{place}")
        for path, source in names.items():
            calls.mount(f"/host{source}", f"/box{path}", flags=calls.MS_BIND)
        skeleton.box_tmpfs("/box")
        calls.mount("proc", "/box/proc", "proc", flags=calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC)
        os.chdir("/box")
        calls.pivot_root(".", ".")
        calls.umount(".", calls.MNT_DETACH)
        os.chdir("/")
        socket.sethostname("box")
        return self._places


def map_user(uid: int, gid: int) -> None:
    """In a new user namespace: be the same as before, and nobody else (user_namespaces(7))."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text, encoding="utf-8")


def fork_first() -> int:
    """Fork a child that is process 1 of a new process namespace; returns 0 in it and its number in the caller.

    A process between the two makes the namespace and ends, so the caller must be a subreaper. The child comes back
    when it has the caller as its parent. Raises OSError.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle:
        os.close(writing)
        said = os.read(reading, 1024)
        os.close(reading)
        os.waitpid(middle, 0)
        if not said.isdigit():
            raise OSError(f"no process namespace: {said.decode(errors='replace')}")
        return int(said)
    child = -1
    try:
        calls.unshare(calls.CLONE_NEWPID)
        itself = os.pidfd_open(os.getpid())
        child = os.fork()
        if child:
            os.write(writing, str(child).encode())
    except OSError as error:
        os.write(writing, str(error).encode())
    finally:
        if child:
            os._exit(0)
    gone = select.poll()
    gone.register(itself, select.POLLIN)
    gone.poll()
    for descriptor in (itself, reading, writing):
        os.close(descriptor)
    return 0
