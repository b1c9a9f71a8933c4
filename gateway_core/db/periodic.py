"""Things to do every so often, once in the whole cluster."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

from gateway_core.db.backoff import jittered_s
from gateway_core.db.leases import Lease, Leases
from gateway_core.errors import DatabaseError, LeaseLost

log = logging.getLogger(__name__)

Turn = Callable[[], Awaitable[object]]

_AFTER_FAILURE_S = 2.0
_SHORTEST_WAIT_S = 0.05


class Every:
    """Runs functions periodically; of all processes on a database, one takes each turn (lease ``every:<name>``).

    A turn that raises is logged and the next one comes all the same; a turn is cancelled after ``turn_limit_s``.
    A process that dies in the middle of a turn is replaced when its lease ends, after ``lease_ttl_s``.
    """

    def __init__(self, leases: Leases, *, lease_ttl_s: float = 30.0, turn_limit_s: float = 3600.0) -> None:
        self._leases = leases
        self._lease_ttl_s = lease_ttl_s
        self._turn_limit_s = turn_limit_s
        self._owner = uuid.uuid4().hex
        self._jobs: dict[str, tuple[float, Turn]] = {}
        self._running: dict[str, asyncio.Task[None]] | None = None

    def add(self, seconds: float, turn: Turn, name: str) -> None:
        """Run ``turn`` every ``seconds``, at the earliest after ``start``; raises ValueError for a name used twice."""
        if name in self._jobs or seconds <= 0:
            raise ValueError(f"periodic task {name!r}: the name is taken or the period is not positive")
        self._jobs[name] = (seconds, turn)
        if self._running is not None:
            self._begin(name)

    def start(self) -> None:
        """Begin, in the running loop; nothing is awaited before the first turn."""
        self._running = {}
        for name in self._jobs:
            self._begin(name)

    async def stop(self) -> None:
        """Cancel turns under way and wait for their ends; their leases are free at once."""
        tasks, self._running = self._running or {}, None
        for task in tasks.values():
            task.cancel()
        if tasks:
            await asyncio.wait(tasks.values())

    def _begin(self, name: str) -> None:
        assert self._running is not None
        seconds, turn = self._jobs[name]
        self._running[name] = asyncio.create_task(self._supervise(name, seconds, turn), name=f"every {name}")

    async def _supervise(self, name: str, seconds: float, turn: Turn) -> None:
        lease_name = f"every:{name}"
        while True:
            try:
                lease = await self._leases.acquire(lease_name, self._owner, self._lease_ttl_s)
                if lease is not None:
                    await self._take(lease, seconds, turn)
                wait_s = await self._leases.remaining_s(lease_name)
            except DatabaseError as error:
                log.warning("periodic task %s has to wait: %s", name, error)
                wait_s = _AFTER_FAILURE_S
            # the process that is first at the end of the wait gets the turn: not the same one each time
            await asyncio.sleep(jittered_s(max(wait_s, _SHORTEST_WAIT_S)))

    async def _take(self, lease: Lease, seconds: float, turn: Turn) -> None:
        me = asyncio.current_task()
        try:
            async with self._leases.held(lease, self._lease_ttl_s, hold_until=lease.since + seconds):
                async with asyncio.timeout(self._turn_limit_s):
                    await turn()
        except asyncio.CancelledError:
            if me is None or me.cancelling():
                raise
            log.warning("a turn of %s was cancelled by itself", lease.name)
        except LeaseLost as error:
            log.warning("a turn of %s was cut off: %s", lease.name, error)
        except Exception:  # a supervisor is one of the borders where everything is caught
            log.exception("a turn of %s failed", lease.name)
