"""A filter of system calls for boxes: no way to debug others, mount, make namespaces, load code into the kernel.

Classic BPF by hand (seccomp(2), linux/filter.h). The list is of what conversions never need and attacks often do; it
stands behind namespaces or Landlock, not in their place.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from gateway_transform.box import syscalls

_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_JUMP_ANY_BIT = 0x45
_AND = 0x54
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NUMBER_AT = 0
_ARCH_AT = 4
_ARGUMENTS_AT = 16
_X32_BIT = 0x40000000
_NEW_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)
#: Linux itself, without address randomisation, and the question what is set (personality(2)).
_PERSONALITIES = (0x0, 0x0040000, 0xFFFFFFFF)
_INJECT_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
#: Resolving names asks the routing tables (AF_NETLINK); none of the others is a way to the network.
_NETWORK = (int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6), int(socket.AF_NETLINK))
_SOCKET_KIND = 0xF  # what is beside it are flags (socket(2))

#: Refused with EPERM: name -> number on x86_64, on aarch64 (None: not there).
_REFUSED: dict[str, tuple[int, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
#: Answered with ENOSYS, on which libraries take their older way: clone3 hides its flags in memory, and memfd_create
#: keeps gigabytes that no limit of a process counts.
_ABSENT: dict[str, tuple[int, int]] = {"clone3": (435, 435), "memfd_create": (319, 279), "memfd_secret": (447, 447)}
_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


#: SO_SNDBUF, SO_RCVBUF and their forced forms: what waits in a socket is no process's memory.
_BUFFER_SIZES = (7, 8, 32, 33)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Calls whose arguments are looked at."""

    clone: int
    personality: int
    ioctl: int
    socket: int
    socketpair: int
    connect: int
    setsockopt: int


_LOOKED_AT = {
    "x86_64": _Numbers(clone=56, personality=135, ioctl=16, socket=41, socketpair=53, connect=42, setsockopt=54),
    "aarch64": _Numbers(clone=220, personality=92, ioctl=29, socket=198, socketpair=199, connect=203, setsockopt=208),
}


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def is_known(machine: str | None = None) -> bool:
    """Whether there is a filter for this machine."""
    return (machine or platform.machine()) in _ARCHES


def install(*, network: bool, shared_names: bool) -> None:
    """Put the filter in force, for good. Raises OSError where the kernel has none or the machine is not known.

    Without ``network`` only sockets of AF_UNIX can be made. ``shared_names`` says that socket files of the system can
    be reached, as no namespace hides them: then nothing connects, and no datagram goes to a name.
    """
    if not is_known():
        raise OSError(errno.ENOSYS, f"no filter of system calls for {platform.machine()}")
    code = program(platform.machine(), network=network, shared_names=shared_names)
    syscalls.install_filter(_Program(len(code) // 8, code))


@cache
def program(machine: str, *, network: bool, shared_names: bool) -> bytes:
    """The filter's instructions, 8 bytes each (``struct sock_filter``)."""
    numbers = _LOOKED_AT[machine]
    first = machine == "x86_64"
    code = [
        _load(_ARCH_AT),
        _jump(_JUMP_EQUAL, _ARCHES[machine], yes=1, no=0),
        _fail(errno.EPERM),
        _load(_NUMBER_AT),
    ]
    if first:
        code += [_jump(_JUMP_AT_LEAST, _X32_BIT, yes=0, no=1), _fail(errno.ENOSYS)]
    for pair in _REFUSED.values():
        number = pair[0] if first else pair[1]
        if number is not None:
            code += _when(number, [_fail(errno.EPERM)])
    for both in _ABSENT.values():
        code += _when(both[0] if first else both[1], [_fail(errno.ENOSYS)])
    code += _when(numbers.clone, list(_refuse_bits(0, _NEW_NAMESPACES)))
    code += _when(numbers.personality, list(_allow_only(0, _PERSONALITIES)))
    code += _when(numbers.ioctl, list(_refuse_values(1, _INJECT_INPUT)))
    if network:
        code += _when(numbers.socket, list(_allow_only(0, _NETWORK)))
    else:
        code += _without_network(numbers, shared_names=shared_names)
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _without_network(numbers: _Numbers, *, shared_names: bool) -> list[bytes]:
    family = int(socket.AF_UNIX)
    code = _when(numbers.socketpair, list(_allow_only(0, (family,))))
    code += _when(numbers.setsockopt, list(_refuse_values(2, _BUFFER_SIZES)))
    if not shared_names:
        return code + _when(numbers.socket, list(_allow_only(0, (family,))))
    datagram = int(socket.SOCK_DGRAM)
    checks = [
        _load(_ARGUMENTS_AT),
        _jump(_JUMP_EQUAL, family, yes=1, no=0),
        _fail(errno.EPERM),
        _load(_ARGUMENTS_AT + 8),
        _step(_AND, _SOCKET_KIND),
        _jump(_JUMP_EQUAL, datagram, yes=0, no=1),
        _fail(errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return code + _when(numbers.socket, checks) + _when(numbers.connect, [_fail(errno.EPERM)])


def _step(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, *, yes: int, no: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _step(_LOAD_WORD, offset)


def _fail(number: int) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def _when(number: int, then: list[bytes]) -> list[bytes]:
    """``then`` for that call only; it must end with a return."""
    return [_jump(_JUMP_EQUAL, number, yes=0, no=len(then)), *then]


def _refuse_bits(argument: int, bits: int) -> Iterator[bytes]:
    yield _load(_ARGUMENTS_AT + 8 * argument)
    yield _jump(_JUMP_ANY_BIT, bits, yes=0, no=1)
    yield _fail(errno.EPERM)
    yield _step(_RETURN, _ALLOW)


def _refuse_values(argument: int, values: tuple[int, ...]) -> Iterator[bytes]:
    yield _load(_ARGUMENTS_AT + 8 * argument)
    for value in values:
        yield _jump(_JUMP_EQUAL, value, yes=0, no=1)
        yield _fail(errno.EPERM)
    yield _step(_RETURN, _ALLOW)


def _allow_only(argument: int, values: tuple[int, ...]) -> Iterator[bytes]:
    yield _load(_ARGUMENTS_AT + 8 * argument)
    for value in values:
        yield _jump(_JUMP_EQUAL, value, yes=0, no=1)
        yield _step(_RETURN, _ALLOW)
    yield _fail(errno.EPERM)
