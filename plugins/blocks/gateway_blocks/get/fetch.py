"""The threads that fetch: each takes a run of adjacent blocks, asks for it in one request, and proves every block."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from typing import Protocol

from gateway_blocks.get.board import Board, Run, length_of
from gateway_blocks.get.connection import Answer, Busy, HttpClient
from gateway_blocks.get.mirrors import Mirrors, Source
from gateway_blocks.get.model import GetError, NotThere, Stopped, Unreachable
from gateway_blocks.get.remote import NoRanges, VersionChanged, fetch_range
from gateway_blocks.get.session import Halt, Session
from gateway_blocks.get.watch import Reporter

_PIECE_BYTES = 256 << 10
_GLANCE_S = 0.1
_LAST_WAIT_S = 5.0


class Sink(Protocol):
    """Where blocks go."""

    def write(self, offset: int, piece: memoryview) -> None:
        """Put bytes in their place; they count for nothing until ``keep``."""

    def keep(self, index: int, digest: bytes) -> None:
        """The block, of that SHA-1, is in place and right."""

    def confirm(self, index: int) -> None:
        """Of the block's bytes, which were in place before, it is known now that they are right."""

    def check(self) -> None:
        """Raise what went wrong aside."""


class Copier(Protocol):
    """Has blocks already: copies one of that SHA-1 to ``target_at``; False where it could not."""

    def __call__(self, digest: bytes, *, count: int, target_at: int) -> bool:
        """Do it."""


class Crew:
    """Threads that do all the board has to do, and the first thing that ends them early."""

    def __init__(
        self, session: Session, board: Board, sink: Sink, *, mirrors: Mirrors, copier: Copier | None = None
    ) -> None:
        self.session, self.board, self.sink = session, board, sink
        self.mirrors, self.copier = mirrors, copier
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._halts: list[threading.Event] = []
        self._reporter: Reporter | None = None
        self._ended = False

    def run(self) -> None:
        """Work until every block is there; raises what went wrong first, Stopped once the caller wants it."""
        try:
            for _ in range(min(max(1, self.session.options.jobs), self.board.left)):
                worker = _Worker(self)
                self.join_in(worker, worker.halt)
            while not self.board.finished and self._error is None:
                self.session.check()
                self.sink.check()
                self.board.wait(_GLANCE_S)
                slow = self.board.revoke_slow()
                if slow is not None and isinstance(slow.source, Source):
                    self.session.remark(f"{slow.source.host} is slow on one connection; its blocks go to another one")
        finally:
            self._end()
        if self._error is not None:
            raise self._error

    def join_in(self, thread: threading.Thread, halt: threading.Event) -> None:
        """Start a thread that belongs to the crew; ``halt`` ends it."""
        self._halts.append(halt)
        self._threads.append(thread)
        thread.start()

    def fail(self, error: BaseException) -> None:
        """Something ends the whole; only the first counts, and nothing that comes of the end itself."""
        with self._lock:
            if self._error is None and not self._ended:
                self._error = error
        self.board.close()

    def came_damaged(self, index: int, source: Source) -> float:
        """A block came with another SHA-1 than told; returns how long to wait before it is asked for again."""
        times = self.session.came_damaged(index)
        self.session.remark(f"block {index} came damaged from {source.host}; it is fetched again")
        if source.first:
            self._report(index, source.url)
        self.mirrors.lied(source)
        return self.session.tries.wait_s(times)

    def _report(self, index: int, url: str) -> None:
        with self._lock:
            if self._ended:
                return
            if self._reporter is None:
                self._reporter = Reporter(self.session, url, self.fail)
                self.join_in(self._reporter, self._reporter.halt)
            self._reporter.report(index)

    def _end(self) -> None:
        self.board.close()
        with self._lock:
            self._ended = True
            if self._reporter is not None:
                self._reporter.end()
        for halt in self._halts:
            halt.set()
        until = time.monotonic() + _LAST_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


class _Worker(threading.Thread):
    """One connection at a time, one buffer."""

    def __init__(self, crew: Crew) -> None:
        super().__init__(name="fetch", daemon=True)
        self.halt = Halt(crew.session.stop)
        self._crew = crew
        self._session, self._board, self._sink = crew.session, crew.board, crew.sink
        self._piece_bytes = min(_PIECE_BYTES, crew.session.limit.piece_bytes)
        self._buffer = memoryview(bytearray(self._piece_bytes))
        self._row = 0

    def run(self) -> None:
        try:
            with self._session.client(self.halt) as client:
                while (run := self._board.take(self.halt.set)) is not None:
                    wait_s = self._do(client, run)
                    if wait_s > 0:
                        client.pause(wait_s)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for all
            self._crew.fail(error)

    def _do(self, client: HttpClient, run: Run) -> float:
        """Do what can be done of the run; returns how long to wait before the next one."""
        try:
            if run.local:
                self._copy(run)
                return 0.0
            return self._fetch(client, run)
        except Stopped:
            if not run.revoked:
                raise
            return 0.0
        finally:
            self._board.release(run)
            if run.revoked:
                self.halt.clear()

    def _copy(self, run: Run) -> None:
        index, block_map = run.next, self._board.map
        digest, count = block_map.digest(index), length_of(block_map, index)
        if digest is None or self._crew.copier is None:
            return
        if self._crew.copier(digest, count=count, target_at=block_map.span(index)[0]):
            self._sink.keep(index, digest)
            self._board.settle(run)
            self._session.gained(count)

    def _fetch(self, client: HttpClient, run: Run) -> float:
        began = time.monotonic()
        source = self._crew.mirrors.choose(run.avoid)
        before = run.next
        damage: Unreachable | None = None
        try:
            if source.not_before > began:
                return source.not_before - began
            damage = self._request(client, run, source)
            self._row = 0
        except (NotThere, NoRanges) as error:
            self._crew.mirrors.drop(source, error)
        except VersionChanged as error:
            if source.first:
                raise
            self._crew.mirrors.drop(source, error)
        except Unreachable as error:
            self._row = 1 if run.next > before else self._row + 1
            return self._failed(source, error, began)
        finally:
            self._crew.mirrors.release(source, run.received_bytes, time.monotonic() - began)
        if damage is not None:
            self._session.tries.failed(damage, began)
        return 0.0

    def _failed(self, source: Source, error: GetError, began: float) -> float:
        wait_s = self._session.retry_wait_s(error, began, self._row)
        asked = isinstance(error, Busy) and error.retry_after_s is not None
        return self._crew.mirrors.failed(source, wait_s, asked=asked)

    def _request(self, client: HttpClient, run: Run, source: Source) -> Unreachable | None:
        """Ask for the run and go through it; what there is to say of the last block that came damaged."""
        damage: Unreachable | None = None
        if run.source is not source:  # what one source began is not gone on with by another: who would be the liar?
            run.source, run.hasher, run.begun_bytes = source, None, 0
        first = self._board.map.span(run.next)[0] + run.begun_bytes
        last = self._board.map.span(run.stop - 1)[1]
        with fetch_range(client, source.url, first=first, last=last, version=source.version()) as answer:
            while run.next < run.stop:
                index = run.next
                if not self._block(run, answer, source):
                    damage = Unreachable(f"block {index} comes damaged from {source.host}, again and again")
            answer.readinto(self._buffer)  # its end, so that the connection can be kept
        return damage

    def _block(self, run: Run, answer: Answer, source: Source) -> bool:
        """Receive the first block of the run; whether it was right."""
        index = run.next
        start, last = self._board.map.span(index)
        hasher = run.hasher = run.hasher or hashlib.sha1(usedforsecurity=False)
        while (offset := start + run.begun_bytes) <= last:
            piece = self._receive(run, answer, last + 1 - offset)
            hasher.update(piece)
            self._sink.write(offset, piece)
            run.begun_bytes += len(piece)
        digest = hasher.digest()
        if self._board.proven and digest != self._board.map.digest(index):
            self._board.damaged(run, self._crew.came_damaged(index, source))
            return False
        self._sink.keep(index, digest)
        self._crew.mirrors.vouch(source)
        self._board.settle(run)
        self._session.gained(last + 1 - start, fetched=True)
        return True

    def _receive(self, run: Run, answer: Answer, most: int) -> memoryview:
        """A buffer full, or ``most`` bytes: few large ones are hashed and written faster than many small ones."""
        piece = self._buffer[: min(most, self._piece_bytes)]
        done = 0
        while done < len(piece):
            got = answer.readinto(piece[done:])
            if not got:
                raise Unreachable("the body ended early")
            done += got
            run.received_bytes += got
            run.heard = math.inf  # a wait for the rate limit is not the server's silence
            self._session.limit.take(got, self.halt)
            run.heard = time.monotonic()
        return piece
