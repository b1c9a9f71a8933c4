"""What is known of one version of a file, and who waits to know more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from gateway_blocks.sums.layout import BlockLayout
from gateway_blocks.sums.store import FileKey, Stored, Whole
from gateway_blocks.sums.table import BlockTable
from gateway_core import GatewayError

_RATE_SPAN_S = 10.0


class Record:
    """One version of a file in memory: what stands in ``table`` and ``whole`` is in the database already.

    ``unsaved`` and ``unsaved_whole`` were found and wait to be saved. ``fault`` ends the record: the version is gone,
    or could not be read.
    """

    def __init__(self, key: FileKey, names: tuple[str, ...], block_bytes: int) -> None:
        self.key = key
        self.names = names
        self.layout = BlockLayout(key.identity.size_bytes, block_bytes)
        self.table = BlockTable(self.layout)
        self.whole: Whole | None = None
        self.unsaved: dict[int, bytes] = {}
        self.unsaved_whole: Whole | None = None
        self.fault: GatewayError | None = None
        self.asked = time.monotonic()
        self._changed = asyncio.Event()
        self._progress: list[tuple[float, int]] = []

    @property
    def complete(self) -> bool:
        """Whether all blocks are known."""
        return self.table.complete

    @property
    def weight(self) -> int:
        """About how many blocks' worth of memory it takes."""
        return 8 + self.layout.count

    def take(self, stored: Stored) -> None:
        """Learn what the database knows."""
        for number, known, digests in stored.segments:
            self.table.load(number, known, digests)
        self.whole = stored.whole or self.whole
        self._wake()

    def publish(self, found: Mapping[int, bytes], whole: Whole | None) -> None:
        """Let be seen what has been saved."""
        for index, digest in found.items():
            self.table.set(index, digest)
            if self.unsaved.get(index) == digest:
                del self.unsaved[index]
        if whole is not None:
            self.whole = whole
            self.unsaved_whole = None
        self._note()
        self._wake()

    def fail(self, fault: GatewayError) -> None:
        """End it: whoever waits is told."""
        self.fault = fault
        self.unsaved.clear()
        self.unsaved_whole = None
        self._wake()

    async def wait_for(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until ``ready`` or the time is over; whether it is. Raises the record's fault."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not ready() and self.fault is None:
                    await self._changed.wait()
        if self.fault is not None:
            raise type(self.fault)(self.fault.detail)
        return ready()

    def eta_s(self) -> float | None:
        """Seconds until all blocks are known at the rate of the last seconds; None while there is no rate."""
        if self.complete:
            return 0.0
        if len(self._progress) < 2:
            return None
        (then, before), (_, now_known) = self._progress[0], self._progress[-1]
        elapsed = time.monotonic() - then
        if now_known == before or elapsed > 3 * _RATE_SPAN_S:
            return None
        return (self.layout.count - self.table.known) * elapsed / (now_known - before)

    def _note(self) -> None:
        now = time.monotonic()
        if self._progress and now - self._progress[-1][0] > _RATE_SPAN_S:
            self._progress.clear()
        self._progress.append((now, self.table.known))
        while now - self._progress[0][0] > _RATE_SPAN_S:
            self._progress.pop(0)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
