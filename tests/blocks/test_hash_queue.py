"""The order in which blocks, whole-file passes and ends of jobs are handed out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.files.identity import Identity
from gateway_blocks.sums.jobs import HashJob
from gateway_blocks.sums.layout import BlockLayout
from gateway_blocks.sums.queue import PREFERRED_LIMIT, BlockTask, EndTask, HashQueue, StepTask

BLOCKS = 1000


def job(key: str, todo: Iterable[int] = range(BLOCKS), *, full: bool = False) -> HashJob:
    """A job on a file of 1,000 blocks that nobody will read."""
    return HashJob(key, -1, Identity(0, 0, BLOCKS, 0, 0), BlockLayout(BLOCKS, 1), todo, full=full)


def name(task: BlockTask | StepTask | EndTask | None) -> str:
    """``a3``: block 3 of job a; ``a+``: a step of its pass; ``a.``: its end; nothing for no task."""
    match task:
        case BlockTask(active, index):
            return f"{active.job.key}{index}"
        case StepTask(active):
            return f"{active.job.key}+"
        case EndTask(active):
            return f"{active.job.key}."
        case _:
            return ""


def run(queue: HashQueue, limit: int = 100, *, steps: int = 1) -> str:
    """Names of the tasks as one thread does them; a pass is done after ``steps`` steps."""
    names, taken = [], Counter()
    while len(names) < limit and (task := queue.take()) is not None:
        names.append(name(task))
        if isinstance(task, StepTask):
            assert task.active.whole is not None
            taken[task.active.job.key] += 1
            task.active.whole.done = taken[task.active.job.key] == steps
        if not isinstance(task, EndTask):
            queue.settle(task)
    return " ".join(names)


def queue_of(*jobs: HashJob) -> HashQueue:
    queue = HashQueue()
    for one in jobs:
        queue.submit(one)
    return queue


def test_blocks_come_in_order_and_the_end_after_them():
    assert run(queue_of(job("a", [2, 3, 5]))) == "a2 a3 a5 a."


def test_jobs_take_turns_block_by_block():
    queue = queue_of(job("a", range(4)), job("b", [7, 8]), job("c", [9]))
    assert run(queue) == "a0 b7 c9 a1 b8 c. a2 b. a3 a."


def test_a_job_that_comes_later_has_its_turn_at_once():
    queue = queue_of(job("a", range(4)))
    assert run(queue, 2) == "a0 a1"
    queue.submit(job("b", [5]))
    assert run(queue) == "a2 b5 a3 b. a."


def test_preferred_blocks_come_first_and_only_once():
    queue = queue_of(job("a", range(6)))
    assert run(queue, 1) == "a0"
    queue.prefer("a", [4, 2, 4, 0])
    assert run(queue) == "a4 a2 a1 a3 a5 a."


def test_preferred_blocks_do_not_take_another_job_s_turn():
    queue = queue_of(job("a", range(4)), job("b", range(2)))
    queue.prefer("a", [3, 2])
    assert run(queue) == "a3 b0 a2 b1 a0 b. a1 a."


def test_preferring_blocks_that_were_handed_out_changes_nothing():
    queue = queue_of(job("a", range(5)))
    assert run(queue, 3) == "a0 a1 a2"
    queue.prefer("a", [0, 1, 2])
    assert run(queue) == "a3 a4 a."
    queue.prefer("a", [3])
    assert queue.take() is None


def test_blocks_that_the_file_does_not_have_cannot_be_preferred():
    queue = queue_of(job("a", [0]))
    queue.prefer("a", [-1, BLOCKS, 1 << 70])
    assert run(queue) == "a0 a."


def test_preferred_blocks_are_bounded():
    queue = queue_of(job("a", [0]))
    queue.prefer("a", range(1, BLOCKS))
    queue.prefer("a", range(1, BLOCKS))
    assert PREFERRED_LIMIT < 2 * (BLOCKS - 1)
    assert len(queue.take().active._preferred) == PREFERRED_LIMIT - 1


@given(
    todo=st.sets(st.integers(0, 40)).map(sorted),
    wishes=st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(-3, 45), max_size=5)), max_size=6),
)
def test_every_block_is_handed_out_once_whatever_is_preferred(todo, wishes):
    one = HashJob("a", -1, Identity(0, 0, 41, 0, 0), BlockLayout(41, 1), todo, full=False)
    queue = queue_of(one)
    handed = []
    for turn in count():
        for at, indices in wishes:
            if at == turn:
                queue.prefer("a", indices)
        task = queue.take()
        if isinstance(task, EndTask):
            break
        handed.append(task.index)
        queue.settle(task)
    preferred = {index for _, indices in wishes for index in indices if 0 <= index < 41}
    assert len(set(handed)) == len(handed)
    assert set(todo) <= set(handed) <= set(todo) | preferred


def test_todo_is_consumed_block_by_block():
    seen = []
    queue = queue_of(job("a", (seen.append(index) or index for index in range(BLOCKS))))
    assert run(queue, 3) == "a0 a1 a2"
    assert seen == [0, 1, 2]


def test_a_pass_over_the_whole_file_waits_until_all_its_blocks_are_settled():
    queue = queue_of(job("a", [0, 1], full=True))
    first, second = queue.take(), queue.take()
    assert queue.take() is None
    queue.settle(second)
    assert queue.take() is None
    queue.settle(first)
    assert run(queue, steps=2) == "a+ a+ a."


def test_a_pass_over_the_whole_file_is_one_step_at_a_time():
    queue = queue_of(job("a", [], full=True))
    step = queue.take()
    assert name(step) == "a+"
    assert queue.take() is None
    queue.settle(step)
    assert name(queue.take()) == "a+"


def test_passes_take_turns():
    queue = queue_of(job("a", [], full=True), job("b", [], full=True))
    assert run(queue, steps=3) == "a+ b+ a+ b+ a+ a. b+ b."


def test_blocks_of_any_job_come_before_steps_of_a_pass():
    queue = queue_of(job("a", [], full=True))
    assert run(queue, 2, steps=9) == "a+ a+"
    queue.submit(job("b", [1, 2]))
    assert run(queue, 4, steps=9) == "b1 b2 b. a+"


def test_the_end_waits_for_what_is_in_hand():
    queue = queue_of(job("a", [0, 1]))
    first, second = queue.take(), queue.take()
    queue.settle(first)
    assert queue.take() is None
    queue.settle(second)
    assert name(queue.take()) == "a."
    assert queue.take() is None


def test_a_dropped_job_ends_without_its_other_blocks():
    queue = queue_of(job("a"), job("b", [5]))
    first = queue.take()
    queue.drop("a")
    assert first.active.given_up
    assert name(queue.take()) == "b5"
    queue.settle(first)
    assert name(queue.take()) == "a."


@pytest.mark.parametrize("steps", [0, 1])
def test_a_job_dropped_in_its_pass_ends(steps):
    queue = queue_of(job("a", [], full=True))
    run(queue, steps, steps=9)
    queue.drop("a")
    assert run(queue) == "a."


def test_a_job_dropped_while_a_step_is_in_hand_ends_after_it():
    queue = queue_of(job("a", [], full=True))
    step = queue.take()
    queue.drop("a")
    assert queue.take() is None
    queue.settle(step)
    assert run(queue) == "a."


def test_a_job_ends_once_however_often_it_is_dropped():
    queue = queue_of(job("a", [0]))
    task = queue.take()
    queue.drop("a")
    queue.drop("a")
    queue.settle(task, FileChanged())
    queue.drop("a")
    end = queue.take()
    assert (name(end), end.active.error) == ("a.", None)
    queue.drop("a")
    assert queue.take() is None


def test_a_job_that_is_dropped_when_it_is_done_ends_once():
    queue = queue_of(job("a", [], full=True))
    step = queue.take()
    step.active.whole.done = True
    queue.settle(step)
    queue.drop("a")
    assert run(queue) == "a."


def test_dropping_all_ends_every_job():
    queue = queue_of(job("a"), job("b", [], full=True), job("c", []))
    queue.drop_all()
    assert sorted(run(queue).split()) == ["a.", "b.", "c."]


def test_an_error_ends_the_job_and_is_the_one_that_is_told():
    queue = queue_of(job("a", full=True), job("b", [5]))
    first, _, second = queue.take(), queue.take(), queue.take()
    fault = FileChanged("first")
    queue.settle(first, fault)
    assert second.active.given_up
    queue.settle(second, FileChanged("second"))
    end = queue.take()
    assert (name(end), end.active.error) == ("a.", fault)


def test_what_is_asked_of_no_job_is_nothing():
    queue = HashQueue()
    queue.prefer("a", [1])
    queue.drop("a")
    assert queue.take() is None


def test_a_key_is_free_again_after_the_end():
    queue = queue_of(job("a", [0]))
    with pytest.raises(ValueError, match="has not ended"):
        queue.submit(job("a", [1]))
    assert run(queue) == "a0 a."
    queue.submit(job("a", [1]))
    assert run(queue) == "a1 a."
