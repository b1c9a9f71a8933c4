"""Everything below a process, and its end: no fork, session or double fork of a step gets away.

Processes are named by pidfd before they are signalled and looked at again after, so that a number that was given to
somebody else in between is never hit.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def parent_of(pid: int) -> int | None:
    """The parent of a living process; None when it is gone or only waits to be reaped (proc(5), stat)."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    state, parent = stat[stat.rindex(b")") + 2 :].split(None, 2)[:2]
    return None if state in {b"Z", b"X"} else int(parent)


def descendants(pid: int) -> list[int]:
    """All processes below ``pid`` as far as they can be seen in one pass, parents first; zombies are among them."""
    found: list[int] = []
    waiting = [pid]
    parents: dict[int, list[int]] | None = None
    while waiting:
        current = waiting.pop()
        below = _children(current)
        if below is None:
            parents = _by_parent() if parents is None else parents
            below = parents.get(current, [])
        found += below
        waiting += below
    return found


def living(pid: int) -> list[int]:
    """The descendants of ``pid`` that still run."""
    return [each for each in descendants(pid) if parent_of(each) is not None]


def kill_descendants(pid: int, *, deadline_s: float = 5.0, spare: Iterable[int] = ()) -> bool:
    """Kill everything below ``pid``, but those in ``spare`` and what is below them; whether all ended in time.

    They are stopped first, round by round, as a stopped process forks no more; then they are killed. Those that are
    children of the caller are left for it to reap. ``pid`` should be a subreaper, or orphans get away.
    """
    deadline = time.monotonic() + deadline_s
    kept = set(spare)
    while True:
        stopped: dict[int, int] = {}
        try:
            while fresh := [each for each in _unspared(pid, kept) if each not in stopped]:
                stopped |= _hold(fresh, pid)
                if time.monotonic() > deadline:
                    break
            for held in stopped.values():
                _signal(held, signal.SIGKILL)
            _await_exit(stopped.values(), deadline)
        finally:
            for held in stopped.values():
                os.close(held)
        left = any(parent_of(each) is not None for each in _unspared(pid, kept))
        if not left or time.monotonic() > deadline:
            return not left


def _unspared(pid: int, spare: set[int]) -> list[int]:
    kept = spare | {below for each in spare for below in descendants(each)}
    return [each for each in descendants(pid) if each not in kept and parent_of(each) is not None]


def kill_own_namespace() -> None:
    """As process 1 of a process namespace: kill all others in it at one stroke (kill(2), pid -1).

    Raises RuntimeError anywhere else, where it would mean every process of this user.
    """
    if os.getpid() != 1:
        raise RuntimeError("not the first process of a namespace")
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def _children(pid: int) -> list[int] | None:
    """From ``children`` of every thread; None where the kernel has no such file (CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    folder = _PROC / str(pid) / "task"
    try:
        threads = list(folder.iterdir())
    except OSError:
        return []
    for thread in threads:
        try:
            found += map(int, (thread / "children").read_bytes().split())
        except FileNotFoundError:
            if thread.exists():
                return None
        except OSError:
            continue
    return found


def _by_parent() -> dict[int, list[int]]:
    """Children by parent from a walk over all processes."""
    found: dict[int, list[int]] = {}
    for pid in (int(path.name) for path in _PROC.iterdir() if path.name.isdigit()):
        if (parent := parent_of(pid)) is not None:
            found.setdefault(parent, []).append(pid)
    return found


def _hold(pids: list[int], root: int) -> dict[int, int]:
    """Stop those that are still whom they were when listed; orphans have gone to ``root`` meanwhile."""
    held: dict[int, int] = {}
    for pid in pids:
        parent = parent_of(pid)
        if parent is None:
            continue
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            continue
        if parent_of(pid) not in {parent, root}:
            os.close(descriptor)
            continue
        held[pid] = descriptor
        _signal(descriptor, signal.SIGSTOP)
    return held


def _signal(descriptor: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        return


def _await_exit(descriptors: Iterable[int], deadline: float) -> None:
    """Until each has ended or the time is over (pidfd_open(2): readable when the process ends)."""
    for descriptor in descriptors:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
