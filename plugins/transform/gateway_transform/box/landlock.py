"""Landlock: rules on files, TCP and signals that a process puts on itself, without any privilege (landlock(7)).

Holds where namespaces cannot be made, such as in most containers. What it does not hold back: stat, chmod and names
of files whose user is the same, and sockets other than TCP (the filter of system calls does that).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable

from gateway_transform.box import syscalls

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIR = 1 << 3
_TRUNCATE = 1 << 14
_IOCTL_DEV = 1 << 15
#: Rights on files by the ABI that brought them: 13 at first, then REFER, TRUNCATE, IOCTL_DEV.
_ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # MAKE_CHAR, MAKE_BLOCK
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE
_TCP = (1 << 0) | (1 << 1)  # bind, connect
_TCP_SINCE = 4
_SCOPES = (1 << 0) | (1 << 1)  # abstract sockets, signals
_SCOPES_SINCE = 6


class _RulesetAttributes(ctypes.Structure):
    """``struct landlock_ruleset_attr``."""

    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathAttributes(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock version, 0 where there is none or it is switched off."""
    try:
        return syscalls.call(syscalls.LANDLOCK_CREATE_RULESET, "landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def missing() -> list[str]:
    """What this kernel's version cannot hold back."""
    version = abi()
    if not version:
        return ["Landlock: not in this kernel, or switched off"]
    said = {2: "moving files", 3: "truncating files", _TCP_SINCE: "TCP", _SCOPES_SINCE: "signals and abstract sockets"}
    return [f"Landlock {version} knows no rule for {what}" for since, what in said.items() if version < since]


def restrict(*, read: Iterable[str], write: Iterable[str], devices: Iterable[str], network: bool) -> None:
    """Allow reading and running below ``read``, all below ``write``, and reading and writing of ``devices``.

    Links are followed to what they name now; paths that are not there are left out. Everything else is refused from
    here on, for this process and all it starts. Raises OSError where Landlock is missing. The caller has set
    no-new-privileges.
    """
    version = abi()
    if not version:
        raise OSError(errno.ENOSYS, "no Landlock")
    handled = _ALL_FILE_RIGHTS[max(since for since in _ALL_FILE_RIGHTS if since <= version)]
    ruleset = _create(version, handled, network=network)
    try:
        for path in read:
            _allow(ruleset, path, _READ & handled)
        for path in write:
            _allow(ruleset, path, handled & ~_MAKE_DEVICES)
        for path in devices:
            _allow(ruleset, path, (_DEVICE | _TRUNCATE | _IOCTL_DEV) & handled)
        syscalls.call(syscalls.LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def restrict_scope() -> bool:
    """Keep abstract sockets of others out of reach; files and TCP stay as they are. False where it cannot be."""
    version = abi()
    if version < _SCOPES_SINCE:
        return False
    ruleset = _create(version, 0, network=True)
    try:
        syscalls.call(syscalls.LANDLOCK_RESTRICT_SELF, "landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _create(version: int, handled: int, *, network: bool) -> int:
    attributes = _RulesetAttributes(files=handled)
    if version >= _TCP_SINCE and not network:
        attributes.net = _TCP
    if version >= _SCOPES_SINCE:
        attributes.scoped = _SCOPES
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= _TCP_SINCE else 8
    return syscalls.call(syscalls.LANDLOCK_CREATE_RULESET, "landlock_create_ruleset", ctypes.byref(attributes), size, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _FOR_FILES
        rule = _PathAttributes(allowed=rights, parent=parent)
        syscalls.call(
            syscalls.LANDLOCK_ADD_RULE, f"landlock_add_rule {path}", ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0
        )
    finally:
        os.close(parent)
