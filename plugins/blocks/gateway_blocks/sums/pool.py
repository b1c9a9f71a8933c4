"""Threads that hash: blocks of one file on all of them at once, several files in turn, whole files last."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from gateway_blocks.sums.jobs import BlockHashed, FileHashed, HashJob, JobEnded, Result
from gateway_blocks.sums.queue import PREFERRED_LIMIT, BlockTask, EndTask, HashQueue, StepTask
from gateway_blocks.sums.reading import Reader
from gateway_core.errors import GatewayError, Unavailable

__all__ = ["BlockHashed", "FileHashed", "HashJob", "HashPool", "JobEnded", "Result"]


class HashPool:
    """``workers`` threads; ``deliver`` is called in them, by several at once, and must neither raise nor wait long.

    Every job that was taken on ends with exactly one JobEnded, delivered after its other results. Its key can be used
    again from then on.
    """

    def __init__(self, workers: int, deliver: Callable[[list[Result]], None]) -> None:
        self._workers, self._deliver = workers, deliver
        self._threads: list[threading.Thread] = []
        self._queue = HashQueue()
        self._changed = threading.Condition()
        self._running = False
        self._deaf = False

    def start(self) -> None:
        """Start the threads. They are daemons: one that a dead file system holds does not hold the exit."""
        self._running = True
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"hash-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float) -> bool:
        """Drop all jobs and wait for the threads; whether they ended in time. Nothing is delivered after that."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._running = False
            self._queue.drop_all()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._deaf = True
        return not any(thread.is_alive() for thread in self._threads)

    def submit(self, job: HashJob) -> None:
        """Take on a job; its fd is the pool's in any case, and is closed when the job is refused.

        Raises Unavailable when the pool does not run, ValueError while a job with this key has not ended.
        """
        with suppress(OSError):  # a descriptor that is no good says so when it is read
            os.posix_fadvise(job.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        try:
            with self._changed:
                if not self._running:
                    raise Unavailable("the threads that hash do not run")
                self._queue.submit(job)
                self._changed.notify_all()
        except (Unavailable, ValueError):
            os.close(job.fd)
            raise

    def prefer(self, key: str, indices: Iterable[int]) -> None:
        """Hash these blocks of the job before its others, in this order; the first 1,024 of them count.

        Those that were handed out before are ignored; one that ``todo`` would have left out is hashed. Does nothing for
        a job that has no blocks left, or is not there.
        """
        wanted = list(islice(indices, PREFERRED_LIMIT))
        with self._changed:
            self._queue.prefer(key, wanted)

    def drop(self, key: str) -> None:
        """Give up what is left of the job, even in the middle of a block; does nothing where there is no such job."""
        with self._changed:
            self._queue.drop(key)

    def _work(self) -> None:
        reader = Reader()
        while (task := self._next()) is not None:
            if isinstance(task, EndTask):
                self._end(task)
            else:
                error = self._run(task, reader)
                with self._changed:
                    self._queue.settle(task, error)

    def _next(self) -> BlockTask | StepTask | EndTask | None:
        """Wait for a task; None when the pool has stopped and nothing is left to end."""
        with self._changed:
            while (task := self._queue.take()) is None and self._running:
                self._changed.wait()
            return task

    def _run(self, task: BlockTask | StepTask, reader: Reader) -> GatewayError | None:
        """Do the task and tell what came out."""
        active, job = task.active, task.active.job
        try:
            if isinstance(task, BlockTask):
                digest = reader.block(job, task.index, lambda: not active.given_up)
                if digest is not None:
                    self._tell(BlockHashed(job.key, task.index, digest))
            elif active.whole is not None:
                reader.step(job, active.whole, lambda: not active.given_up)
                if active.whole.done:
                    self._tell(FileHashed(job.key, active.whole.sha1.digest(), active.whole.sha256.digest()))
        except GatewayError as error:
            return error
        return None

    def _end(self, task: EndTask) -> None:
        with suppress(OSError):
            os.close(task.active.job.fd)
        self._tell(JobEnded(task.active.job.key, task.active.error))

    def _tell(self, result: Result) -> None:
        if not self._deaf:
            self._deliver([result])
