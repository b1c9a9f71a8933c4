"""Asking many sources at once what they have: sizes, versions and dates, before anything is read."""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, overload

from gateway_archive.lanes import Lanes
from gateway_core import SourceError, SourceFailed, SourceGone, SourceRefused, SourceStalled
from gateway_core.sources.base import Source, SourceInfo, SourceRequest

Answer = SourceInfo | SourceError | None
"""What came of a question; None where no answer came in time."""

PARALLEL = 64
"""Questions under way at once for one call, over all hosts."""

RETRY_PAUSE_S = 0.2
PACE_S = 1.0
"""How long a pace is measured before it is judged."""

_LOOK_S = 0.25
_UNKNOWN: Final = -1
_LARGEST_BYTES: Final = (1 << 63) - 1  # of what servers say, some is absurd
_UNDATED: Final = float("-inf")
_INDEXED_AT_ONCE = 500
_PASSING = frozenset({408, 425, 429})
"""Refusals that mean "not now" (RFC 9110 15.5.9, RFC 8470 5.2, RFC 6585 4)."""


def lasting(error: SourceError) -> bool:
    """Whether asking again soon would give the same; a server's 5xx, 408, 425 and 429 tell nothing of the file."""
    if not isinstance(error, SourceGone) or error.upstream_status is None:
        return True
    return 400 <= error.upstream_status < 500 and error.upstream_status not in _PASSING


class Answers(Sequence[Answer]):
    """Answers to many questions in little memory: sizes, dates, CRC-32s and strong validators, or errors alone."""

    def __init__(self, count: int) -> None:
        self._came = bytearray(count)
        self._sizes, self._crc32s = array("q", [_UNKNOWN]) * count, array("q", [_UNKNOWN]) * count
        self._modified = array("d", [_UNDATED]) * count
        self._validators: list[str | None] = [None] * count
        self._errors: dict[int, SourceError] = {}

    def __len__(self) -> int:
        return len(self._came)

    def __setitem__(self, index: int, answer: SourceInfo | SourceError) -> None:
        if isinstance(answer, SourceError):
            answer.__cause__ = answer.__context__ = None  # their tracebacks hold all that was open
            self._errors[index] = answer.with_traceback(None)
            return
        self._came[index] = True
        size = answer.size_bytes
        self._sizes[index] = _UNKNOWN if size is None or size > _LARGEST_BYTES else size
        self._crc32s[index] = _UNKNOWN if answer.crc32 is None else answer.crc32
        self._modified[index] = _UNDATED if answer.modified is None else answer.modified
        self._validators[index] = answer.validator if answer.strong else None

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Answer]: ...
    def __getitem__(self, index: int | slice) -> Answer | Sequence[Answer]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not self._came[index]:
            return self._errors.get(index)
        size, crc32, modified = self._sizes[index], self._crc32s[index], self._modified[index]
        validator = self._validators[index]
        return SourceInfo(
            size_bytes=None if size == _UNKNOWN else size,
            validator=validator,
            strong=validator is not None,
            modified=None if modified == _UNDATED else modified,
            crc32=None if crc32 == _UNKNOWN else crc32,
        )


class Prober:
    """Probes sources as their owners, within the places of the lanes; no connection and no task is left behind."""

    def __init__(self, source: Source, lanes: Lanes, *, timeout_s: float) -> None:
        self._source, self._lanes, self._timeout_s = source, lanes, timeout_s

    async def ask(
        self,
        requests: Sequence[SourceRequest],
        *,
        needed: Callable[[int, Answer], bool] | None = None,
        compact: bool = False,
    ) -> Sequence[Answer]:
        """One answer a request; what broke or stalled is asked once more.

        ``needed`` says that all answers are, or none: it tells of one by its index whether it will do. As soon as one
        will not, or the pace shows that time will be up before the last, the others are not waited for. ``compact``
        leaves out of the answers what ``Answers`` has no room for.
        """
        answers: list[Answer] | Answers = Answers(len(requests)) if compact else [None] * len(requests)
        asking = _Asking(self._source, self._lanes, requests, answers=answers, needed=needed)
        await asking.sort()
        until = asyncio.get_running_loop().time() + self._timeout_s
        tasks = [asyncio.create_task(asking.work()) for _ in range(min(PARALLEL, len(requests)))]
        try:
            await asking.watch(tasks, until)
        finally:
            left = [task for task in tasks if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
            errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in errors:
            if error is not None:
                raise error
        return answers


@dataclass(slots=True)
class _Host:
    """What is still to be asked of one lane, and how many questions to it are under way."""

    key: str | None
    indices: array[int] = field(default_factory=lambda: array("l"))
    next: int = 0
    active: int = 0
    listed: bool = False


class _Asking:
    """One call of ``Prober.ask``.

    ``_ready`` lists, in turn, the hosts that have something to ask and a place free: so a slow host holds no more
    workers than it has places, and a worker that finds nothing is one too many.
    """

    def __init__(
        self,
        source: Source,
        lanes: Lanes,
        requests: Sequence[SourceRequest],
        *,
        answers: list[Answer] | Answers,
        needed: Callable[[int, Answer], bool] | None,
    ) -> None:
        self._source, self._lanes, self._requests = source, lanes, requests
        self._answers, self._needed = answers, needed
        self._ready: deque[_Host] = deque()
        self._unasked = len(requests)
        self._vain = False

    async def sort(self) -> None:
        """Put every request to its host."""
        hosts: dict[str | None, _Host] = {}
        for index, request in enumerate(self._requests):
            try:
                key = self._source.lane(request.url)
            except SourceRefused:
                key = None  # the check will say why
            hosts.setdefault(key, _Host(key)).indices.append(index)
            if index % _INDEXED_AT_ONCE == _INDEXED_AT_ONCE - 1:
                await asyncio.sleep(0)
        for host in hosts.values():
            self._list(host)

    async def work(self) -> None:
        """Ask one after another until there is nothing for one more worker to do."""
        while self._ready and not self._vain:
            host = self._ready.popleft()
            host.listed = False
            index = host.indices[host.next]
            host.next += 1
            host.active += 1
            self._unasked -= 1
            self._list(host)
            try:
                answer = self._answers[index] = await self._answer(host.key, self._requests[index])
            finally:
                host.active -= 1
            self._list(host)
            if self._needed is not None and not self._needed(index, answer):
                self._vain = True

    async def watch(self, workers: Sequence[asyncio.Task[None]], until: float) -> None:
        """Wait for the workers until time is up or shows that it will be, or a worker fails."""
        loop = asyncio.get_running_loop()
        began, waiting = loop.time(), set(workers)
        while waiting and not self._vain and (now := loop.time()) < until:
            if self._needed is not None and now - began >= PACE_S and self._too_slow(now - began, until - now):
                return
            ended, waiting = await asyncio.wait(
                waiting, timeout=min(until - now, _LOOK_S), return_when=asyncio.FIRST_COMPLETED
            )
            if any(task.exception() is not None for task in ended):
                return

    def _too_slow(self, elapsed_s: float, left_s: float) -> bool:
        """Whether those not asked yet will not be in the time left, if what was asked so far is the pace."""
        asked = len(self._requests) - self._unasked
        return self._unasked * elapsed_s > asked * left_s

    def _list(self, host: _Host) -> None:
        if host.next < len(host.indices) and not host.listed and host.active < self._lanes.limit:
            host.listed = True
            self._ready.append(host)

    async def _answer(self, lane: str | None, request: SourceRequest) -> SourceInfo | SourceError:
        try:
            await self._source.check(request.url, request.client)
            if lane is None:
                lane = self._source.lane(request.url)
        except SourceError as error:
            await asyncio.sleep(0)  # thousands may be refused in a row
            return error
        try:
            return await self._probe(lane, request)
        except (SourceFailed, SourceStalled):
            await asyncio.sleep(RETRY_PAUSE_S)
        except SourceError as error:
            return error
        try:
            return await self._probe(lane, request)
        except SourceError as error:
            return error

    async def _probe(self, lane: str, request: SourceRequest) -> SourceInfo:
        async with self._lanes.enter(lane):
            return await self._source.probe(request)
