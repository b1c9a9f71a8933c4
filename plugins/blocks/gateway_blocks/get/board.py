"""Who does what: the state of every block, and the runs of adjacent ones that threads take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hashlib import _Hash

_PENDING, _WANTED, _LOCAL, _DAMAGED, _BUSY, _DONE = range(6)
"""States: checksum not told yet; to be fetched; to be copied from a local file; came damaged, to be fetched when
nothing else is; somebody has it; there."""

_SLOW_S = 2.0
_SLOW_TIMES = 2.0


class BlockMap(Protocol):
    """How a file is cut into blocks, and what of them is known."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""

    @property
    def block_bytes(self) -> int:
        """Size of all blocks but perhaps the last."""

    @property
    def count(self) -> int:
        """Number of blocks."""

    @property
    def known(self) -> int:
        """Number of blocks whose digest is known."""

    def digest(self, index: int) -> bytes | None:
        """SHA-1 of the block as far as told."""

    def span(self, index: int) -> tuple[int, int]:
        """Offsets of the block's first and last byte."""


def length_of(block_map: BlockMap, index: int) -> int:
    """Bytes in the block."""
    start, last = block_map.span(index)
    return last + 1 - start


@dataclass(eq=False)
class Run:
    """Adjacent blocks that one thread has: from ``next`` up to, not including, ``stop``.

    ``local`` runs are to be copied, the others fetched. ``hasher`` has seen the first ``begun_bytes`` of block
    ``next``, which came from ``source`` and are in place: a run that is given back is gone on with from there.
    """

    next: int
    stop: int
    local: bool = False
    hasher: _Hash | None = None
    begun_bytes: int = 0
    source: object = None
    avoid: object = None
    """The source that sent this block damaged."""
    received_bytes: int = 0
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    interrupt: Callable[[], None] | None = None
    revoked: bool = False


class Board:
    """The state of every block of one version of a file. All methods may be called from any thread.

    A block belongs to nobody or to one run, so that no two threads ever write to the same place. ``proven``: a block
    may be fetched only once its checksum is known. ``find_local`` says whether a digest can be had from local files.
    """

    def __init__(
        self,
        block_map: BlockMap,
        *,
        proven: bool,
        run_bytes: int,
        jobs: int,
        find_local: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.map = block_map
        self.proven = proven
        self._run_bytes, self._jobs, self._find_local = run_bytes, jobs, find_local
        self._states = bytearray(block_map.count)
        self._held: dict[int, bytes] = {}
        self._left = block_map.count
        self._ahead = block_map.count
        self._known = 0
        self._leftovers: dict[int, Run] = {}
        self._damaged_by: dict[int, object] = {}
        self._damaged_not_before = 0.0
        self._runs: set[Run] = set()
        self._revoked: set[int] = set()
        self._finished_rate = (0, 0.0)
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()
        self.learn()

    def hold(self, index: int, digest: bytes) -> bool:
        """Bytes of that SHA-1 are in the block's place; whether they are the right ones, as far as is known now."""
        with self._changed:
            if index >= self.map.count or self._states[index] in {_BUSY, _DONE}:
                return False
            if self._states[index] == _PENDING:
                self._held[index] = digest
                return False
            if self.proven and self.map.digest(index) != digest:
                return False
            self._finish(index)
            return True

    def learn(self) -> list[int]:
        """Look what the map knows by now; returns the blocks of which bytes were held that turn out right."""
        with self._changed:
            fresh = self.map.count - self._known if not self.proven else self.map.known - self._known
            right: list[int] = []
            index = -1
            while fresh > 0 and (index := self._states.find(_PENDING, index + 1)) >= 0:
                digest = self.map.digest(index)
                if digest is None and self.proven:
                    continue
                fresh -= 1
                self._known += 1
                held = self._held.pop(index, None)
                if digest is not None and held == digest:
                    self._finish(index)
                    right.append(index)
                else:
                    self._states[index] = self._open_state(digest)
            self._changed.notify_all()
            return right

    def look_again(self) -> None:
        """Local files have more blocks than before: what was to be fetched may be copied."""
        with self._changed:
            index = -1
            while (index := self._states.find(_WANTED, index + 1)) >= 0:
                self._states[index] = self._open_state(self.map.digest(index))
            self._changed.notify_all()

    def reach(self, ahead: int) -> None:
        """Hand out only blocks below ``ahead``."""
        with self._changed:
            self._ahead = ahead
            self._changed.notify_all()

    def is_done(self, index: int) -> bool:
        """Whether the block is there; a number that no block has counts as if it were."""
        return index >= self.map.count or self._states[index] == _DONE

    def done(self) -> Iterator[int]:
        """Numbers of the blocks that are there, ascending."""
        index = -1
        while (index := self._states.find(_DONE, index + 1)) >= 0:
            yield index

    @property
    def finished(self) -> bool:
        """Whether every block is there."""
        return not self._left

    @property
    def left(self) -> int:
        """Number of blocks that are not there."""
        return self._left

    def take(self, interrupt: Callable[[], None]) -> Run | None:
        """Wait for blocks to do; None when there is nothing more to do, or the board is closed.

        ``interrupt`` is called when the run is to be given back before its end.
        """
        with self._changed:
            self._waiting += 1
            try:
                while not self._closed and self._left:
                    run = self._next_run()
                    if run is not None:
                        run.interrupt = interrupt
                        self._runs.add(run)
                        return run
                    self._changed.wait(self._patience_s())
            finally:
                self._waiting -= 1
            return None

    def settle(self, run: Run) -> None:
        """The first block of the run is there."""
        with self._changed:
            self._finish(run.next)
            self._damaged_by.pop(run.next, None)
            self._advance(run)
            if not self._left or self._ahead < self.map.count:
                self._changed.notify_all()

    def damaged(self, run: Run, wait_s: float) -> None:
        """The first block of the run came damaged: it is handed out again when nothing else is, after ``wait_s``."""
        with self._changed:
            index = run.next
            self._states[index] = _DAMAGED
            self._damaged_by[index] = run.source
            self._damaged_not_before = max(self._damaged_not_before, time.monotonic() + wait_s)
            self._advance(run)
            self._changed.notify_all()

    def release(self, run: Run) -> None:
        """The run is over; what is left of it goes to whoever comes next."""
        with self._changed:
            self._runs.discard(run)
            run.interrupt = None
            if run.received_bytes:
                spent_bytes, spent_s = self._finished_rate
                self._finished_rate = (spent_bytes + run.received_bytes, spent_s + time.monotonic() - run.began)
            for index in range(run.next, run.stop):
                self._states[index] = self._open_state(self.map.digest(index))
            if run.begun_bytes and run.next < run.stop:
                self._leftovers[run.next] = run
            self._changed.notify_all()

    def close(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait until something changes; not for longer than ``timeout_s``."""
        with self._changed:
            if self._left and not self._closed:
                self._changed.wait(timeout_s)

    def revoke_slow(self) -> Run | None:
        """Where threads have nothing to do, interrupt a run that is far slower than the others; which one it was.

        Slow is a connection that was silent for two seconds, or needs for what is left twice as long as a usual one
        and two seconds more. Nothing it has received is lost. No block is taken away twice: the new one may be slow,
        too.
        """
        with self._changed:
            if not self._waiting or self._closed:
                return None
            now = time.monotonic()
            usual_bytes, usual_s = self._finished_rate
            for run in self._runs:
                if run.local or run.revoked or run.next in self._revoked or run.interrupt is None:
                    continue
                left_bytes = self.map.span(run.stop - 1)[1] + 1 - self.map.span(run.next)[0] - run.begun_bytes
                if _is_slow(run, now, left_bytes=left_bytes, usual_rate=usual_bytes / usual_s if usual_s else 0.0):
                    run.revoked = True
                    self._revoked.add(run.next)
                    run.interrupt()
                    return run
            return None

    def _next_run(self) -> Run | None:
        index = self._find(_WANTED)
        copying = sum(run.local for run in self._runs)
        if index is None or copying < max(1, self._jobs // 2):  # the network need not wait for all copies
            local = self._find(_LOCAL)
            if local is not None:
                self._states[local] = _BUSY
                return Run(local, local + 1, local=True)
        if index is None and time.monotonic() >= self._damaged_not_before:
            index = self._find(_DAMAGED)
        if index is None:
            return None
        stop = index + 1
        if self._states[index] == _WANTED:
            limit = min(self.map.count, self._ahead, index + self._run_blocks())
            while stop < limit and self._states[stop] == _WANTED and stop not in self._leftovers:
                stop += 1
        self._states[index:stop] = bytes([_BUSY]) * (stop - index)
        run = Run(index, stop, avoid=self._damaged_by.get(index))
        begun = self._leftovers.pop(index, None)
        if begun is not None:
            run.hasher, run.begun_bytes, run.source = begun.hasher, begun.begun_bytes, begun.source
        return run

    def _run_blocks(self) -> int:
        """A share of what is left: runs get shorter towards the end, so that all threads end together."""
        share = self._left * self.map.block_bytes // self._jobs
        return max(1, min(self._run_bytes, share) // self.map.block_bytes)

    def _find(self, state: int) -> int | None:
        index = self._states.find(state, 0, self._ahead)
        return None if index < 0 else index

    def _patience_s(self) -> float | None:
        """How long a thread without work may sleep: damaged blocks are handed out later by the clock alone."""
        if self._find(_DAMAGED) is None:
            return None
        return max(0.01, self._damaged_not_before - time.monotonic())

    def _open_state(self, digest: bytes | None) -> int:
        local = digest is not None and self._find_local is not None and self._find_local(digest)
        return _LOCAL if local else _WANTED

    def _finish(self, index: int) -> None:
        self._states[index] = _DONE
        self._left -= 1

    @staticmethod
    def _advance(run: Run) -> None:
        run.next += 1
        run.hasher, run.begun_bytes = None, 0


def _is_slow(run: Run, now: float, *, left_bytes: int, usual_rate: float) -> bool:
    if now - run.heard >= _SLOW_S:
        return True
    age_s = now - run.began
    if age_s < _SLOW_S or not usual_rate or not run.received_bytes:
        return False
    return left_bytes * age_s / run.received_bytes > _SLOW_TIMES * left_bytes / usual_rate + _SLOW_S
