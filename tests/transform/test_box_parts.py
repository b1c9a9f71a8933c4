"""The parts of a box's walls for themselves: filter programs, rules, counting, killing."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_transform.box import descendants, landlock, limits, seccomp, watch
from gateway_transform.box.seccomp import program

ALLOWED = 0x7FFF0000
X86, ARM = 0xC000003E, 0xC00000B7


def judge(code: bytes, number: int, arch: int, *arguments: int) -> int | str:
    """Run a filter as the kernel does: 0 when the call is allowed, else its errno."""
    values = list(arguments) + [0] * (6 - len(arguments))
    data = struct.pack("=iIQ6Q", number, arch, 0, *values)
    steps = list(struct.iter_unpack("=HBBI", code))
    accumulator = at = 0
    while True:
        kind, yes, no, value = steps[at]
        at += 1
        if kind == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == 0x54:
            accumulator &= value
        elif kind == 0x06:
            return 0 if value == ALLOWED else value & 0xFFFF
        else:
            met = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[kind]
            at += yes if met else no


def judged(machine: str, number: int, *arguments: int, network: bool = False, shared_names: bool = False) -> int | str:
    code = program(machine, network=network, shared_names=shared_names)
    return judge(code, number, {"x86_64": X86, "aarch64": ARM}[machine], *arguments)


MACHINES = [("x86_64", 41, 42, 53, 56, 135), ("aarch64", 198, 203, 199, 220, 92)]
machines = pytest.mark.parametrize(("machine", "sock", "connect", "pair", "clone", "personality"), MACHINES)


@machines
def test_filter_allows_unix_sockets_and_with_network_those_that_lead_there(
    machine, sock, connect, pair, clone, personality
) -> None:
    for family in range(50):
        refused = 0 if family == socket.AF_UNIX else errno.EPERM
        assert judged(machine, sock, family, socket.SOCK_STREAM) == refused
        assert judged(machine, pair, family, socket.SOCK_STREAM) == refused
        reaches = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
        assert judged(machine, sock, family, network=True) == (0 if family in reaches else errno.EPERM)
    assert judged(machine, connect) == 0
    assert judged(machine, sock, 1 << 32 | socket.AF_INET) == errno.EPERM


@machines
def test_filter_where_names_are_shared_lets_nobody_connect(machine, sock, connect, pair, clone, personality) -> None:
    flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    assert judged(machine, connect, shared_names=True) == errno.EPERM
    assert judged(machine, sock, socket.AF_UNIX, socket.SOCK_DGRAM | flags, shared_names=True) == errno.EPERM
    assert judged(machine, sock, socket.AF_UNIX, socket.SOCK_STREAM | flags, shared_names=True) == 0
    assert judged(machine, connect, shared_names=True, network=True) == 0


@machines
def test_filter_lets_threads_be_made_but_no_namespaces(machine, sock, connect, pair, clone, personality) -> None:
    assert judged(machine, clone, 0x3D0F00) == 0
    assert judged(machine, clone, signal.SIGCHLD) == 0
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert judged(machine, clone, flag | signal.SIGCHLD) == errno.EPERM


@machines
def test_filter_allows_usual_personalities(machine, sock, connect, pair, clone, personality) -> None:
    assert [judged(machine, personality, value) for value in (0, 0x40000, 0xFFFFFFFF)] == [0, 0, 0]
    assert judged(machine, personality, 0x400000) == errno.EPERM


def test_filter_refuses_numbers_of_other_machines() -> None:
    code = program("x86_64", network=False, shared_names=False)
    assert judge(code, 0, 0x40000003) == errno.EPERM
    assert judge(code, 0x40000000, X86) == errno.ENOSYS
    assert judge(code, 0, X86) == 0


def headers() -> list[tuple[str, str, str]]:
    """The system's own numbers: machine, file, pattern."""
    return [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+) (\d+)"),
        ("aarch64", "/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+) (\d+)"),
    ]


@pytest.mark.parametrize(("machine", "path", "pattern"), headers())
def test_numbers_of_refused_calls_are_those_of_the_headers(machine: str, path: str, pattern: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"no {path}")
    known = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    column = machine != "x86_64"
    ours = {name: pair[column] for name, pair in {**seccomp._REFUSED, **seccomp._ABSENT}.items()}
    assert {name: number for name, number in ours.items() if number is not None and name in known} == {
        name: known[name] for name in ours if name in known and ours[name] is not None
    }


def test_unknown_machine_is_said() -> None:
    assert not seccomp.is_known("riscv64")


def test_older_landlock_says_what_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, count in ((0, 1), (1, 4), (2, 3), (3, 2), (5, 1), (7, 0)):
        monkeypatch.setattr(landlock, "abi", lambda version=version: version)
        assert len(landlock.missing()) == count


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child and a grandchild of another session; the child has three threads. Orphans come to us."""
    code = """
import os, signal, threading, time
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
    else:
        for _ in range(2):
            threading.Thread(target=time.sleep, args=(600,)).start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"x")
    time.sleep(600)
os.write(1, b"x")
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = b""
        while len(ready) < 3:
            ready += process.stdout.read(1)
        yield process
        descendants.kill_descendants(process.pid)
        process.kill()


def test_whole_family_is_found(family: subprocess.Popen[bytes]) -> None:
    child, grandchild = descendants.descendants(family.pid)
    assert descendants.parent_of(child) == family.pid
    assert descendants.parent_of(grandchild) == child


def test_family_is_found_where_the_kernel_lists_no_children(
    family: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = descendants.descendants(family.pid)
    monkeypatch.setattr(descendants, "_children", lambda pid: None)
    assert descendants.descendants(family.pid) == listed


def test_descendants_are_killed_and_those_spared_are_not(family: subprocess.Popen[bytes]) -> None:
    child, grandchild = descendants.descendants(family.pid)
    assert descendants.kill_descendants(family.pid, spare=[child])
    assert descendants.living(family.pid) == [child, grandchild]
    assert descendants.kill_descendants(family.pid)
    assert descendants.living(family.pid) == []
    assert family.poll() is None


def test_only_the_first_of_a_namespace_kills_all() -> None:
    with pytest.raises(RuntimeError):
        descendants.kill_own_namespace()


def test_threads_are_counted(family: subprocess.Popen[bytes]) -> None:
    assert watch.threads([family.pid, *descendants.descendants(family.pid)]) == 5
    assert watch.threads([1 << 22]) == 0


def test_memory_is_counted_by_share_when_it_matters(family: subprocess.Popen[bytes]) -> None:
    pids = [family.pid, *descendants.descendants(family.pid)]
    rough = watch.memory_bytes(pids, limit_bytes=1 << 40)
    exact = watch.memory_bytes(pids, limit_bytes=0)
    assert 0 < exact < rough


def test_disk_is_counted_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(bytes(100_000))
    (tmp_path / "link").symlink_to("/usr")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 30)
    seen = watch.disk([str(tmp_path)], [], max_entries=100)
    assert seen.entries == 4
    assert 100_000 <= seen.used_bytes < 200_000


def test_walk_over_a_folder_is_bounded(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    assert watch.disk([str(tmp_path), "/absent"], [], max_entries=10).entries == 11


def test_limits_are_only_lowered() -> None:
    code = """
import resource, sys
from gateway_transform.box import limits
from gateway_transform.box.limits import StepLimits
limits.limit_step(StepLimits(memory_mb=900, file_mb=3, cpu_s=1.2, processes=50))
limits.limit_step(StepLimits(memory_mb=1000, file_mb=4, cpu_s=9, processes=60))
kinds = resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NPROC
print([resource.getrlimit(kind) for kind in kinds])
"""
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert answer.strip() == str([(900 << 20, 900 << 20), (3 << 20, 3 << 20), (2, 3), (50, 50)])


def test_processes_of_a_shared_user_are_counted_together() -> None:
    assert limits.tasks_of_user(os.getuid()) >= 1
