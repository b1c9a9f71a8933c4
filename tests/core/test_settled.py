from __future__ import annotations

import asyncio
import threading

import pytest

from gateway_core.settled import settled


async def test_work_that_ends_by_itself_gives_its_result_or_its_error() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    assert await settled(asyncio.sleep(0, 7)) == 7
    with pytest.raises(ZeroDivisionError):
        await settled(fail())


async def test_work_is_done_before_a_cancellation_is_raised() -> None:
    begun, may_end, done = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.append(1)

    waiting = asyncio.create_task(settled(work()))
    await begun.wait()
    waiting.cancel()
    asyncio.get_running_loop().call_soon(may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == [1]


async def test_a_thread_that_is_hurried_has_ended_before_a_cancellation_is_raised() -> None:
    loop, begun, hurried, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), []

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        ended.append(hurried.wait(20))

    waiting = asyncio.create_task(settled(asyncio.to_thread(work), hurry=hurried.set))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [True]


async def test_an_error_after_a_cancellation_is_its_cause() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        begun.set()
        await may_end.wait()
        raise ZeroDivisionError

    waiting = asyncio.create_task(settled(fail(), hurry=may_end.set))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
