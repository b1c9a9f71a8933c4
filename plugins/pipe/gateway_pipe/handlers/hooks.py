"""Handlers are told what happens to links: one hook after the other, in the order in which things happened."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway_core.observe.logs import get_logger
from gateway_pipe.handlers.load import Handlers, is_asynchronous
from gateway_pipe.handlers.threads import Threads

log = get_logger("gateway.pipe")
_WAITING = 1000
_LONGEST_S = 60.0
_STOP_S = 10.0
_Hook = Callable[..., Any]


class Hooks:
    """Calls them; what they raise is logged, and one that takes longer than a minute is no longer waited for."""

    def __init__(self, handlers: Handlers, threads: Threads) -> None:
        self._hooks = handlers.hooks
        self._threads = threads
        self._queue: asyncio.Queue[tuple[str, tuple[Any, ...]] | None] = asyncio.Queue(_WAITING)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Call ``start_hook``, then take what ``notify`` gives."""
        await self._call("start_hook", (), _LONGEST_S)
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Call what still waits, within 10 s, then ``stop_hook``."""
        if self._task is not None:
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._queue.put(None)
                    await asyncio.shield(self._task)
            except TimeoutError:
                log.warning("handlers' hooks did not end in time")
            finally:
                self._task.cancel()
                await asyncio.wait({self._task})
            self._task = None
        await self._call("stop_hook", (), _STOP_S)

    def notify(self, name: str, *args: Any) -> None:
        """Have the hooks ``name`` called; a hook that takes fewer arguments gets the first ones. Never waits.

        Beyond 1,000 that wait, the new one is dropped and logged.
        """
        if name in self._hooks:
            try:
                self._queue.put_nowait((name, args))
            except asyncio.QueueFull:
                log.warning("a hook of handlers was not called: too many wait", hook=name)

    async def _work(self) -> None:
        while (waiting := await self._queue.get()) is not None:
            await self._call(*waiting, _LONGEST_S)

    async def _call(self, name: str, args: tuple[Any, ...], longest_s: float) -> None:
        for hook in self._hooks.get(name, ()):
            try:
                async with asyncio.timeout(longest_s):
                    await self._run(partial(hook, *_fitting(hook, args)), asynchronous=is_asynchronous(hook))
            except (Exception, SystemExit):
                log.exception("a hook of handlers failed", hook=name)

    async def _run(self, call: Callable[[], Any], *, asynchronous: bool) -> None:
        result = call() if asynchronous else await asyncio.shield(self._threads.submit(call))
        if inspect.isawaitable(result):
            await result


def _fitting(hook: _Hook, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """As many of ``args`` as ``hook`` takes; all where none would do, so that the error tells it."""
    signature = inspect.signature(hook)
    for count in range(len(args), -1, -1):
        try:
            signature.bind(*args[:count])
        except TypeError:
            continue
        return args[:count]
    return args
