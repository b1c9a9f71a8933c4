"""How tight boxes are with the system calls that a systemd unit allows: run as ``python unit_calls.py UNIT BEST``.

Prints the level and what it lacks as JSON, first as this machine gives it, then behind the unit's filter. As the
service it is not root.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from gateway_transform.box import levels, syscalls

_ALLOW = 0x7FFF0000
_EPERM = 0x00050001
_NOBODY = 65534


def calls_of(name: str) -> set[str]:
    """A call's own name, or the calls of a group such as ``@system-service``."""
    if not name.startswith("@"):
        return {name}
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    inner = [line.strip() for line in shown.splitlines()[1:]]
    return {call for part in inner if part and not part.startswith("#") for call in calls_of(part)}


def allowed_by(unit: Path) -> set[str]:
    """Lines of the unit add and take away in their order; ``@default`` is always there (systemd.exec(5))."""
    allowed = calls_of("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(), re.MULTILINE):
        calls = {call for name in line.removeprefix("~").split() for call in calls_of(name)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def hold_to(allowed: set[str]) -> None:
    """Refuse all other calls with EPERM, for good."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_EPERM))
    for name in sorted(allowed):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and library.seccomp_rule_add(context, _ALLOW, number, 0):
            raise OSError(name)
    if library.seccomp_load(context):
        raise OSError("seccomp_load")


def main(unit: Path, best: str) -> None:
    """Print two lines."""
    allowed = allowed_by(unit)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        syscalls.set_dumpable(dumpable=True)
    sys.stdout.write(json.dumps(levels.choose(best, uid=None)) + "\n")
    hold_to(allowed)
    sys.stdout.write(json.dumps(levels.choose(best, uid=None)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
