"""What every storage must do, as tests that the author of one runs against it."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from gateway_core.errors import ObjectMissing, StorageError
from gateway_core.storage.base import MAX_KEY_LENGTH, Storage, StoredObject, check_key

MIB = 1 << 20
CLOCKS_APART_S = 900
"""How much the storage's clock may differ from ours: what S3's signatures allow."""

BAD_KEYS = (
    *("", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b", "a/.", "a b", "a\n", "a\0b", "a@", "ä", "a\\b", "~a"),
    "s" * 201,
    "/".join(["abcdefg"] * 65),
)
ODD_KEYS = (
    ".a",
    "-a",
    "a..b",
    "...",
    "_",
    "0" * 64,
    "a/" + "f" * 64,
    "s" * 200,
    "x/" * 56 + "s" * 200 + "/" + "s" * 199,
)


def noise(size_bytes: int, *, seed: int = 0) -> bytes:
    """Bytes that do not repeat, the same for the same arguments."""
    return random.Random(seed).randbytes(size_bytes)


async def put(storage: Storage, key: str, data: bytes) -> StoredObject:
    """Store ``data`` in one write."""
    async with storage.writer(key) as writer:
        await writer.write(data)
        return await writer.commit()


async def get(storage: Storage, key: str, *, offset: int = 0) -> bytes:
    """All bytes from ``offset`` on."""
    async with storage.open(key, offset=offset) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def keys(storage: Storage, prefix: str = "") -> list[str]:
    """What is listed."""
    return [stored.key async for stored in storage.list(prefix)]


class _Writing:
    """Nothing half-written, nothing lost."""

    async def test_many_small_writes_of_every_buffer_type_are_joined(self, storage: Storage) -> None:
        """Each is copied: the caller may reuse its buffer at once."""
        data = noise(3 * MIB)
        buffer = bytearray(1000)
        async with storage.writer("small") as writer:
            for start in range(0, len(data), 1000):
                piece = data[start : start + 1000]
                buffer[: len(piece)] = piece
                whole = memoryview(buffer)[: len(piece)]
                await writer.write((whole, bytearray(whole), piece)[start % 3])
            await writer.commit()
        assert await get(storage, "small") == data

    async def test_nothing_is_visible_before_commit(self, storage: Storage) -> None:
        """Not by any method."""
        async with storage.writer("a") as writer:
            await writer.write(noise(2 * MIB))
            assert await keys(storage) == []
            assert storage.local_path("a") is None
            with pytest.raises(ObjectMissing):
                await storage.stat("a")
            await writer.commit()
        assert await keys(storage) == ["a"]

    async def test_leaving_without_commit_keeps_what_was_there(self, storage: Storage) -> None:
        """And a failing body raises its own error."""

        async def fail() -> None:
            async with storage.writer("a") as writer:
                await writer.write(noise(2 * MIB))
                raise ZeroDivisionError

        await put(storage, "a", b"old")
        async with storage.writer("a") as writer:
            await writer.write(noise(2 * MIB))
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await get(storage, "a") == b"old"
        assert await storage.sweep(0) == 0

    async def test_a_cancelled_writer_leaves_nothing(self, storage: Storage) -> None:
        """Wherever it is cancelled."""

        async def write_for_ever() -> None:
            async with storage.writer("a") as writer:
                while True:
                    started.set()
                    await writer.write(piece)

        piece = noise(MIB)
        for _ in range(3):
            started = asyncio.Event()
            task = asyncio.create_task(write_for_ever())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await keys(storage) == []
        assert await storage.sweep(0) == 0

    async def test_a_cancelled_write_spoils_the_writer(self, storage: Storage) -> None:
        """Else an object with a hole could be committed."""
        async with storage.writer("a") as writer:
            task = asyncio.ensure_future(writer.write(noise(8 * MIB)))
            await asyncio.sleep(0)
            if not task.cancel():
                pytest.skip("it writes faster than it can be cancelled")
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(StorageError):
                await writer.commit()
        assert await keys(storage) == []

    async def test_a_cancelled_commit_publishes_all_or_nothing(self, storage: Storage) -> None:
        """The old object, the new one, nothing else."""
        data = noise(17 * MIB)
        for turns in range(6):
            await put(storage, "a", b"old")
            async with storage.writer("a") as writer:
                await writer.write(data)
                task = asyncio.ensure_future(writer.commit())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            assert await get(storage, "a") in {b"old", data}
        assert await storage.sweep(0) == 0

    async def test_a_writer_takes_nothing_after_commit(self, storage: Storage) -> None:
        """RuntimeError: it is the caller's mistake."""
        async with storage.writer("a") as writer:
            await writer.commit()
            with pytest.raises(RuntimeError):
                await writer.write(b"more")
            with pytest.raises(RuntimeError):
                await writer.commit()
        assert await get(storage, "a") == b""

    async def test_a_commit_replaces_the_object(self, storage: Storage) -> None:
        """Also by the same bytes, by fewer, and back again."""
        for data in (b"first", b"first", b"2", noise(2 * MIB), b"first"):
            await put(storage, "a", data)
            assert await get(storage, "a") == data
        assert await keys(storage) == ["a"]

    async def test_neighbours_may_be_written_and_deleted_at_once(self, storage: Storage) -> None:
        """Nothing that was committed is lost when a delete tidies up around it."""

        async def come_and_go(name: str) -> None:
            for _ in range(10):
                await put(storage, f"deep/er/{name}", name.encode())
                assert await get(storage, f"deep/er/{name}") == name.encode()
                assert await storage.delete(f"deep/er/{name}")

        await asyncio.gather(*(come_and_go(f"{number}") for number in range(6)))
        assert await keys(storage) == []

    async def test_sweeping_leaves_objects_and_writers_alone(self, storage: Storage) -> None:
        """Whatever their age."""
        await put(storage, "a", b"kept")
        async with storage.writer("b") as writer:
            await writer.write(noise(2 * MIB))
            assert await storage.sweep(0) == 0
            await writer.write(b"end")
            await writer.commit()
        assert await keys(storage) == ["a", "b"]
        assert await get(storage, "b") == noise(2 * MIB) + b"end"


class _Reading:
    """What was written, whole, or an error."""

    async def test_is_a_storage(self, storage: Storage) -> None:
        """It has every method."""
        assert isinstance(storage, Storage)

    @pytest.mark.parametrize("size_bytes", [0, 1, MIB - 1, MIB, 3 * MIB + 1, 17 * MIB])
    async def test_what_was_committed_is_read_back(self, storage: Storage, size_bytes: int) -> None:
        """Whole, with its size and digest, in chunks of which none is empty."""
        data = noise(size_bytes)
        stored = await put(storage, "a/b", data)
        assert (stored.key, stored.size_bytes) == ("a/b", size_bytes)
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        async with storage.open("a/b") as reader:
            chunks = [chunk async for chunk in reader]
        assert b"".join(chunks) == data
        assert all(type(chunk) is bytes and chunk for chunk in chunks)

    async def test_commit_and_stat_and_list_agree(self, storage: Storage) -> None:
        """On key, size and digest; on the time as far as clocks do."""
        stored = await put(storage, "a/b", b"hello")
        found = await storage.stat("a/b")
        assert [found] == [listed async for listed in storage.list()]
        assert (found.key, found.size_bytes, found.sha256) == (stored.key, stored.size_bytes, stored.sha256)
        assert abs(found.modified - stored.modified) < CLOCKS_APART_S

    async def test_a_reader_never_sees_a_mix_of_versions(self, storage: Storage) -> None:
        """It reads on in the one it opened, or fails."""
        old = noise(6 * MIB, seed=1)
        await put(storage, "a", old)
        async with storage.open("a") as chunks:
            got = await anext(chunks)
            await put(storage, "a", noise(6 * MIB, seed=2))
            try:
                async for chunk in chunks:
                    got += chunk
            except StorageError:
                assert old.startswith(got)
            else:
                assert got == old

    async def test_readers_among_writers_always_find_a_whole_object(self, storage: Storage) -> None:
        """An object that is only ever replaced is never missing."""
        versions = [noise(1000, seed=seed) for seed in range(20)]
        await put(storage, "a", versions[0])
        writing = asyncio.gather(*(put(storage, "a", data) for data in versions))
        seen = [await get(storage, "a")]
        while not writing.done():
            seen.append(await get(storage, "a"))
        await writing
        assert set(seen) <= set(versions)
        assert await get(storage, "a") in versions

    async def test_a_read_may_begin_anywhere(self, storage: Storage) -> None:
        """At the end there is nothing, past it and below 0 is an error."""
        data = noise(2 * MIB + 5)
        await put(storage, "a", data)
        for offset in (0, 1, MIB, len(data) - 1, len(data)):
            assert await get(storage, "a", offset=offset) == data[offset:]
        for offset in (-1, len(data) + 1):
            with pytest.raises(ValueError, match="offset"):
                await get(storage, "a", offset=offset)

    async def test_a_read_may_stop_anywhere(self, storage: Storage) -> None:
        """Before, within and after the bytes."""
        await put(storage, "a", noise(3 * MIB))
        async with storage.open("a"):
            pass
        async with storage.open("a") as chunks:
            assert await anext(chunks)
        assert await storage.delete("a")

    async def test_a_local_path_holds_the_bytes(self, storage: Storage) -> None:
        """Where there is one."""
        data = noise(2 * MIB)
        await put(storage, "a/b", data)
        path = storage.local_path("a/b")
        if path is not None:
            assert path.read_bytes() == data

    async def test_check_passes_and_leaves_nothing(self, storage: Storage) -> None:
        """Several at once too."""
        await asyncio.gather(storage.check(), storage.check(), storage.check())
        assert await keys(storage) == []


class _Keys:
    """Names, their order, and what is not there."""

    async def test_what_is_missing_is_told(self, storage: Storage) -> None:
        """Also where other objects are around it."""
        await put(storage, "a/b/c", b"")
        for key in ("x", "a", "a/b", "a/b/c/d", "a/x"):
            for attempt in (storage.stat(key), get(storage, key), get(storage, key, offset=1)):
                with pytest.raises(ObjectMissing):
                    await attempt
            assert await storage.delete(key) is False
            assert storage.local_path(key) is None

    async def test_a_deleted_object_is_gone(self, storage: Storage) -> None:
        """And its key can be used again."""
        for data in (b"one", b"two"):
            await put(storage, "a/b", data)
            assert await storage.delete("a/b") is True
            assert await storage.delete("a/b") is False
            assert await keys(storage) == []
            with pytest.raises(ObjectMissing):
                await storage.stat("a/b")

    async def test_a_key_may_begin_with_another(self, storage: Storage) -> None:
        """Neither hides the other, whichever goes first."""
        nested = ["a", "a/b", "a/b/c"]
        for first_out in (nested, nested[::-1]):
            for key in nested:
                await put(storage, key, key.encode())
            for position, key in enumerate(first_out):
                assert await get(storage, key) == key.encode()
                assert await storage.delete(key)
                assert await keys(storage) == sorted(first_out[position + 1 :])

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_every_key_works(self, storage: Storage, key: str) -> None:
        """However odd."""
        assert len(check_key(key)) <= MAX_KEY_LENGTH
        await put(storage, key, key.encode())
        assert await get(storage, key) == key.encode()
        assert await keys(storage) == [key]
        assert await storage.delete(key)

    @pytest.mark.parametrize("key", BAD_KEYS)
    async def test_what_is_no_key_is_refused(self, storage: Storage, key: str) -> None:
        """ValueError, by every method."""
        for attempt in (put(storage, key, b""), get(storage, key), storage.stat(key), storage.delete(key)):
            with pytest.raises(ValueError, match="not a storage key"):
                await attempt
        with pytest.raises(ValueError, match="not a storage key"):
            storage.local_path(key)

    async def test_a_list_is_in_the_order_of_the_keys(self, storage: Storage) -> None:
        """As strings, not by segments; a prefix is characters, not segments."""
        stored = ["a", "a-b", "a.b", "a/b", "a/b-c", "a/b/c", "a0", "ab", "ab/c", "A", "b", "-", "_/x", "a/b/d"]
        for key in stored:
            await put(storage, key, b"")
        for prefix in ("", "a", "a/", "a/b", "a/b/", "ab", "b", "c", "_", "a//", "/", "..", "../a", "a b"):
            assert await keys(storage, prefix) == sorted(key for key in stored if key.startswith(prefix))

    async def test_a_long_list_is_whole(self, storage: Storage) -> None:
        """More objects than any page holds is for real services; here more than a batch."""
        stored = [f"n/{number:04}" for number in range(300)]
        for start in range(0, len(stored), 50):
            await asyncio.gather(*(put(storage, key, b"") for key in stored[start : start + 50]))
        assert await keys(storage) == stored
        assert await keys(storage, "n/01") == stored[100:200]


class StorageConformance(_Writing, _Reading, _Keys):
    """Subclass it as ``TestSomething`` with a fixture ``storage`` that yields an empty storage, and pytest runs it all.

    ::

        class TestMyStorage(StorageConformance):
            @pytest.fixture
            async def storage(self, tmp_path): ...
    """

    pytestmark = pytest.mark.asyncio
