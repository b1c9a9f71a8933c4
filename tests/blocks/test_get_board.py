"""Who gets which blocks, in what order, and when they are taken away."""

from __future__ import annotations

import threading

import pytest

from gateway_blocks.get.board import Board, Run
from gateway_blocks.get.model import Options, Unreachable
from gateway_blocks.get.plain import PlainMap
from gateway_blocks.get.session import Halt, Tries

BLOCK = 1000


class Known:
    """A map with digests of the numbers in ``told``."""

    def __init__(self, count: int, told: set[int]) -> None:
        self._layout = PlainMap(count * BLOCK, BLOCK)
        self.told = told
        self.size_bytes, self.block_bytes, self.count = count * BLOCK, BLOCK, count
        self.span = self._layout.span

    @property
    def known(self) -> int:
        return len(self.told)

    def digest(self, index: int) -> bytes | None:
        return bytes([index]) * 20 if index in self.told else None


def board(count: int, told: set[int] | None = None, *, jobs: int = 1, run: int = 1 << 20, local=None) -> Board:
    known = Known(count, set(range(count)) if told is None else told)
    return Board(known, proven=True, run_bytes=run, jobs=jobs, find_local=local)


def nothing() -> None:
    """An interrupt that nobody feels."""


def take(board: Board) -> Run:
    run = board.take(nothing)
    assert run is not None
    return run


def blocks(run: Run) -> list[int]:
    return list(range(run.next, run.stop))


def settle(board: Board, run: Run) -> None:
    while run.next < run.stop:
        board.settle(run)
    board.release(run)


def test_adjacent_blocks_are_one_run_up_to_its_size():
    it = board(10, run=4 * BLOCK)
    assert blocks(take(it)) == [0, 1, 2, 3]
    assert blocks(take(it)) == [4, 5, 6, 7]


def test_a_run_is_at_least_one_block():
    assert blocks(take(board(10, run=1))) == [0]


def test_every_thread_gets_a_share():
    assert blocks(take(board(10, jobs=5))) == [0, 1]


def test_blocks_without_checksum_are_not_handed_out_until_it_is_known():
    told = {0, 1, 4}
    it = board(5, told)
    assert blocks(take(it)) == [0, 1]
    assert blocks(take(it)) == [4]
    told.update({2, 3})
    it.learn()
    assert blocks(take(it)) == [2, 3]


def test_held_blocks_are_judged_when_their_checksum_comes():
    told: set[int] = set()
    it = board(2, told)
    it.hold(0, bytes([0]) * 20)
    it.hold(1, b"x" * 20)
    told.update({0, 1})
    assert it.learn() == [0]
    assert blocks(take(it)) == [1]


def test_blocks_that_are_there_are_done():
    it = board(3)
    assert it.hold(1, bytes([1]) * 20)
    assert not it.hold(2, b"x" * 20)
    assert list(it.done()) == [1]
    assert blocks(take(it)) == [0]
    assert blocks(take(it)) == [2]


def test_the_rest_of_a_run_goes_to_the_next_one():
    it = board(4)
    run = take(it)
    it.settle(run)
    it.release(run)
    assert blocks(take(it)) == [1, 2, 3]


def test_a_block_begun_is_gone_on_with():
    it = board(4)
    run = take(it)
    run.begun_bytes, run.source = 300, "source"
    it.release(run)
    again = take(it)
    assert (again.next, again.begun_bytes, again.source) == (0, 300, "source")


def test_damaged_blocks_come_last_and_from_elsewhere():
    it = board(3)
    run = take(it)
    run.source = "liar"
    it.damaged(run, 0.0)
    it.release(run)
    assert blocks(take(it)) == [1, 2]
    again = take(it)
    assert (blocks(again), again.avoid) == ([0], "liar")


def test_no_thread_waits_for_more_than_there_is():
    it = board(1)
    settle(it, take(it))
    assert it.take(nothing) is None
    assert it.finished


def test_a_closed_board_hands_out_nothing():
    it = board(1)
    it.close()
    assert it.take(nothing) is None


def test_only_blocks_within_reach_are_handed_out():
    it = board(10)
    it.reach(3)
    assert blocks(take(it)) == [0, 1, 2]
    it.reach(5)
    assert blocks(take(it)) == [3, 4]


def test_what_local_files_have_is_copied():
    it = board(3, local=lambda digest: digest == bytes([1]) * 20)
    first = take(it)
    assert (blocks(first), first.local) == ([1], True)
    assert blocks(take(it)) == [0]


def test_what_could_not_be_copied_is_fetched():
    has = {bytes([0]) * 20}
    it = board(1, local=has.__contains__)
    run = take(it)
    has.clear()
    it.release(run)
    assert not take(it).local


def test_without_checksums_every_block_is_wanted():
    it = Board(PlainMap(3 * BLOCK, BLOCK), proven=False, run_bytes=1 << 20, jobs=1)
    assert blocks(take(it)) == [0, 1, 2]


class Idle:
    """A thread that waits for a run."""

    def __init__(self, it: Board) -> None:
        self.run: Run | None = None
        self._thread = threading.Thread(target=self._take, args=(it,))
        self._thread.start()
        while not it._waiting:
            pass

    def _take(self, it: Board) -> None:
        self.run = it.take(nothing)

    def taken(self) -> Run | None:
        self._thread.join()
        return self.run


def test_a_silent_run_is_revoked_if_somebody_is_idle():
    it = board(2)
    halted = threading.Event()
    run = it.take(halted.set)
    run.heard -= 10
    assert it.revoke_slow() is None
    idle = Idle(it)
    assert it.revoke_slow() is run
    assert halted.is_set()
    it.release(run)
    assert blocks(idle.taken()) == [0, 1]


def test_a_run_that_gets_on_is_left_alone():
    it = board(2)
    run = take(it)
    idle = Idle(it)
    assert it.revoke_slow() is None
    it.release(run)
    idle.taken()


def test_a_run_much_slower_than_usual_is_revoked():
    it = board(8, run=4 * BLOCK)
    quick, slow = take(it), take(it)
    quick.received_bytes, quick.began = 4 * BLOCK, quick.began - 1
    settle(it, quick)
    slow.received_bytes, slow.began = 10, slow.began - 10
    idle = Idle(it)
    assert it.revoke_slow() is slow
    it.release(slow)
    idle.taken()


def test_a_block_is_not_taken_away_twice():
    it = board(2)
    run = take(it)
    run.heard -= 10
    idle = Idle(it)
    it.revoke_slow()
    it.release(run)
    again = idle.taken()
    again.heard -= 10
    idle = Idle(it)
    assert it.revoke_slow() is None
    it.close()
    assert idle.taken() is None


def test_threads_that_fail_together_fail_once():
    tries = Tries(Options(tries=2))
    error = Unreachable("gone")
    tries.failed(error, 0.0)
    tries.failed(error, 0.0)
    with pytest.raises(Unreachable):
        tries.failed(error, float("inf"))


def test_progress_breaks_a_row_of_failures():
    tries = Tries(Options(tries=2))
    tries.failed(Unreachable("gone"), 0.0)
    tries.progress()
    tries.failed(Unreachable("gone"), float("inf"))


def test_waits_grow_up_to_their_cap():
    tries = Tries(Options(retry_base_s=1.0, retry_cap_s=5.0))
    assert all(tries.wait_s(1) <= 1.0 for _ in range(50))
    assert 2.0 < max(tries.wait_s(1000) for _ in range(200)) <= 5.0


def test_the_whole_stop_ends_every_wait():
    whole = threading.Event()
    halt = Halt(whole)
    threading.Timer(0.01, whole.set).start()
    assert halt.wait(10)
    assert halt.is_set()


def test_one_halt_does_not_stop_the_others():
    whole = threading.Event()
    Halt(whole).set()
    assert not Halt(whole).wait(0.01)
