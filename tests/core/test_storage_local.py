from __future__ import annotations

import asyncio
import os
import stat
import sys
import time

import pytest

from gateway_core.errors import ObjectCorrupt, StorageError
from gateway_core.storage.local import CHUNK_BYTES, LocalStorage
from gateway_core.testing.storage import MIB, StorageConformance, get, keys, noise, put


class TestLocalStorage(StorageConformance):
    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path / "store")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def storage(root):
    return LocalStorage(root)


def files_below(folder):
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("damage", ["flipped", "cut", "grown"])
async def test_damage_is_told_after_the_last_chunk(storage, damage):
    data = noise(2 * CHUNK_BYTES + 77)
    await put(storage, "a", data)
    path = storage.local_path("a")
    flipped = bytearray(data)
    flipped[CHUNK_BYTES] ^= 1
    path.write_bytes({"flipped": flipped, "cut": data[:-1], "grown": data + b"x"}[damage])
    got = []

    async def read():
        async with storage.open("a") as chunks:
            async for chunk in chunks:
                got.append(chunk)

    with pytest.raises(ObjectCorrupt):
        await read()
    assert b"".join(got) == path.read_bytes()
    assert await get(storage, "a", offset=1) == path.read_bytes()[1:]


async def test_every_flipped_bit_is_found(storage):
    data = noise(16)
    stored = await put(storage, "a", data)
    path = storage.local_path("a")
    for bit in range(128):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ObjectCorrupt, match=stored.sha256):
            await get(storage, "a")


async def test_what_commit_returns_is_what_stat_says(storage):
    assert await put(storage, "a", b"hello") == await storage.stat("a")


async def test_a_commit_wins_also_when_the_clock_was_set_back(storage):
    await put(storage, "a", b"old")
    path = storage.local_path("a")
    path.rename(path.with_name(f"{time.time_ns() + 10**18:020d}{path.name[20:]}"))
    await put(storage, "a", b"new")
    assert await get(storage, "a") == b"new"


async def test_a_version_left_beside_its_successor_is_no_object_and_is_swept(root, storage):
    await put(storage, "a", b"new")
    newest = storage.local_path("a")
    left = newest.with_name(f"{1:020d}-{'0' * 64}")
    left.write_bytes(b"old")
    assert await get(storage, "a") == b"new"
    assert await storage.sweep(3600) == 0
    assert await storage.sweep(0) == 1
    assert files_below(root) == [newest]


async def test_deleting_leaves_no_earlier_version(root, storage):
    await put(storage, "a/b", b"new")
    storage.local_path("a/b").with_name(f"{1:020d}-{'0' * 64}").write_bytes(b"old")
    assert await storage.delete("a/b")
    assert await keys(storage) == []
    assert list((root / "objects").iterdir()) == []


async def test_sweep_removes_what_is_older_and_nothing_else(root, storage):
    await put(storage, "a", b"kept")
    old, fresh = root / "tmp" / "old", root / "tmp" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"left")
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert await storage.sweep(50) == 1
    assert fresh.exists()
    assert not old.exists()
    assert await get(storage, "a") == b"kept"


async def test_sweep_removes_checks_that_were_killed(storage):
    await put(storage, ".check/0123", b"0123")
    assert await storage.sweep(3600) == 0
    assert await storage.sweep(0) == 1
    assert await keys(storage) == []


async def test_only_the_owner_may_look_inside(root, storage):
    await put(storage, "a/b", noise(2 * MIB))
    paths = [root, *root.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if not path.is_dir()} == {0o600}


@pytest.mark.parametrize("what", ["folder", "key folder", "file"])
async def test_symbolic_links_are_not_followed(tmp_path, root, storage, what):
    await put(storage, "a/b", b"secret")
    outside = tmp_path / "outside"
    inside = storage.local_path("a/b")
    if what == "folder":
        inside = inside.parent.parent
    elif what == "key folder":
        inside = inside.parent
    inside.rename(outside)
    inside.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    for attempt in (get(storage, "a/b"), storage.stat("a/b")):
        with pytest.raises(StorageError):
            await attempt
    if what != "file":
        for attempt in (put(storage, "a/b", b"new"), storage.delete("a/b")):
            with pytest.raises(StorageError):
                await attempt
        assert await keys(storage) == []
    await storage.sweep(0)
    assert sorted(outside.rglob("*")) == before


async def test_file_calls_stay_out_of_the_event_loop(storage):
    called = set()

    def profile(frame, event, function):
        if event == "c_call" and function.__module__ in {"posix", "fcntl"}:
            called.add(function.__name__)

    sys.setprofile(profile)
    try:
        await put(storage, "a/b", noise(3 * MIB))
        assert await get(storage, "a/b", offset=1)
        assert await keys(storage) == ["a/b"]
        await storage.stat("a/b")
        await storage.sweep(0)
        await storage.check()
        await storage.delete("a/b")
    finally:
        sys.setprofile(None)
    assert called <= {"urandom", "fspath", "cpu_count"}


async def test_cancelled_readers_and_writers_leave_no_descriptor_open(root, storage):
    async def read_and_write():
        async with storage.open("a") as chunks, storage.writer("b") as writer:
            async for chunk in chunks:
                await writer.write(chunk)
            await writer.commit()

    await put(storage, "a", noise(4 * MIB))
    before = len(os.listdir("/proc/self/fd"))
    for turns in range(60):
        task = asyncio.create_task(read_and_write())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert len(os.listdir("/proc/self/fd")) == before
    assert list((root / "tmp").iterdir()) == []


async def test_an_unusable_root_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(tmp_path / "file")
    for attempt in (put(storage, "a", b""), storage.stat("a"), storage.delete("a"), storage.check(), keys(storage)):
        with pytest.raises(StorageError, match=r"Not a directory|File exists"):
            await attempt
