"""What hostile transformations try, each by a name; they answer with JSON. Runs inside boxes: standard library only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from gateway_transform.box import descendants, limits, watch
from gateway_transform.box import syscalls as calls
from gateway_transform.box.limits import StepLimits


def _outcome(action, *arguments) -> str:
    """``done`` or the name of the error."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return "done"


def _read(path: str) -> bytes:
    if os.path.isdir(path):
        return " ".join(os.listdir(path)).encode()
    with open(path, "rb") as file:
        return file.read(1 << 16)


def readable(context, paths: list[str]) -> list[str]:
    """Those that can be read or listed."""
    return [path for path in paths if _outcome(_read, path) == "done"]


def contents(context, paths: list[str]) -> dict[str, str]:
    """Of those that can be read and are not empty."""
    return {path: text for path in readable(context, paths) if (text := _read(path).decode())}


def modules(context) -> list[str]:
    return sorted(sys.modules)


def facts(context) -> dict:
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {
        "context": [context.working_dir, context.tmp_dir, context.level, context.network, context.pid1],
        "uids": sorted({*os.getresuid(), *os.getresgid(), *os.getgroups()}),
        "capabilities": {name: text for name, text in status.items() if name.startswith("Cap")},
        "seccomp": status["Seccomp"],
        "no_new_privileges": status["NoNewPrivs"],
        "open": _open_files(),
        "environment": dict(os.environ),
        "session": os.getsid(0) == os.getppid(),
        "umask": os.umask(0o077),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "root": sorted(os.listdir("/")) if context.pid1 else [],
        "processes": [int(name) for name in os.listdir("/proc") if name.isdigit()] if context.pid1 else [],
    }


def _open_files() -> list[str]:
    paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sorted({os.readlink(path).partition(":")[0] for path in paths if os.path.lexists(path)})


def environments(context) -> str:
    """All that can be read of any process's environment, command line or memory map."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "maps", "root/etc/shadow", "cwd/secret"):
            try:
                found.append(_read(f"/proc/{pid}/{name}").decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def writes(context, paths: list[str]) -> dict[str, str]:
    return {path: _outcome(lambda path=path: open(os.path.join(path, "planted"), "w").close()) for path in paths}


def overwrites(context, paths: list[str]) -> dict[str, str]:
    return {path: _outcome(lambda path=path: os.close(os.open(path, os.O_WRONLY))) for path in paths}


def work_is_writable(context) -> str:
    for folder in (context.working_dir, context.tmp_dir):
        os.mkdir(os.path.join(folder, "deep"))
        with open(os.path.join(folder, "deep", "file"), "w") as file:
            file.write("x" * 5000)
        os.rename(os.path.join(folder, "deep", "file"), os.path.join(folder, "moved"))
    return subprocess.run(["/bin/sh", "-c", "echo hello"], check=True, capture_output=True, text=True).stdout


def follow_links(context, targets: list[str]) -> list[str]:
    """Make links in the working folder and read through them."""
    links = []
    for number, target in enumerate(targets):
        links.append(os.path.join(context.working_dir, f"link{number}"))
        os.symlink(target, links[-1])
    return [os.readlink(path) for path in readable(context, links)]


def sockets(context, tcp_port: int, udp_port: int, abstract: str, path: str) -> dict[str, str]:
    def tcp(address: str = "127.0.0.1") -> None:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.settimeout(2)
            sock.connect((address, tcp_port))

    def udp() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"out", ("127.0.0.1", udp_port))

    def unix(name: str) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(name)

    return {
        "tcp": _outcome(tcp),
        "tcp6": _outcome(tcp, "::1"),
        "udp": _outcome(udp),
        "netlink": _outcome(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
        "packet": _outcome(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
        "vsock": _outcome(socket.socket, 40, socket.SOCK_STREAM),
        "abstract": _outcome(unix, f"\0{abstract}"),
        "path": _outcome(unix, path),
        "pair": _outcome(socket.socketpair),
    }


def signals(context, pids: list[int]) -> list[str]:
    """Stop, kill, trace and look into each of them."""
    ptrace = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    found = []
    for pid in pids:
        found += [
            _outcome(os.kill, pid, signal.SIGKILL),
            _outcome(os.kill, pid, signal.SIGSTOP),
            _outcome(calls.call, ptrace, "ptrace", 16, pid, 0, 0),
            _outcome(_read, f"/proc/{pid}/environ"),
            _outcome(lambda pid=pid: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))),
        ]
    return found


def refused_calls(context) -> dict[str, str]:
    """Calls of the kernel that no box may make."""
    return {
        "mount": _outcome(lambda: calls.mount("tmpfs", context.working_dir, "tmpfs", flags=0)),
        "umount": _outcome(calls.umount, "/proc", calls.MNT_DETACH),
        "user namespace": _outcome(calls.unshare, calls.CLONE_NEWUSER),
        "mount namespace": _outcome(calls.unshare, calls.CLONE_NEWNS),
        "setns": _outcome(_setns),
        "clone": _outcome(_clone, calls.CLONE_NEWUSER),
        "chroot": _outcome(os.chroot, context.tmp_dir),
        "pivot_root": _outcome(calls.pivot_root, ".", "."),
        "device": _outcome(os.mknod, os.path.join(context.working_dir, "device"), 0o20600, os.makedev(1, 3)),
        "io_uring": _outcome(calls.call, 425, "io_uring_setup", 1, 0),
        "mount_setattr": _outcome(lambda: calls.mount_setattr("/", 1, recursive=True)),
        "open_tree": _outcome(calls.call, 428, "open_tree", -100, b"/", 1),
        "memfd": _outcome(os.memfd_create, "hidden"),
        "setuid": _outcome(os.setresuid, 0, 0, 0),
        "host name": _outcome(socket.sethostname, "mine"),
        "nice": _outcome(os.setpriority, os.PRIO_PROCESS, 0, -5),
        "hard limit": _outcome(_raise_limit),
        "socket buffer": _outcome(_enlarge_buffer),
        "clone3": _outcome(calls.call, 435, "clone3", 0, 0),
    }


def _enlarge_buffer() -> None:
    for end in socket.socketpair():
        with end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)


def _setns() -> None:
    number = {"x86_64": 308, "aarch64": 268}[os.uname().machine]
    calls.call(number, "setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)


def _clone(flags: int) -> None:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    if calls.call(number, "clone", flags | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def _raise_limit() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    except ValueError as error:
        raise PermissionError(errno.EPERM, "") from error


def fork_bomb(context, processes: int) -> int:
    """Fork from every child as often as it goes; how many there are when no more can be."""
    limits.limit_step(StepLimits(processes=processes, counted_alone=context.counted_alone))
    reading, writing = os.pipe()
    while True:
        try:
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.setsid()
                os.write(writing, b"x")
        except BlockingIOError:
            break
    if os.getpgid(0) != _STEP_GROUP[0]:
        signal.pause()
    os.set_blocking(reading, False)
    return len(os.read(reading, 1 << 16))


_STEP_GROUP = [0]


def daemon(context) -> str:
    """Leave a process of another session that ignores what it can; it keeps the worker's socket open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            while True:
                time.sleep(3600)
        os._exit(0)
    os.wait()
    return "left behind"


def endless(context) -> None:
    while True:
        pass


def memory_bomb(context) -> str:
    limits.limit_step(StepLimits(memory_mb=64))
    kept = []
    try:
        while True:
            kept.append(bytearray(8 << 20))
    except MemoryError:
        return f"out of memory after {len(kept) * 8 < 64}"


def disk_filler(context) -> str:
    limits.limit_step(StepLimits(file_mb=1))
    with open(os.path.join(context.working_dir, "big"), "wb", buffering=0) as file:
        return _outcome(lambda: [file.write(bytes(1 << 19)) for _ in range(4)])


def unnamed_file(context) -> list[int]:
    """What the watch sees of a file that was removed and is kept open."""
    path = os.path.join(context.tmp_dir, "gone")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    os.write(descriptor, bytes(3 << 20))
    os.fsync(descriptor)
    os.unlink(path)
    seen = watch.disk([context.working_dir, context.tmp_dir], [os.getpid()], max_entries=100)
    return [seen.used_bytes >> 20, seen.entries]


def much_output(context) -> int:
    return sum(os.write(1, bytes(1 << 20)) for _ in range(64)) >> 20


def kill_init(context) -> str:
    """Go for the box's own first process, which is the parent; then live on as an orphan."""
    init = os.getppid()
    outcome = _outcome(os.kill, init, signal.SIGKILL)
    mem = _outcome(lambda: os.close(os.open(f"/proc/{init}/mem", os.O_RDWR)))
    return f"{outcome} {mem}"


def kill_everybody(context) -> str:
    """All processes that can be seen, but itself and the first; only where a namespace holds them."""
    return _outcome(os.kill, -1, signal.SIGKILL) if context.pid1 else "not tried"


def _reap_all() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def serve(sock, context, wire) -> None:
    """The box's first process: calls what is asked for in a child, as steps are."""
    wire.send(sock, {"type": "ready"})
    while (received := wire.receive(sock)) is not None:
        order = received[0]
        if order["type"] == "end":
            return
        if order["type"] == "sweep":
            before = len(descendants.living(os.getpid()))
            if context.pid1:
                descendants.kill_own_namespace()
                _reap_all()
            else:
                descendants.kill_descendants(os.getpid())
            wire.send(sock, {"type": "swept", "value": before})
            continue
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            _STEP_GROUP[0] = os.getpgid(0)
            calls.set_dumpable(dumpable=True)
            try:
                value = globals()[order["name"]](context, *order["arguments"])
                wire.send(sock, {"type": "value", "value": json.loads(json.dumps(value))})
            except BaseException as error:
                wire.send(sock, {"type": "error", "value": repr(error)})
            os._exit(0)
        if order["wait"]:
            os.waitpid(child, 0)
