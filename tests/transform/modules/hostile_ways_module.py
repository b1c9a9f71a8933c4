"""Hostile transformations that look for ways out, leave traps behind, or lie about how they ended."""

import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import time

from hostile_help import down, mark, outcome, save, sleep_for_ever

MIB = 1 << 20


# Ways out


def network(working_dir, logger, options):
    mark(options)

    def connect(family, address):
        with socket.socket(family) as sock:
            sock.settimeout(1)
            sock.connect(address)

    def send(address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"out", address)

    tcp, udp = options["tcp"], options["udp"]
    save(
        working_dir,
        {
            "tcp": outcome(connect, socket.AF_INET, ("127.0.0.1", tcp)),
            "tcp6": outcome(connect, socket.AF_INET6, ("::1", tcp)),
            "udp": outcome(send, ("127.0.0.1", udp)),
            "dns": outcome(socket.getaddrinfo, "gateway.invalid", 80),
            "abstract": outcome(connect, socket.AF_UNIX, f"\0{options['abstract']}"),
            "path": outcome(connect, socket.AF_UNIX, options["path"]),
            "raw": outcome(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        },
    )


def secrets(working_dir, logger, options):
    """All that can be read of others, as far as it is text: files, environments, its own memory."""
    mark(options)
    os.environ["OWN"] = options.get("own", "")
    found = {"paths": [], "read": [*os.environ, *os.environ.values()]}
    for path in options["paths"]:
        with contextlib.suppress(OSError):
            found["paths"] += [path] if os.listdir(path) is not None else []
        with contextlib.suppress(OSError), open(path, "rb") as file:
            found["paths"].append(path)
            found["read"].append(file.read(MIB).decode("latin-1"))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline", "cwd", "root", "fd", "task/1/environ"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                found["read"].append(file.read(MIB).decode("latin-1"))
    found["memory"] = sorted(set(_in_memory(rb"CANARY-[0-9a-f]{32}")))
    found["files"] = sorted(_own_tree("/"))
    save(working_dir, found)


def _in_memory(pattern):
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            area, rights = line.split()[:2]
            first, last = (int(part, 16) for part in area.split("-"))
            if rights.startswith("rw"):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(first)
                    yield from (each.decode() for each in re.findall(pattern, memory.read(last - first)))


def _own_tree(root):
    """Names of all files but those of the system and of the interpreter."""
    known = {"/proc", "/usr", "/opt", "/lib", "/lib64", "/bin", "/sbin", sys.prefix, sys.base_prefix}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in known]
        yield from (os.path.join(folder, name) for name in names)


def kill_others(working_dir, logger, options):
    mark(options)
    ptrace, found = {"x86_64": 101, "aarch64": 117}[os.uname().machine], {}
    libc = ctypes.CDLL(None, use_errno=True)

    def trace(pid):
        if libc.syscall(ptrace, 16, pid, 0, 0):
            raise OSError(ctypes.get_errno(), "")

    for pid in [*options["pids"], 1]:
        found[pid] = [
            outcome(os.kill, pid, signal.SIGKILL) if pid != 1 else "EPERM",
            outcome(trace, pid),
            outcome(lambda pid=pid: open(f"/proc/{pid}/mem", "r+b").close()),
            outcome(lambda pid=pid: os.listdir(f"/proc/{pid}/fd")),
        ]
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGXCPU):
        with contextlib.suppress(OSError):
            os.kill(1, number)
        with contextlib.suppress(OSError):
            os.kill(-1, number)
    save(working_dir, found)


def limits_of_the_first(working_dir, logger, options):
    """Its first process is of the same user, so its limits can be lowered."""
    mark(options)
    resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0))
    resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))


def privileges(working_dir, logger, options):
    mark(options)
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), "")

    folder = working_dir.encode()
    save(
        working_dir,
        {
            "mount": outcome(call, "mount", b"tmpfs", folder, b"tmpfs", 0, None),
            "bind": outcome(call, "mount", b"/", folder, None, 4096 | 16384, None),
            "umount": outcome(call, "umount2", b"/proc", 2),
            "users": outcome(call, "unshare", 0x10000000),
            "mounts": outcome(call, "unshare", 0x00020000),
            "chroot": outcome(os.chroot, working_dir),
            "setuid": outcome(os.setuid, 0),
            "device": outcome(os.mknod, os.path.join(working_dir, "device"), 0o60600, os.makedev(254, 0)),
            "passwd": outcome(lambda: open("/etc/passwd", "a").close()),
            "code": outcome(lambda: open(__file__, "a").close()),
            "kernel": outcome(lambda: open("/proc/sys/kernel/core_pattern", "w").close()),
        },
    )


# What it leaves behind


def odd_files(working_dir, logger, options):
    mark(options)
    os.chdir(working_dir)
    for name, target in {"up": "..", "passwd": "/etc/passwd", "self": "self", "log": "/proc/self/fd/1"}.items():
        os.symlink(target, name)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
    for name in (
        b"-rf",
        b"--help",
        b"new\nline",
        b"caf\xe9",
        b" ",
        b"\xe2\x80\xae",
        b"C:name",
        b"back\\slash",
        b"n" * 255,
    ):
        with open(name, "wb") as file:
            file.write(b"odd")
    os.link("-rf", "linked")
    os.mkdir("*")
    with open(os.open("su", os.O_CREAT | os.O_WRONLY), "wb") as file:
        file.write(b"odd")
    os.chmod("su", 0o6777)
    folder = os.open(".", os.O_RDONLY)
    for _ in range(2000):
        folder = down(folder, "d")
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=folder))


def deep_and_waits(working_dir, logger, options):
    """As deep as no recursion goes, and still running."""
    mark(options)
    folder = os.open(working_dir, os.O_RDONLY)
    for _ in range(2000):
        folder = down(folder, "d")
    logger.info("deep")
    sleep_for_ever()


deep_and_waits.needs = {"seconds": 60}


def own_files(working_dir, logger, options):
    """In place of those that only the box writes."""
    mark(options)
    os.chdir(working_dir)
    os.unlink("job.json")
    os.symlink("/etc/passwd", "job.json")
    with open("status.json", "w") as file:
        file.write('{"state": "succeeded", "id": "forged"}')
    os.makedirs("out.log/out.log")
    os.mkdir("below")
    with open("below/status.json", "w") as file:
        file.write("kept")


def locked_files(working_dir, logger, options):
    mark(options)
    os.chdir(working_dir)
    os.makedirs("folder/below")
    for path in ("file", "folder/file"):
        with open(path, "w") as file:
            file.write("unreadable")
        os.chmod(path, 0)
    for path in ("folder/below", "folder", "."):
        os.chmod(path, 0)


def replaced_folder(working_dir, logger, options):
    """A folder becomes a link to elsewhere and back, as fast as it goes, also while it is looked at."""
    mark(options)
    os.chdir(working_dir)
    os.mkdir("real")
    with open("real/passwd", "w") as file:
        file.write("mine")
    os.symlink("/etc", "link")
    ends = time.monotonic() + 0.5
    while time.monotonic() < ends:
        os.rename("real", "x")
        os.rename("link", "real")
        os.rename("real", "link")
        os.rename("x", "real")


# Lies about the end


def silent_end(working_dir, logger, options):
    mark(options)
    os._exit(0)


def closed_descriptors(working_dir, logger, options):
    mark(options)
    os.closerange(0, 4096)


def forged_messages(working_dir, logger, options):
    """Says to everybody who may listen that all went well, and that the box has ended."""
    mark(options)
    done = {
        "type": "done", "state": "succeeded", "error": None, "run_ms": 1, "steps": [{"name": "forged"}],
        "result_bytes": 1, "result_sha256": "0" * 64, "log_tail": "forged",
    }  # fmt: skip
    for message in (done, {"type": "ready"}, {"type": "exited", "box": "0", "status": 0}, {"type": "spawn"}):
        data = json.dumps(message).encode()
        for descriptor in range(4096):
            for path in (None, f"/proc/1/fd/{descriptor}", f"/proc/self/fd/{descriptor}"):
                with contextlib.suppress(OSError):
                    target = descriptor if path is None else os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    if target != logger.handlers[0].fd:
                        os.write(target, struct.pack("!I", len(data)) + data)
    os._exit(0)
