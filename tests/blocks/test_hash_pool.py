"""Hashing real files in real threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.files.identity import Identity
from gateway_blocks.sums.layout import MIB, BlockLayout
from gateway_blocks.sums.pool import BlockHashed, FileHashed, HashJob, HashPool, JobEnded, Result
from gateway_blocks.sums.reading import READ_BYTES, Reader, WholeFile
from gateway_core import Unavailable

BLOCK = 4096
LONG_AGO_NS = 10**18
PATIENCE_S = 60.0


class Told:
    """What a pool has delivered, in order; ``hook`` sees each result in the thread that delivers it."""

    def __init__(self, hook: Callable[[Result], None] | None = None) -> None:
        self.results: list[Result] = []
        self.hook = hook
        self._news = threading.Condition()

    def deliver(self, results: list[Result]) -> None:
        with self._news:
            self.results += results
            self._news.notify_all()
        for result in results:
            if self.hook is not None:
                self.hook(result)

    def end_of(self, key: str) -> JobEnded:
        """Wait for the job's end."""
        with self._news:
            assert self._news.wait_for(lambda: self._end(key) is not None, PATIENCE_S)
            return self._end(key)

    def blocks(self, key: str) -> dict[int, bytes]:
        return {one.index: one.digest for one in self.results if isinstance(one, BlockHashed) and one.key == key}

    def wholes(self, key: str) -> list[tuple[bytes, bytes]]:
        return [(one.sha1, one.sha256) for one in self.results if isinstance(one, FileHashed) and one.key == key]

    def _end(self, key: str) -> JobEnded | None:
        return next((one for one in self.results if isinstance(one, JobEnded) and one.key == key), None)


@contextmanager
def pool_telling(told: Told, workers: int = 1) -> Iterator[HashPool]:
    pool = HashPool(workers, told.deliver)
    pool.start()
    try:
        yield pool
    finally:
        assert pool.stop(PATIENCE_S)


def file_of(path: Path, data: bytes, size_bytes: int | None = None) -> Path:
    """A file that was written long ago: any later write shows in its mtime, however coarse the clock."""
    path.write_bytes(data)
    if size_bytes is not None:
        os.truncate(path, size_bytes)
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return path


def job_on(
    path: Path, key: str = "a", *, block_bytes: int = BLOCK, todo: Iterable[int] | None = None, full: bool = False
) -> HashJob:
    fd = os.open(path, os.O_RDONLY)
    identity = Identity.of(os.fstat(fd))
    layout = BlockLayout(identity.size_bytes, block_bytes)
    return HashJob(key, fd, identity, layout, range(layout.count) if todo is None else todo, full=full)


def noise(size_bytes: int) -> bytes:
    return hashlib.shake_128(b"noise").digest(size_bytes)


def sums(data: bytes, block_bytes: int) -> dict[int, bytes]:
    return {
        index: hashlib.sha1(data[first : first + block_bytes]).digest()
        for index, first in enumerate(range(0, len(data), block_bytes))
    }


def is_open(path: Path) -> bool:
    """Whether this process has the file open, by the links that the kernel keeps."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(link).startswith(str(path)):
                return True
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
    return False


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Five blocks, the last of them one byte."""
    return file_of(tmp_path / "small", noise(4 * BLOCK + 1))


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A sparse file that takes many minutes to hash."""
    return file_of(tmp_path / "endless", b"", 1 << 40)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("size_bytes", "block_bytes"),
    [(0, 4096), (1, 4096), (4096, 4096), (4097, 4096), (2 * READ_BYTES + 9, READ_BYTES + 5), (READ_BYTES, 1 << 30)],
)
def test_every_block_has_its_sha1(tmp_path, workers, size_bytes, block_bytes):
    data = noise(size_bytes)
    told = Told()
    with pool_telling(told, workers) as pool:
        pool.submit(job_on(file_of(tmp_path / "file", data), block_bytes=block_bytes))
        assert told.end_of("a").error is None
    assert told.blocks("a") == sums(data, block_bytes)


def test_only_the_blocks_that_were_asked_for_are_hashed(small):
    told = Told()
    with pool_telling(told) as pool:
        pool.submit(job_on(small, todo=[1, 4]))
        told.end_of("a")
    assert told.blocks("a") == {index: sums(small.read_bytes(), BLOCK)[index] for index in (1, 4)}


def test_blocks_of_one_file_are_hashed_in_several_threads_at_once(small):
    together = threading.Barrier(3)
    threads = set()

    def meet(result: Result) -> None:
        if isinstance(result, BlockHashed) and result.index < 3:
            together.wait(PATIENCE_S)
            threads.add(threading.current_thread().name)

    told = Told(meet)
    with pool_telling(told, workers=3) as pool:
        pool.submit(job_on(small))
        told.end_of("a")
    assert len(threads) == 3


class Gate:
    """Holds the only thread of a pool, in the middle of a job ``gate``, while the other jobs are submitted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told = Told(self._hold)
        self._held, self._open = threading.Event(), threading.Event()

    @contextmanager
    def closed(self) -> Iterator[HashPool]:
        with pool_telling(self.told) as pool:
            pool.submit(job_on(self.path, "gate", todo=[0]))
            assert self._held.wait(PATIENCE_S)
            try:
                yield pool
            finally:
                self.open()

    def open(self) -> None:
        self._open.set()

    def order(self) -> list[str]:
        """``a0`` for a block, ``a*`` for a whole file, ``a.`` for an end; without those of the gate."""
        names = []
        for one in self.told.results:
            what = str(one.index) if isinstance(one, BlockHashed) else "*" if isinstance(one, FileHashed) else "."
            names.append(one.key + what)
        return [name for name in names if not name.startswith("gate")]

    def _hold(self, result: Result) -> None:
        if result.key == "gate" and isinstance(result, BlockHashed):
            self._held.set()
            assert self._open.wait(PATIENCE_S)


def test_two_files_take_turns_block_by_block(small):
    gate = Gate(small)
    with gate.closed() as pool:
        pool.submit(job_on(small, "a", todo=range(3)))
        pool.submit(job_on(small, "b", todo=range(3)))
        gate.open()
        gate.told.end_of("a")
        gate.told.end_of("b")
    assert gate.order() == ["a0", "b0", "a1", "b1", "a2", "b2", "a.", "b."]


def test_preferred_blocks_come_first(small):
    gate = Gate(small)
    with gate.closed() as pool:
        pool.submit(job_on(small, "a"))
        pool.prefer("a", [3, 4])
        gate.open()
        gate.told.end_of("a")
    assert gate.order() == ["a3", "a4", "a0", "a1", "a2", "a."]


def test_blocks_can_be_preferred_while_a_file_is_hashed(small):
    def wish(result: Result) -> None:
        if result == BlockHashed("a", 0, sums(small.read_bytes(), BLOCK)[0]):
            pool.prefer("a", iter([0, 4]))

    told = Told(wish)
    with pool_telling(told) as pool:
        pool.submit(job_on(small))
        told.end_of("a")
    assert list(told.blocks("a")) == [0, 4, 1, 2, 3]
    assert len(told.results) == 6


def write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"!")


def replace_in_place(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def truncate(path: Path) -> None:
    os.truncate(path, 1)


def touch(path: Path) -> None:
    path.touch()


CHANGES = [write_in_place, replace_in_place, append, truncate, touch]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_between_two_blocks_ends_the_job(small, change):
    data = small.read_bytes()

    def interfere(result: Result) -> None:
        if isinstance(result, BlockHashed) and result.index == 1:
            change(small)

    told = Told(interfere)
    with pool_telling(told) as pool:
        pool.submit(job_on(small, full=True))
        assert isinstance(told.end_of("a").error, FileChanged)
    assert told.blocks("a") == {index: sums(data, BLOCK)[index] for index in (0, 1)}
    assert len(told.results) == 3


def before_read(number: int, action: Callable[[], None]) -> Callable[[], bool]:
    """An answer to "still wanted?", always yes, that acts before the read of that number."""
    reads = count(1)

    def wanted() -> bool:
        if next(reads) == number:
            action()
        return True

    return wanted


@pytest.mark.parametrize("change", CHANGES)
def test_a_block_that_is_torn_by_a_change_has_no_digest(tmp_path, change):
    path = file_of(tmp_path / "file", noise(2 * READ_BYTES))
    job = job_on(path, block_bytes=2 * READ_BYTES)
    with pytest.raises(FileChanged):
        Reader().block(job, 0, before_read(2, lambda: change(path)))
    os.close(job.fd)


@pytest.mark.parametrize("change", CHANGES)
def test_a_pass_over_a_file_that_changes_has_no_digest(tmp_path, change):
    path = file_of(tmp_path / "file", noise(2 * READ_BYTES))
    job, whole = job_on(path), WholeFile()
    with pytest.raises(FileChanged):
        Reader().step(job, whole, before_read(2, lambda: change(path)))
    assert not whole.done
    os.close(job.fd)


def test_nothing_is_read_of_a_file_that_has_changed_already(small):
    job = job_on(small)
    touch(small)
    with pytest.raises(FileChanged):
        Reader().block(job, 0, lambda: pytest.fail("about to read"))
    os.close(job.fd)


def test_a_block_that_is_wanted_no_more_has_no_digest(tmp_path):
    job = job_on(file_of(tmp_path / "file", noise(2 * READ_BYTES)), block_bytes=2 * READ_BYTES)
    answers = iter([True, False])
    assert Reader().block(job, 0, lambda: next(answers)) is None
    os.close(job.fd)


def unlink(path: Path) -> None:
    path.unlink()


def rename_over(path: Path) -> None:
    file_of(path.with_name("other"), b"other").replace(path)


@pytest.mark.parametrize("change", [unlink, rename_over])
def test_a_file_that_loses_its_name_is_hashed_to_the_end(small, change):
    data = small.read_bytes()

    def interfere(result: Result) -> None:
        if isinstance(result, BlockHashed) and result.index == 1:
            change(small)

    told = Told(interfere)
    with pool_telling(told) as pool:
        pool.submit(job_on(small, full=True))
        assert told.end_of("a").error is None
    assert told.blocks("a") == sums(data, BLOCK)
    assert told.wholes("a") == [(hashlib.sha1(data).digest(), hashlib.sha256(data).digest())]


def test_a_file_deleted_while_it_waits_is_hashed_too(small):
    data = small.read_bytes()
    gate = Gate(small)
    with gate.closed() as pool:
        pool.submit(job_on(small, "a"))
        small.unlink()
        gate.open()
        assert gate.told.end_of("a").error is None
    assert gate.told.blocks("a") == sums(data, BLOCK)


def test_a_file_that_is_written_after_it_lost_its_name_has_changed(small):
    told = Told()
    job = job_on(small)
    with small.open("r+b") as file:
        small.unlink()
        file.write(b"!")
    with pool_telling(told) as pool:
        pool.submit(job)
        assert isinstance(told.end_of("a").error, FileChanged)
    assert told.blocks("a") == {}


def folder_fd(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY)


def closed_fd(tmp_path: Path) -> int:
    """A number so high that nothing else gets it meanwhile."""
    fd = folder_fd(tmp_path)
    high = os.dup2(fd, 900)
    os.close(fd)
    os.close(high)
    return high


def fd_with_input_output_errors(_: Path) -> int:
    """The memory of this process: nothing is mapped at its beginning, and reading there gives EIO."""
    return os.open("/proc/self/mem", os.O_RDONLY)


@pytest.mark.parametrize("broken", [folder_fd, closed_fd, fd_with_input_output_errors])
@pytest.mark.parametrize("full", [False, True])
def test_what_cannot_be_read_ends_its_job_and_not_the_thread(tmp_path, small, broken, full):
    fd = broken(tmp_path)
    try:
        identity = Identity.of(os.fstat(fd))
    except OSError:
        identity = Identity(0, 0, BLOCK, 0, 0)
    told = Told()
    with pool_telling(told) as pool:
        todo = () if full else (0,)
        pool.submit(HashJob("broken", fd, identity, BlockLayout(BLOCK, BLOCK), todo, full=full))
        assert isinstance(told.end_of("broken").error, Unavailable)
        pool.submit(job_on(small))
        assert told.end_of("a").error is None
    assert told.blocks("a") == sums(small.read_bytes(), BLOCK)


def test_a_dropped_job_ends_and_tells_no_more(small):
    def drop(result: Result) -> None:
        if isinstance(result, BlockHashed) and result.index == 1:
            pool.drop("a")

    told = Told(drop)
    with pool_telling(told) as pool:
        pool.submit(job_on(small, full=True))
        assert told.end_of("a").error is None
    assert [type(one) for one in told.results] == [BlockHashed, BlockHashed, JobEnded]


def test_a_job_is_dropped_in_the_middle_of_a_block(endless):
    begun = threading.Event()

    def first_block() -> Iterator[int]:
        begun.set()
        yield 0

    told = Told()
    with pool_telling(told, workers=2) as pool:
        pool.submit(job_on(endless, block_bytes=1 << 40, todo=first_block()))
        assert begun.wait(PATIENCE_S)
        pool.drop("a")
        assert told.end_of("a") == JobEnded("a", None)
    assert len(told.results) == 1


def test_whoever_waits_in_the_queue_can_be_dropped(small):
    gate = Gate(small)
    with gate.closed() as pool:
        for key in "abc":
            pool.submit(job_on(small, key, todo=[0]))
        pool.drop("b")
        gate.open()
        gate.told.end_of("c")
    assert gate.order() == ["b.", "a0", "c0", "a.", "c."]


@pytest.mark.parametrize("full_only", [False, True])
def test_stopping_gives_up_what_is_left_and_closes_the_files(endless, small, full_only):
    begun = threading.Event()

    def begin(result: Result) -> None:
        if result.key == "b":
            begun.set()

    told = Told(begin)
    pool = HashPool(2, told.deliver)
    pool.start()
    pool.submit(job_on(endless, "a", block_bytes=1 << 40, todo=() if full_only else None, full=full_only))
    pool.submit(job_on(small, "b"))
    pool.submit(job_on(endless, "c"))
    assert begun.wait(PATIENCE_S)
    assert pool.stop(PATIENCE_S)
    ends = [one for one in told.results if isinstance(one, JobEnded)]
    assert sorted((end.key, end.error) for end in ends) == [("a", None), ("b", None), ("c", None)]
    assert not is_open(endless)
    assert not is_open(small)


def test_a_pool_that_does_not_run_takes_no_jobs(small):
    told = Told()
    pool = HashPool(1, told.deliver)
    with pytest.raises(Unavailable):
        pool.submit(job_on(small))
    pool.start()
    assert pool.stop(PATIENCE_S)
    with pytest.raises(Unavailable):
        pool.submit(job_on(small))
    assert told.results == []
    assert not is_open(small)


def test_a_stuck_thread_does_not_hold_the_stop_and_is_not_heard_after_it(small):
    gate = Gate(small)
    with gate.closed() as pool:
        pool.submit(job_on(small, "a"))
        assert not pool.stop(0.05)
        gate.open()
        assert pool.stop(PATIENCE_S)
    assert [type(one) for one in gate.told.results] == [BlockHashed]
    assert not is_open(small)


@pytest.mark.parametrize("size_bytes", [0, 1, 8 * MIB, 17 * MIB + 1])
@pytest.mark.parametrize("todo", [None, ()])
def test_a_full_job_tells_the_sums_of_the_whole_file_after_its_blocks(tmp_path, size_bytes, todo):
    path = file_of(tmp_path / "file", noise(min(size_bytes, MIB)), size_bytes)
    data = path.read_bytes()
    told = Told()
    with pool_telling(told, workers=2) as pool:
        pool.submit(job_on(path, block_bytes=MIB, todo=todo, full=True))
        assert told.end_of("a").error is None
    assert told.blocks("a") == ({} if todo == () else sums(data, MIB))
    assert told.results[-2:] == [
        FileHashed("a", hashlib.sha1(data).digest(), hashlib.sha256(data).digest()),
        JobEnded("a", None),
    ]


def test_blocks_of_another_file_come_before_a_pass(tmp_path, small):
    large = file_of(tmp_path / "large", b"", 20 * MIB)
    gate = Gate(small)
    with gate.closed() as pool:
        pool.submit(job_on(large, "w", todo=(), full=True))
        pool.submit(job_on(small, "a", todo=range(3)))
        gate.open()
        gate.told.end_of("w")
    assert gate.order() == ["a0", "a1", "a2", "a.", "w*", "w."]


def test_blocks_of_another_file_come_in_the_middle_of_a_pass(endless, small):
    told = Told()
    with pool_telling(told) as pool:
        pool.submit(job_on(endless, "w", todo=(), full=True))
        for key in "abc":
            pool.submit(job_on(small, key))
            assert told.end_of(key).error is None
        pool.drop("w")
        told.end_of("w")
    assert told.wholes("w") == []


def test_a_huge_file_is_worked_off_without_looking_ahead(endless):
    handed, ahead = [], set()

    def todo() -> Iterator[int]:
        for index in range(1 << 24):
            handed.append(index)
            yield index

    def look(result: Result) -> None:
        if isinstance(result, BlockHashed):
            ahead.add(handed[-1] - result.index)
            if result.index == 200:
                pool.drop("a")

    told = Told(look)
    with pool_telling(told) as pool:
        pool.submit(job_on(endless, block_bytes=64 << 10, todo=todo()))
        told.end_of("a")
    assert ahead == {0}
    assert list(told.blocks("a")) == handed == list(range(201))


def test_each_of_many_jobs_ends_once_after_its_other_results(tmp_path):
    told = Told()
    keys = [str(number) for number in range(40)]
    with pool_telling(told, workers=4) as pool:
        for key in keys:
            path = file_of(tmp_path / key, noise(int(key) * 1000))
            pool.submit(job_on(path, key, full=True))
        for key in keys:
            assert told.end_of(key).error is None
    for key in keys:
        kinds = [type(one) for one in told.results if one.key == key]
        assert kinds == [BlockHashed] * -(-int(key) * 1000 // BLOCK) + [FileHashed, JobEnded]
        assert not is_open(tmp_path / key)


def test_a_key_can_be_used_again_as_soon_as_its_end_is_told(small):
    again = threading.Event()

    def submit_again(result: Result) -> None:
        if isinstance(result, JobEnded) and not again.is_set():
            pool.submit(job_on(small, todo=[4]))
            again.set()

    told = Told(submit_again)
    with pool_telling(told) as pool:
        pool.submit(job_on(small, todo=[0]))
        assert again.wait(PATIENCE_S)
    assert next(iter(told.blocks("a"))) == 0
    assert [type(one) for one in told.results].count(JobEnded) == 2


def test_a_key_that_is_in_use_is_refused_and_the_file_closed(small, endless):
    told = Told()
    with pool_telling(told) as pool:
        pool.submit(job_on(endless))
        with pytest.raises(ValueError, match="has not ended"):
            pool.submit(job_on(small))
        assert not is_open(small)
