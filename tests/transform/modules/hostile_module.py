"""Hostile transformations that take too much, one attack each. All that they start bears the marker they are given.

What would go on without end stops by itself before it harms the machine.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import socket
import threading
import time

from hostile_help import down, ignore_signals, mark, outcome, save, sleep_for_ever

MIB = 1 << 20
NO_RESERVE = 0x4000


def hello(working_dir, logger, options):
    with open(os.path.join(working_dir, "hello.txt"), "w") as file:
        file.write("hello")


def processes(working_dir, logger, options):
    """Names of all processes that are there but the one that asks."""
    names = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as file:
            names[int(pid)] = file.read().strip()
    del names[os.getpid()]
    save(working_dir, names)


# Processes and time


def fork_bomb(working_dir, logger, options):
    mark(options)
    while True:
        with contextlib.suppress(OSError):
            os.fork()


fork_bomb.needs = {"seconds": 1}


def thread_bomb(working_dir, logger, options):
    mark(options)
    while True:
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=sleep_for_ever, daemon=True).start()


thread_bomb.needs = {"seconds": 1}


def endless(working_dir, logger, options):
    mark(options)
    while True:
        pass


def waits(working_dir, logger, options):
    mark(options)
    sleep_for_ever()


def sleeper(working_dir, logger, options):
    mark(options)
    sleep_for_ever()


sleeper.needs = {"seconds": 0.5}


def stubborn(working_dir, logger, options):
    """Ignores every signal that can be ignored, in four sessions."""
    mark(options)
    ignore_signals()
    os.fork()
    os.fork()
    with contextlib.suppress(OSError):
        os.setsid()
    sleep_for_ever()


stubborn.needs = {"seconds": 0.5}


def orphan(working_dir, logger, options):
    """Leaves a daemon behind that goes on writing, and ends well itself."""
    mark(options)
    alive = os.path.join(working_dir, "alive")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ignore_signals()
            while True:
                with open(alive, "a") as file:
                    file.write("x")
                os.makedirs(os.path.join(working_dir, "late"), exist_ok=True)
                time.sleep(0.001)
        os._exit(0)
    while not (os.path.exists(alive) and os.path.getsize(alive)):
        time.sleep(0.001)


# Memory


def memory_of_one(working_dir, logger, options):
    mark(options)
    kept = []
    while len(kept) < 1000:
        kept.append(b"x" * (4 * MIB))


def memory_shared(working_dir, logger, options):
    """Shared pages are no private data, which is what the kernel limits."""
    mark(options)
    kept = []
    while len(kept) < 100:
        kept.append(mmap.mmap(-1, 8 * MIB))
        kept[-1].write(b"x" * (8 * MIB))
        time.sleep(0.005)
    sleep_for_ever()


def memory_of_many(working_dir, logger, options):
    mark(options)
    for _ in range(12):
        if os.fork() == 0:
            kept = b"x" * (40 * MIB)
            sleep_for_ever()
            del kept
    sleep_for_ever()


def memory_of_page_tables(working_dir, logger, options):
    """Reads nothing but zeros that take no memory; the tables that say so do."""
    mark(options)
    tables = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=mmap.PROT_READ)
    for place in range(0, 512 << 30, 2 * MIB):
        tables[place]
    sleep_for_ever()


def memory_of_sockets(working_dir, logger, options):
    """What is sent and not read yet lies in the kernel."""
    mark(options)
    for _ in range(8):
        if os.fork() == 0:
            kept = []
            with contextlib.suppress(OSError):
                while True:
                    kept.append(socket.socketpair())
                    for sock in kept[-1]:
                        sock.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            while True:
                                sock.send(b"x" * 65536)
            sleep_for_ever()
    sleep_for_ever()


# Disk


def one_big_file(working_dir, logger, options):
    mark(options)
    with open(os.path.join(working_dir, "big"), "wb", buffering=0) as file:
        file.writelines(bytes(MIB) for _ in range(2000))


def sparse_files(working_dir, logger, options):
    """Little on disk, much to be packed."""
    mark(options)
    path = os.path.join(working_dir, "terabyte")
    with open(path, "wb") as file:
        logger.info(outcome(file.truncate, 1 << 40))
    for number in range(200):
        with open(os.path.join(working_dir, f"sparse{number}"), "wb") as file:
            file.truncate(40 * MIB)


def many_small_files(working_dir, logger, options):
    mark(options)
    for number in range(200_000):
        with open(os.path.join(working_dir, str(number)), "w"):
            pass
    sleep_for_ever()


def _fill(folder_fd):
    for number in range(20):
        file = os.open(str(number), os.O_WRONLY | os.O_CREAT, dir_fd=folder_fd)
        os.posix_fallocate(file, 0, 40 * MIB)
        os.close(file)


def files_behind_a_locked_folder(working_dir, logger, options):
    mark(options)
    locked = os.path.join(working_dir, "locked")
    os.makedirs(os.path.join(locked, "within"))
    within = os.open(os.path.join(locked, "within"), os.O_RDONLY)
    os.chmod(locked, 0)
    _fill(within)
    sleep_for_ever()


def files_deeper_than_a_path(working_dir, logger, options):
    mark(options)
    folder = os.open(working_dir, os.O_RDONLY)
    for _ in range(3000):
        folder = down(folder, "d" * 20)
    _fill(folder)
    sleep_for_ever()


def files_without_names(working_dir, logger, options):
    """Removed and closed, but kept by a page that is mapped."""
    mark(options)
    kept = []
    path = os.path.join(working_dir, "mapped")
    for _ in range(30):
        with open(path, "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, 40 * MIB)
            kept.append(_map_page(file.fileno()))
        os.unlink(path)
    sleep_for_ever()


def _map_page(descriptor):
    """By the kernel's own call: Python's keeps a descriptor of the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)


# What it prints and logs


def ten_gigabytes_of_output(working_dir, logger, options):
    mark(options)
    for number in range(10 << 10):
        os.write(1 + number % 2, b"x" * MIB)


ten_gigabytes_of_output.needs = {"seconds": 1}


def garbage_in_the_log(working_dir, logger, options):
    mark(options)
    descriptor = logger.handlers[0].fd
    os.write(descriptor, b'{"level": "ERROR"\xff\0\x1b[2J' * 3000)
    logger.info("after\0 the \ud800 garbage")
    os.write(descriptor, b"\0" * 100_000)


def endless_log(working_dir, logger, options):
    mark(options)
    for _ in range(100):
        logger.info("x" * 100_000)
    os.ftruncate(logger.handlers[0].fd, 40 * MIB)


def log_far_away(working_dir, logger, options):
    """Its descriptor is the box's and the gateway's too: what they append comes after a hole."""
    mark(options)
    descriptor = logger.handlers[0].fd
    fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    os.lseek(descriptor, 1 << 42, os.SEEK_SET)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
