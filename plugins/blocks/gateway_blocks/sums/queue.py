"""Whose block is hashed next: a plain data structure, guarded by the lock of the pool that owns it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from gateway_blocks.sums.jobs import HashJob
from gateway_blocks.sums.reading import WholeFile
from gateway_core.errors import GatewayError

PREFERRED_LIMIT = 1024
"""So many preferred blocks of a job wait at most; more are left to the ascending order."""


class ActiveJob:
    """How far a job has come. ``given_up`` is read by the threads between two reads."""

    def __init__(self, job: HashJob) -> None:
        self.job = job
        self.whole = WholeFile() if job.full else None
        self.error: GatewayError | None = None
        self.given_up = False
        self.in_hand = 0
        self.blocks_left = True
        self._todo = iter(job.todo)
        self._next = 0
        self._preferred: deque[int] = deque()
        self._early: set[int] = set()

    def prefer(self, indices: Iterable[int]) -> None:
        """Hand these blocks out before others, in this order."""
        ahead = range(self._next, self.job.layout.count)
        room = PREFERRED_LIMIT - len(self._preferred)
        self._preferred += islice((index for index in indices if index in ahead), room)

    def next_block(self) -> int | None:
        """The block to hash next; None when none is left."""
        while self._preferred:
            index = self._preferred.popleft()
            if index >= self._next and index not in self._early:
                self._early.add(index)
                return index
        for index in self._todo:
            self._next = index + 1
            if index not in self._early:
                return index
            self._early.discard(index)
        return None


@dataclass(frozen=True, slots=True)
class BlockTask:
    """Hash one block."""

    active: ActiveJob
    index: int


@dataclass(frozen=True, slots=True)
class StepTask:
    """Go on with the pass over the whole file."""

    active: ActiveJob


@dataclass(frozen=True, slots=True)
class EndTask:
    """Nothing of the job is in hand or left: close its file and tell its end."""

    active: ActiveJob


class HashQueue:
    """Jobs take turns block by block, and step by step in their whole-file passes, which wait for all blocks."""

    def __init__(self) -> None:
        self._jobs: dict[str, ActiveJob] = {}
        self._blocks: deque[ActiveJob] = deque()
        self._passes: deque[ActiveJob] = deque()
        self._ended: deque[ActiveJob] = deque()

    def submit(self, job: HashJob) -> None:
        """Queue a job. Raises ValueError while one with its key has not ended."""
        if job.key in self._jobs:
            raise ValueError(f"a job {job.key} has not ended")
        active = self._jobs[job.key] = ActiveJob(job)
        self._blocks.append(active)

    def prefer(self, key: str, indices: Iterable[int]) -> None:
        """See HashPool."""
        active = self._jobs.get(key)
        if active is not None and active.blocks_left:
            active.prefer(indices)

    def drop(self, key: str) -> None:
        """See HashPool."""
        active = self._jobs.get(key)
        if active is not None and active not in self._ended:
            self._give_up(active)

    def drop_all(self) -> None:
        """Drop every job."""
        for key in self._jobs:
            self.drop(key)

    def take(self) -> BlockTask | StepTask | EndTask | None:
        """The next task, None when there is none now. All but an EndTask are to be settled."""
        while True:
            if self._ended:
                active = self._ended.popleft()
                del self._jobs[active.job.key]
                return EndTask(active)
            if self._blocks:
                active = self._blocks.popleft()
                index = active.next_block()
                if index is not None:
                    active.in_hand += 1
                    self._blocks.append(active)
                    return BlockTask(active, index)
                active.blocks_left = False
                self._place(active)
            elif self._passes:
                active = self._passes.popleft()
                active.in_hand += 1
                return StepTask(active)
            else:
                return None

    def settle(self, task: BlockTask | StepTask, error: GatewayError | None = None) -> None:
        """The task is done and its results are told; or it failed, which ends the job."""
        active = task.active
        active.in_hand -= 1
        if error is not None and not active.given_up:
            active.error = error
            self._give_up(active)
        elif not active.blocks_left:
            self._place(active)

    def _give_up(self, active: ActiveJob) -> None:
        active.given_up = True
        if active.blocks_left:
            active.blocks_left = False
            self._blocks.remove(active)
        elif active in self._passes:
            self._passes.remove(active)
        self._place(active)

    def _place(self, active: ActiveJob) -> None:
        """Line up a job without blocks for its pass or its end, once nothing of it is in hand."""
        if active.in_hand:
            return
        if active.given_up or active.whole is None or active.whole.done:
            self._ended.append(active)
        else:
            self._passes.append(active)
