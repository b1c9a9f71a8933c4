"""Resource limits of a box and of one step in it (setrlimit(2))."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

from gateway_transform.box import watch

OPEN_FILES = 1024
_MIB = 1 << 20
#: A box is a better victim than the gateway when the machine's memory is gone (proc(5), oom_score_adj).
_OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What one process of a step may take; None: no limit of that kind.

    ``memory_mb`` bounds private data, which is what a program asks for and touches; the address space is left alone,
    since some reserve far more than they use (JVM, Chromium). ``cpu_s`` is of processor time. ``processes`` counts
    threads too, of the whole box where ``counted_alone``.
    """

    memory_mb: int | None = None
    file_mb: int | None = None
    cpu_s: float | None = None
    processes: int | None = None
    counted_alone: bool = True


def limit_box() -> None:
    """For all of a box's life: no core files, few open files, first to go when memory is short."""
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    lower(resource.RLIMIT_MEMLOCK, 8 * _MIB)
    lower(resource.RLIMIT_MSGQUEUE, 0)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="utf-8")
    except OSError:
        return


def limit_files(largest_mb: int) -> None:
    """No file of this box, its result and its log among them, grows beyond that."""
    lower(resource.RLIMIT_FSIZE, largest_mb * _MIB)


def limit_step(limits: StepLimits) -> None:
    """In the child that becomes a step, before it does anything. Raises nothing: what is lower already stays."""
    if limits.memory_mb is not None:
        lower(resource.RLIMIT_DATA, limits.memory_mb * _MIB)
    if limits.file_mb is not None:
        lower(resource.RLIMIT_FSIZE, limits.file_mb * _MIB)
    if limits.cpu_s is not None:
        seconds = max(1, int(limits.cpu_s) + 1)
        lower(resource.RLIMIT_CPU, seconds, hard=seconds + 1)
    if limits.processes is not None:
        others = 0 if limits.counted_alone else tasks_of_user(os.getuid())
        lower(resource.RLIMIT_NPROC, limits.processes + others)


def lower(kind: int, value: int, *, hard: int | None = None) -> None:
    """Set soft and hard limit, never above what is in force; ``hard`` is the soft one unless given."""
    in_force = [each for each in resource.getrlimit(kind) if each != resource.RLIM_INFINITY]
    ceiling = min([value if hard is None else hard, *in_force[-1:]])
    resource.setrlimit(kind, (min([value, ceiling, *in_force]), ceiling))


def tasks_of_user(uid: int) -> int:
    """Tasks that count against RLIMIT_NPROC where a box shares its user with others."""
    pids = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and path.stat().st_uid == uid:
                pids.append(int(path.name))
        except OSError:
            continue
    return watch.threads(pids)
