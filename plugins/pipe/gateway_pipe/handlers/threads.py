"""Threads for what blocks: handlers' plain methods. None of them keeps the process from ending."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Work = Callable[[], None]


class Threads:
    """As many threads as there was work for at once; whoever submits bounds that.

    A thread that a handler never gives back is left behind at the end, unlike those of ThreadPoolExecutor, which the
    interpreter waits for.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run ``work`` in a thread, with this task's context; the future cannot be cancelled to any effect."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            outcome: tuple[T | None, BaseException | None]
            try:
                outcome = context.run(work), None
            except BaseException as exc:  # noqa: BLE001 - it goes to whoever waits for the future
                outcome = None, exc
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, *outcome)

        self._work.put(run)
        if not self._idle.acquire(blocking=False):
            self._count += 1
            threading.Thread(target=self._run, name=f"{self._prefix}-{self._count}", daemon=True).start()
        return future

    def stop(self) -> None:
        """Let the threads end when they have nothing to do; the work that was submitted is done."""
        for _ in range(self._count):
            self._work.put(None)
        self._count = 0

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # its result must not live until the next comes
            self._idle.release()


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, StopIteration):  # no future takes it
        stopped = RuntimeError("StopIteration was raised")
        stopped.__cause__ = error
        error = stopped
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
        error = None
