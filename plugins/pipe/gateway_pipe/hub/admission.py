"""How many nodes may connect at once; the others come again, not all at the same time."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway_core.errors import Unavailable
from gateway_pipe.hub import metrics

_QUEUE_S = 3.0
_OF_A_NODE = 3
_MEMORY_S = 5.0
_SHORTEST_S = 1
_LONGEST_S = 10
_RANDOM = random.SystemRandom()


class Admission:
    """``places`` for handshakes, and a queue as long for whoever comes while they are taken; 3 of both for one node.

    Retry-After grows with how many were refused in the last seconds: who comes back finds a place.
    """

    def __init__(self, places: int) -> None:
        self._most = places
        self._places = asyncio.Semaphore(places)
        self._queued = 0
        self._nodes: Counter[str] = Counter()
        self._refused = 0.0
        self._refused_at = time.monotonic()

    @asynccontextmanager
    async def admitted(self, name: str) -> AsyncIterator[None]:
        """Hold a place for that node; raises Unavailable with Retry-After, from 1 to 10 s, when there is none soon."""
        if self._nodes[name] >= _OF_A_NODE:
            raise Unavailable(f"{name} connects too often at once", retry_after_s=_LONGEST_S)
        if self._queued >= self._most:
            raise self._refusal()
        self._nodes[name] += 1
        try:
            async with self._place():
                yield
        finally:
            self._nodes[name] -= 1
            if not self._nodes[name]:
                del self._nodes[name]

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        self._queued += 1
        try:
            async with asyncio.timeout(_QUEUE_S):
                await self._places.acquire()
        except TimeoutError as error:
            raise self._refusal() from error
        finally:
            self._queued -= 1
        try:
            yield
        finally:
            self._places.release()

    def _refusal(self) -> Unavailable:
        metrics.REFUSED.inc()
        now = time.monotonic()
        self._refused = self._refused * math.exp((self._refused_at - now) / _MEMORY_S) + 1
        self._refused_at = now
        longest_s = min(_LONGEST_S, _SHORTEST_S + math.ceil(self._refused / self._most))
        return Unavailable("too many nodes connect at once", retry_after_s=_RANDOM.randint(_SHORTEST_S, longest_s))
