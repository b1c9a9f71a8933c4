"""Warm boxes: made ahead, used once."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from pathlib import Path

from gateway_core.errors import ConfigError, StartupError
from gateway_core.observe.logs import get_logger
from gateway_transform.box.wire import WireError
from gateway_transform.work.zygote import Box, Catalogue, Zygote, ZygoteLost, ZygotePlan

log = get_logger("gateway.transform")

_READY_S = 30.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


class NoBox(Exception):
    """No box can be had now."""


class BoxPool:
    """Keeps ``size`` boxes ready while it runs; a zygote that dies is replaced.

    ``start``, then ``fill`` with the folder below which boxes have theirs.
    """

    def __init__(self, plan: ZygotePlan, *, size: int) -> None:
        self._plan = plan
        self._folder = Path()
        self._size = size
        self._zygote: Zygote | None = None
        self._ready: deque[Box] = deque()
        self._arrived = asyncio.Condition()
        self._wanted = asyncio.Event()
        self._preloaded: tuple[str, ...] = ()
        self._discarding: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def catalogue(self) -> Catalogue:
        """What the running zygote found; raises NoBox while there is none."""
        return self._running().catalogue

    async def start(self) -> Catalogue:
        """Start the zygote; raises ConfigError, StartupError."""
        self._zygote = await Zygote.start(self._plan)
        return self._zygote.catalogue

    def fill(self, folder: Path) -> None:
        """Begin to make boxes in ``folder``; where there are no namespaces, their user must get through to it."""
        self._folder = folder
        self._keeper = asyncio.create_task(self._keep(), name="warm boxes")

    async def stop(self) -> None:
        """End all boxes and the zygote; a second time is nothing."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        zygote = self._zygote
        if zygote is not None:
            await zygote.stop()
            while self._ready:
                self.discard(self._ready.popleft())
        if self._discarding:
            await asyncio.wait(self._discarding)

    async def take(self, *, network: bool = False) -> Box:
        """A ready box, for this caller alone, who gives it to ``discard``; raises NoBox."""
        if network or not self._size:
            return await self._make(network=network)
        try:
            async with asyncio.timeout(_READY_S), self._arrived:
                while (box := self._next()) is None:
                    self._wanted.set()
                    await self._arrived.wait()
        except TimeoutError as error:
            raise NoBox(f"no sandbox was ready within {_READY_S:g} s") from error
        if not self._ready:
            self._wanted.set()
        return box

    async def kill(self, box: Box) -> None:
        """End all that runs in a box; its files stay."""
        if self._zygote is not None:
            await self._zygote.kill(box)

    def discard(self, box: Box) -> None:
        """End a box, in the background; its folder goes with it. Another one is made now, not beside its job."""
        if self._zygote is None:
            return
        self._wanted.set()
        task = asyncio.create_task(self._zygote.discard(box), name="discard a box")
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def preload(self, modules: tuple[str, ...]) -> None:
        """Have ``modules`` loaded in boxes made from now on; the warm ones are replaced."""
        new = tuple(name for name in modules if name not in self._preloaded)
        if not new or self._zygote is None:
            return
        self._preloaded += new
        try:
            await self._zygote.preload(new)
        except ZygoteLost:
            return
        while self._ready:
            self.discard(self._ready.popleft())

    def _next(self) -> Box | None:
        """A warm box that still lives."""
        while self._ready:
            box = self._ready.popleft()
            if not box.exited.done():
                return box
            self.discard(box)
        return None

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._restart_if_lost()
                await self._fill()
                await self._something_to_do()
            except (NoBox, ConfigError, StartupError, OSError) as error:
                log.warning("no sandboxes", error=str(error), again_in_s=pause_s)
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("no sandboxes", again_in_s=pause_s)
            else:
                pause_s = _FIRST_PAUSE_S
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _restart_if_lost(self) -> None:
        if not self._running_lost():
            return
        log.error("the process that makes sandboxes has died")
        if self._zygote is not None:
            await self._zygote.stop()
        for box in self._ready:
            self.discard(box)
        self._ready.clear()
        self._preloaded = ()  # one of them may be what ended it: jobs that need them ask again
        self._zygote = await Zygote.start(self._plan)

    async def _fill(self) -> None:
        self._wanted.clear()
        missing = range(self._size - len(self._ready))
        outcomes = await asyncio.gather(*(self._add() for _ in missing), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _add(self) -> None:
        box = await self._make()
        async with self._arrived:
            self._ready.append(box)
            self._arrived.notify_all()  # one that is woken while it is cancelled would keep it from the others

    async def _something_to_do(self) -> None:
        waiting = [asyncio.create_task(event.wait()) for event in (self._wanted, self._running().lost)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _make(self, *, network: bool = False) -> Box:
        """A new box that has said that it is ready; raises NoBox."""
        zygote = self._running()
        try:
            box = await zygote.spawn(self._folder / uuid.uuid4().hex, network=network)
        except ZygoteLost as error:
            raise NoBox("the process that makes sandboxes is away") from error
        except OSError as error:
            raise NoBox(f"no sandbox could be made: {error.strerror}") from error
        try:
            async with asyncio.timeout(_READY_S):
                message = await box.channel.receive()
            if message is None or message["type"] != "ready":
                raise NoBox(f"a sandbox could not be made: {(message or {}).get('message', 'it ended')}")
        except (TimeoutError, OSError, WireError) as error:
            self.discard(box)
            raise NoBox("a sandbox did not become ready") from error
        except BaseException:
            self.discard(box)
            raise
        return box

    def _running(self) -> Zygote:
        if self._zygote is None:
            raise NoBox("the process that makes sandboxes is not there yet")
        return self._zygote

    def _running_lost(self) -> bool:
        return self._zygote is None or self._zygote.lost.is_set()
