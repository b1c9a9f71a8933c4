"""Walls around a box: what a freshly forked process does to itself before it may touch a job.

All that is done here is for good. The order matters: places first, then the user, then privileges, last the filter.
"""

from __future__ import annotations

import errno
import os
import pwd
import select
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway_transform.box import landlock, limits, seccomp, skeleton
from gateway_transform.box import syscalls as calls
from gateway_transform.box.context import LANDLOCK, NAMESPACES, Context, Entry
from gateway_transform.box.namespaces import Base, map_user

#: Kernels count processes by user namespace since then (ucounts of RLIMIT_NPROC).
_COUNTED_BY_NAMESPACE = (5, 14)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all boxes of a zygote stand on.

    ``uid`` is the user that root's boxes become (its number is also their group), None to stay the same. ``readable``
    are the paths that Landlock allows; namespaces have theirs in ``base``.
    """

    level: str
    uid: int | None = None
    base: Base | None = None
    readable: tuple[str, ...] = ()
    entries: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Walls:
    """What is in force, and what this system could not give."""

    context: Context
    missing: tuple[str, ...]


def box_uid(wanted: int | None) -> int | None:
    """The user of boxes: another one when this process is root (``wanted``, or nobody), else None: no change."""
    if os.geteuid() != 0:
        return None
    if wanted:
        return wanted
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        return 65534


def enter(ground: Ground, folder: str | None, *, network: bool) -> Walls:
    """Shut this process in, with the folders ``work`` and ``tmp`` of ``folder`` to write in. Raises OSError.

    Without ``folder`` it is a trial of what the system can do.
    """
    os.setsid()
    os.umask(0o077)
    calls.set_dumpable(dumpable=True)
    limits.limit_box()
    work, tmp = (str(Path(folder or "/", name)) for name in ("work", "tmp"))
    start = Context(ground.entries, work, tmp, ground.level, network)
    if ground.level == NAMESPACES and ground.base is not None:
        places = ground.base.enter(folder, network=network)
        context = replace(start, working_dir=places.work, tmp_dir=places.tmp, pid1=os.getpid() == 1)
    else:
        os.chdir("/")
        calls.adopt_orphans()
        context = start
    if ground.uid is not None:
        calls.bound_capabilities()
        os.setgroups([])
        os.setresgid(ground.uid, ground.uid, ground.uid)
        os.setresuid(ground.uid, ground.uid, ground.uid)
        calls.set_dumpable(dumpable=True)
    if folder is not None:
        _check_folders(context)
    missing = []
    if context.pid1:
        context, lacks = _own_user_namespace(context)
        missing += lacks
    calls.drop_capabilities()
    calls.no_new_privileges()
    missing += _rules(ground, context)
    missing += _filter(context)
    return Walls(context, tuple(missing))


def _check_folders(context: Context) -> None:
    """Told here, where the reason can be said, and not by the first file of a job."""
    for path in (context.working_dir, context.tmp_dir):
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"user {os.getuid()} cannot write in {path}, or not get there")


def _own_user_namespace(context: Context) -> tuple[Context, list[str]]:
    """So that the kernel counts this box's processes for themselves; its capabilities are dropped right after."""
    uid, gid = os.getuid(), os.getgid()
    try:
        calls.unshare(calls.CLONE_NEWUSER)
        map_user(uid, gid)
    except OSError as error:
        return context, [f"processes are counted for all boxes together: {error}"]
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    return replace(context, counted_alone=release >= _COUNTED_BY_NAMESPACE), []


def _rules(ground: Ground, context: Context) -> list[str]:
    if ground.level == LANDLOCK:
        write = (context.working_dir, context.tmp_dir)
        landlock.restrict(read=ground.readable, write=write, devices=skeleton.DEVICES, network=context.network)
        return landlock.missing()
    if ground.level == NAMESPACES and context.network and not landlock.restrict_scope():
        return ["boxes with the network reach abstract sockets"]
    return []


def _filter(context: Context) -> list[str]:
    try:
        seccomp.install(network=context.network, shared_names=context.level != NAMESPACES)
    except OSError as error:
        return [f"no filter of system calls: {error}"]
    return []


def tie_to_zygote(alive: int, *, pid1: bool) -> None:
    """End with the zygote; ``alive`` is a pipe that only the zygote holds open.

    For process 1 of a namespace the kernel kills all that is in it. Elsewhere a killed box would leave its descendants
    to nobody: there the end of the box's socket is the sign, and the box ends what it started.
    """
    if pid1:
        calls.die_with_parent(signal.SIGKILL)
    asked = select.poll()
    asked.register(alive, select.POLLIN)
    if asked.poll(0):
        os._exit(1)


def let_go(keep: int) -> None:
    """Make every inherited descriptor but ``keep`` and the error output the null device.

    They are not closed: what a loaded module believes to be its own must not become a job's file.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor not in {keep, 2, null} and _is_open(descriptor):
            os.dup2(null, descriptor, inheritable=descriptor <= 2)
    os.close(null)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
