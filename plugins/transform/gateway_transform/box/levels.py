"""What this system can hold a box with: found out by making one, as no version or setting tells for sure."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path
from typing import Any

from gateway_transform.box import isolation, skeleton
from gateway_transform.box import syscalls as calls
from gateway_transform.box.context import LANDLOCK, NAMESPACES, RLIMITS
from gateway_transform.box.isolation import Ground
from gateway_transform.box.namespaces import Base, fork_first

LEVELS = (NAMESPACES, LANDLOCK, RLIMITS)
_TRIAL_MS = 10_000


def choose(best: str, *, uid: int | None) -> tuple[str, list[str]]:
    """The strongest level from ``best`` down that works here, and why it is not more, or what it lacks.

    Raises OSError when not even limits can be set.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise OSError("boxes need Linux 5.3 or newer") from error
    reasons: list[str] = []
    for level in LEVELS[LEVELS.index(best) :]:
        said = _try(level, uid)
        if "error" not in said:
            return level, [*reasons, *said["missing"]]
        reasons.append(f"{level}: {said['error']}")
    raise OSError("; ".join(reasons))


def _try(level: str, uid: int | None) -> dict[str, Any]:
    """Make a box in a child that is thrown away; ``missing`` of it, or ``error``."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _say(writing, level, uid)
    os.close(writing)
    waiting = select.poll()
    waiting.register(reading, select.POLLIN)
    if not waiting.poll(_TRIAL_MS):
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    try:
        said: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"error": "the trial came to no end"}
    return said


def _say(writing: int, level: str, uid: int | None) -> None:
    """In the child: write the outcome and end."""
    said: dict[str, Any] = {"error": "the trial broke off"}
    try:
        said = {"missing": _trial(level, uid)}
    except OSError as error:
        said = {"error": str(error)}
    finally:
        os.write(writing, json.dumps(said).encode())
        os._exit(0)


def _unreachable() -> list[str]:
    """Where boxes see the system's own folders, their user may not get to the interpreter's, such as below /root."""
    library = str(Path(os.__file__).parent)
    if os.access(library, os.R_OK | os.X_OK):
        return []
    return [f"user {os.getuid()} cannot read {library}: steps have only those modules that were loaded before"]


def _trial(level: str, uid: int | None) -> list[str]:
    if level != NAMESPACES:
        walls = isolation.enter(Ground(level, uid, readable=("/usr",)), None, network=False)
        return [*walls.missing, *_unreachable()]
    calls.adopt_orphans()
    base = Base()
    base.build(skeleton.plan(["/usr"], ()), uid=os.getuid() if uid is None else uid)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    box = fork_first()
    if box == 0:
        try:
            text = json.dumps(isolation.enter(Ground(level, uid, base), None, network=False).missing)
        except OSError as error:
            text = json.dumps(str(error))
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = json.loads(answer.read() or '"the trial came to no end"')
    os.waitpid(box, 0)
    if isinstance(said, str):
        raise OSError(said)
    return [str(each) for each in said]
