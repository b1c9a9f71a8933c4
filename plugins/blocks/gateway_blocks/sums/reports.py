"""Blocks that clients call bad: hashed again, to tell a changed file from a bad line."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import Counter

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.sums.catalogue import Catalogue
from gateway_blocks.sums.record import Record
from gateway_core import GatewayError
from gateway_core.observe.logs import get_logger

log = get_logger("gateway.blocks")

REPORTS = Counter(
    "gateway_blocks_reports_total", "Blocks hashed again because of a client, by what came of it", ["verdict"]
)

_FRESH_S = 10.0
"""A verdict is good for so long: whoever reports the same block again gets it without a read."""
_SUSPICIOUS = 3
_WINDOW_S = 60.0
_MAX_REMEMBERED = 4096
_MAX_AT_ONCE = 4


class Verdict(StrEnum):
    """What hashing again said."""

    SAME = "same"
    """The file has the block as it was told: the line, or the client's disk, is bad."""
    CHANGED = "changed"
    """The file is not what it was: its checksums are made anew."""
    PENDING = "pending"
    """The block is not hashed yet, or the answer takes longer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on a block, with its SHA-1 where it is known."""

    verdict: Verdict
    digest: bytes | None = None


class Reports:
    """Examines reported blocks, and those that one client asks for three times within a minute."""

    def __init__(self, catalogue: Catalogue, discarded: Callable[[], None]) -> None:
        self._catalogue = catalogue
        self._discarded = discarded
        self._findings: OrderedDict[tuple[str, int], tuple[float, Finding]] = OrderedDict()
        self._asked: OrderedDict[tuple[str, str, int], list[float]] = OrderedDict()
        self._under_way: dict[tuple[str, int], asyncio.Task[Finding]] = {}

    async def examine(self, record: Record, index: int, *, timeout_s: float) -> Finding:
        """Hash block ``index`` once more and compare; PENDING when that takes longer than ``timeout_s``."""
        told = record.table.get(index)
        if told is None:
            return Finding(Verdict.PENDING)
        key = record.key.id, index
        recent = self._findings.get(key)
        if recent is not None and time.monotonic() - recent[0] < _FRESH_S:
            return recent[1]
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= _MAX_AT_ONCE:
                return Finding(Verdict.PENDING)
            task = self._begin(key, record, told)
        done, _ = await asyncio.wait([task], timeout=timeout_s)
        return task.result() if done else Finding(Verdict.PENDING)

    def asked(self, record: Record, client: str, index: int) -> None:
        """A client has asked for a whole block whose digest it knows: the third time makes it suspicious."""
        key = client, record.key.id, index
        now = time.monotonic()
        times = [moment for moment in self._asked.pop(key, []) if now - moment < _WINDOW_S] + [now]
        told = record.table.get(index)
        if len(times) >= _SUSPICIOUS and told is not None:
            if (record.key.id, index) not in self._under_way and len(self._under_way) < _MAX_AT_ONCE:
                self._begin((record.key.id, index), record, told)
            return
        self._asked[key] = times
        if len(self._asked) > _MAX_REMEMBERED:
            self._asked.popitem(last=False)

    async def stop(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, key: tuple[str, int], record: Record, told: bytes) -> asyncio.Task[Finding]:
        task = asyncio.create_task(self._examine(record, key[1], told), name="blocks report")
        self._under_way[key] = task
        task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return task

    async def _examine(self, record: Record, index: int, told: bytes) -> Finding:
        try:
            digest = await self._catalogue.check(record, index)
            finding = Finding(Verdict.SAME if digest == told else Verdict.CHANGED, digest)
            if finding.verdict is Verdict.CHANGED:
                await self._catalogue.discard(record)
                self._discarded()
        except FileChanged:
            finding = Finding(Verdict.CHANGED)
        except GatewayError as error:
            log.warning("a reported block could not be read", path=record.key.path, block=index, error=str(error))
            finding = Finding(Verdict.PENDING)
        REPORTS.labels(finding.verdict.value).inc()
        log.info("block reported", path=record.key.path, block=index, verdict=finding.verdict.value)
        self._findings[record.key.id, index] = time.monotonic(), finding
        if len(self._findings) > _MAX_REMEMBERED:
            self._findings.popitem(last=False)
        return finding
