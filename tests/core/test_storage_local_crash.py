from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest

from gateway_core.errors import ObjectMissing
from gateway_core.storage.local import LocalStorage
from gateway_core.testing.requirements import absent
from gateway_core.testing.storage import get, keys, noise, put

PRELUDE = """
import asyncio, os, signal, sys, threading
from pathlib import Path
from gateway_core.errors import StorageError, StorageFull
from gateway_core.storage.local import LocalStorage
from gateway_core.testing.storage import get, keys, noise, put
root = Path(sys.argv[1])
"""

KILL_AT_EVERY_CALL = """
def kill_at(step):
    calls = 0
    def profile(frame, event, arg):
        nonlocal calls
        if event == "c_call" and arg.__module__ in {"posix", "fcntl"}:
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
    threading.setprofile(profile)

for step in range(500):
    storage = LocalStorage(root / f"{step:03}")
    asyncio.run(put(storage, "a/b", b"old"))
    child = os.fork()
    if child == 0:
        kill_at(step)
        asyncio.run(put(storage, sys.argv[2], noise(1_200_000)))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert status == signal.SIGKILL
"""

COMMIT_FOR_EVER = """
async def main():
    storage, number = LocalStorage(root), int(sys.argv[2])
    while True:
        number += 1
        await put(storage, "a", b"%09d" % number * 300_000)
        print(number, flush=True)
asyncio.run(main())
"""

FILL_THE_DISK = """
async def main():
    storage = LocalStorage(root / "store")
    old = noise(1 << 20)
    await put(storage, "a", old)
    for size_bytes in (3_145_729, 3_150_000, 3_200_000, 4_000_000, 4_194_304, 5_000_000, 8_000_000, 20_000_000):
        for key in ("a", f"new/{size_bytes}"):
            try:
                await put(storage, key, noise(size_bytes))
            except StorageFull:
                pass
            else:
                raise SystemExit(f"{size_bytes} bytes fitted")
            assert await keys(storage) == ["a"]
            assert await get(storage, "a") == old
            assert not os.listdir(root / "store" / "tmp")
    (root / "filler").write_bytes(bytes(2_500_000))
    try:
        await put(storage, "a", noise(1_000_000))
    except StorageFull:
        (root / "filler").unlink()
    await put(storage, "a", noise(1_000_000))
    assert await get(storage, "a") == noise(1_000_000)
    for number in range(200):
        try:
            await put(storage, f"inodes/{number}", b"")
        except StorageFull:
            break
    else:
        raise SystemExit("inodes did not run out")
    assert len(await keys(storage)) == number + 1
    for key in await keys(storage, "inodes/"):
        await storage.delete(key)
    await put(storage, "inodes/again", b"")
asyncio.run(main())
"""

OVERWRITE = """
try:
    asyncio.run(put(LocalStorage(root), sys.argv[2], b"new"))
except StorageError:
    sys.exit(3)
"""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def storage(root):
    return LocalStorage(root)


def child(script, *arguments, under=()):
    command = [*under, sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script, *arguments, under=()):
    process = child(script, *arguments, under=under)
    try:
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode, errors


def files_below(folder):
    return [path for path in folder.rglob("*") if not path.is_dir()]


def tool(name, *probe):
    if shutil.which(name) is None:
        reason = f"{name} is not installed"
    elif subprocess.run([name, *probe], capture_output=True, check=False).returncode:
        reason = f"{name} may not do this here"
    else:
        return
    absent(name, reason)


@pytest.fixture
def strace():
    tool("strace", "-f", "-o", "/dev/null", "true")
    return "strace"


@pytest.mark.parametrize(("key", "before"), [("a/b", b"old"), ("a/c/d", None)])
async def test_killed_before_any_system_call_it_leaves_the_old_or_the_new_object(tmp_path, key, before):
    assert run(KILL_AT_EVERY_CALL, tmp_path, key) == (0, "")
    seen = []
    for store in sorted(tmp_path.iterdir()):
        storage = LocalStorage(store)
        try:
            seen.append(await get(storage, key))
        except ObjectMissing:
            seen.append(None)
        await storage.sweep(0)
        assert len(files_below(store)) == len(await keys(storage))
        assert await get(storage, "a/b") in {b"old", noise(1_200_000)}
    turn = seen.index(noise(1_200_000))
    assert seen == [before] * turn + [noise(1_200_000)] * (len(seen) - turn)
    assert turn > 10
    assert len(seen) - turn > 5


async def test_killed_at_any_moment_it_keeps_what_was_acknowledged(root, storage):
    number = 0
    for seed in range(8):
        process = child(COMMIT_FOR_EVER, root, number)
        assert process.stdout.readline()
        time.sleep(random.Random(seed).random() / 10)
        process.kill()
        acknowledged = max([number + 1, *map(int, process.communicate()[0].split())])
        data = await get(storage, "a")
        number = int(data[:9])
        assert data == b"%09d" % number * 300_000
        assert number in {acknowledged, acknowledged + 1}
        await storage.sweep(0)
        assert len(files_below(root)) == 1


async def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    tool("unshare", "-rm", "mount", "-t", "tmpfs", "none", tmp_path)
    mount = f'mount -t tmpfs -o size=4m,nr_inodes=100 none {tmp_path} && exec "$@"'
    assert run(FILL_THE_DISK, tmp_path, under=("unshare", "-rm", "sh", "-c", mount, "-")) == (0, "")


@pytest.mark.parametrize("key", ["a", "b/c"])
async def test_a_failed_fsync_publishes_nothing(root, storage, strace, key):
    failures = 0
    while True:
        await put(storage, "a", b"old")
        inject = ("-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:when={failures + 1}")
        status, _ = run(OVERWRITE, root, key, under=(strace, "-f", "-o", "/dev/null", *inject))
        if status == 0:
            break
        assert status == 3
        assert [(k, await get(storage, k)) for k in await keys(storage)] == [("a", b"old")]
        assert len(files_below(root)) == 1
        shutil.rmtree(root)
        failures += 1
    assert await get(storage, key) == b"new"
    assert failures == {"a": 2, "b/c": 4}[key]


async def test_nothing_is_published_before_it_is_on_disk(tmp_path, root, storage, strace):
    await put(storage, "x", b"")
    trace = tmp_path / "trace"
    calls = "trace=fsync,mkdirat,renameat,renameat2,unlinkat"
    assert run(OVERWRITE * 2, root, "b/c", under=(strace, "-f", "-y", "-o", trace, "-e", calls)) == (0, "")
    temporary, folder = re.escape(f"{root}/tmp"), re.escape(f"{root}/objects/b/c@")
    objects = re.escape(f"{root}/objects")
    once = [
        rf"fsync\(\d+<{temporary}/\w+>",
        rf"mkdirat\(\d+<{objects}>, \"b\"",
        rf"fsync\(\d+<{objects}>",
        rf"mkdirat\(\d+<{objects}/b>, \"c@\"",
        rf"fsync\(\d+<{objects}/b>",
        rf"renameat2?\(\d+<{temporary}>, .*<{folder}>",
        rf"fsync\(\d+<{folder}>",
    ]
    again = [once[0], once[5], once[6], rf"unlinkat\(\d+<{folder}>"]
    done = [line for line in trace.read_text().splitlines() if line.endswith("= 0") and "unlinkat(AT_FDCWD" not in line]
    assert len(done) == len(once + again)
    for line, expected in zip(done, once + again, strict=True):
        assert re.search(expected, line), (expected, line)


async def test_two_processes_may_write_one_key(root, storage):
    processes = [child(COMMIT_FOR_EVER, root, number) for number in (1000, 2000)]
    try:
        for process in processes:
            assert process.stdout.readline()
        for _ in range(50):
            data = await get(storage, "a")
            assert data == data[:9] * 300_000
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    await storage.sweep(0)
    assert len(files_below(root)) == 1
