"""What hashing a file takes, whatever of it is hashed: the file itself, the threads, the claim, tasks with an owner."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.files.root import OpenFile, Root
from gateway_blocks.sums.claims import Claims
from gateway_blocks.sums.hashing import Hashing, OnBlock
from gateway_blocks.sums.jobs import HashJob
from gateway_blocks.sums.keeper import Keeper
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.store import SumStore, Whole
from gateway_core.observe.logs import get_logger

log = get_logger("gateway.blocks")


class Workshop:
    """Shared by all that hash in this process."""

    def __init__(self, root: Root, store: SumStore, claims: Claims, *, workers: int) -> None:
        self.store = store
        self.claims = claims
        self.keeper = Keeper(store)
        self.workers = workers
        self.closing = False
        self._root = root
        self._hashing = Hashing(workers)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hash and save, for the block; what was hashed by its end is saved."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.keeper.running())
            await stack.enter_async_context(self._hashing.running())
            try:
                yield
            finally:
                self.closing = True
                for task in self._tasks:
                    task.cancel()
                if self._tasks:
                    await asyncio.wait(self._tasks)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Do ``work`` beside everything else; ended with the workshop."""
        task = asyncio.get_running_loop().create_task(_supervised(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before it began

    async def hash(
        self, record: Record, name: str, todo: Iterator[int], *, whole: bool = False, on_block: OnBlock | None = None
    ) -> Whole | None:
        """Hash blocks ``todo`` of the file, or all of it, as job ``name``; waits for a young file to settle.

        Raises FileChanged where the file is not the version of ``record``, and what the disk says.
        """
        await asyncio.sleep(record.key.identity.settles_in_s())
        file = await asyncio.to_thread(self._root.open, record.names)
        with file:
            if not isinstance(file, OpenFile) or file.identity != record.key.identity:
                raise FileChanged("the file is another version now")
            job = HashJob(name, os.dup(file.fd), file.identity, record.layout, todo, full=whole)
            return await self._hashing.run(job, on_block)

    async def learn(self, record: Record) -> None:
        """Take what the database knows by now: another process may have been at work."""
        stored = await self.store.load(record.key)
        if stored is not None:
            record.take(stored)

    def prefer(self, name: str, indices: Iterator[int]) -> None:
        """Let these blocks of a job come next."""
        self._hashing.prefer(name, indices)


async def _supervised(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:  # a supervisor is one of the borders where everything is caught
        log.exception("hashing failed")
