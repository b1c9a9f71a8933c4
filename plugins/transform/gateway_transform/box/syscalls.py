"""System calls that Python has no name for, by ctypes. Linux only; every failure is an OSError that names the call."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

#: Of calls without a name in libc; the same on every machine (they came after the numbers were unified).
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttributes(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(number: int, what: str, *arguments: Any) -> int:
    """A system call by its number; integers are passed as machine words. Raises OSError naming ``what``."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), what)


def _machine_call(numbers: dict[str, int], what: str, *arguments: Any) -> int:
    number = numbers.get(platform.machine())
    if number is None:
        raise OSError(38, f"{what}: not known on {platform.machine()}")
    return call(number, what, *arguments)


def unshare(flags: int) -> None:
    """Leave what ``flags`` (``CLONE_NEW*``) say for new namespaces."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, kind: str | None = None, *, flags: int, options: str | None = None) -> None:
    """As the manual has it; a ``None`` is a null pointer. The error names the target."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    _checked(_libc.mount(*texts, ctypes.c_ulong(flags), data), f"mount {source or kind} on {target}")


def umount(target: str, flags: int) -> None:
    """Take a mount away; with ``MNT_DETACH`` all below it too."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root of this mount namespace."""
    _machine_call(_PIVOT_ROOT, "pivot_root", os.fsencode(new_root), os.fsencode(put_old))


def mount_setattr(path: str, attributes: int, *, recursive: bool) -> None:
    """Set ``MOUNT_ATTR_*`` of a mount; the error is ENOSYS before Linux 5.12."""
    wanted = _MountAttributes(attr_set=attributes)
    flags = _AT_RECURSIVE if recursive else 0
    size = ctypes.sizeof(wanted)
    call(MOUNT_SETATTR, f"mount_setattr {path}", _AT_FDCWD, os.fsencode(path), flags, ctypes.byref(wanted), size)


def _prctl(what: str, option: int, *arguments: Any) -> int:
    words = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    return _checked(_libc.prctl(ctypes.c_int(option), *words), what)


def die_with_parent(number: int) -> None:
    """Get signal ``number`` when the thread that forked this process ends (0: no more); a setuid undoes it."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def set_dumpable(*, dumpable: bool) -> None:
    """Whether others of the same user may look into this process by /proc (PR_SET_DUMPABLE)."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def no_new_privileges() -> None:
    """No later exec gives privileges; needed before seccomp and Landlock without them."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def bound_capabilities() -> None:
    """Empty the bounding set, as far as this process may: no exec gives a capability again."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            _prctl("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, capability)
        except OSError:
            return


def drop_capabilities() -> None:
    """Empty all sets of capabilities."""
    bound_capabilities()
    _prctl("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    head = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _machine_call(_CAPSET, "capset", head, (ctypes.c_uint32 * 6)())


def install_filter(program: ctypes.Structure) -> None:
    """Put a ``struct sock_fprog`` in force for this process and all it starts (seccomp(2))."""
    _prctl("PR_SET_SECCOMP", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))
