"""The pool of hashing threads, as the event loop sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway_blocks.sums.pool import BlockHashed, FileHashed, HashJob, HashPool, JobEnded, Result
from gateway_blocks.sums.store import Whole

_STOP_S = 2.0

OnBlock = Callable[[int, bytes], None]


@dataclass
class _Running:
    """A job under way: who is told of its blocks, what it found of the whole file, and its end."""

    ended: asyncio.Future[None]
    on_block: OnBlock | None
    whole: Whole | None = None


class Hashing:
    """Runs jobs in ``workers`` threads; everything else happens in the loop that runs it."""

    def __init__(self, workers: int) -> None:
        self._pool = HashPool(workers, self._deliver)
        self._jobs: dict[str, _Running] = {}
        self._results: deque[Result] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Threads, for the block."""
        self._loop = asyncio.get_running_loop()
        self._pool.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self._pool.stop, _STOP_S)

    async def run(self, job: HashJob, on_block: OnBlock | None = None) -> Whole | None:
        """Do ``job``; each block is told to ``on_block`` at once. Gives the digests of a full job.

        Raises what ended the job: FileChanged, or an error of the disk. Cancelling drops the job.
        """
        running = _Running(asyncio.get_running_loop().create_future(), on_block)
        self._pool.submit(job)
        self._jobs[job.key] = running
        try:
            await running.ended
        finally:
            if not running.ended.done() or running.ended.cancelled():
                self._pool.drop(job.key)
            del self._jobs[job.key]
        return running.whole

    def prefer(self, key: str, indices: Iterable[int]) -> None:
        """Let these blocks of a job come next."""
        if key in self._jobs:
            self._pool.prefer(key, indices)

    def _deliver(self, results: list[Result]) -> None:
        """In a worker thread."""
        assert self._loop is not None
        self._results.extend(results)
        try:
            self._loop.call_soon_threadsafe(self._dispatch)
        except RuntimeError:  # the loop has ended: nobody is there to be told
            self._results.clear()

    def _dispatch(self) -> None:
        while self._results:
            result = self._results.popleft()
            running = self._jobs.get(result.key)
            if running is None or running.ended.done():
                continue
            match result:
                case BlockHashed():
                    if running.on_block is not None:
                        running.on_block(result.index, result.digest)
                case FileHashed():
                    running.whole = Whole(result.sha1, result.sha256)
                case JobEnded(error=None):
                    running.ended.set_result(None)
                case JobEnded(error=error):
                    assert error is not None
                    running.ended.set_exception(error)
