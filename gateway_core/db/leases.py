"""Leases: who of all processes does something now, by the database's clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select, update

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.tables import leases
from gateway_core.errors import DatabaseError, LeaseLost

log = logging.getLogger(__name__)

_RENEWALS_PER_TTL = 3


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to ``name``. ``token`` grows with every holder: write it beside what is done under the lease.

    A process that was stopped for longer than the lease lasts finds a higher token there and must not publish (fencing
    token). ``since`` is when the lease was acquired, in Unix seconds of the database; ``expires`` is when it ends
    unless renewed, on this process's monotonic clock.
    """

    name: str
    owner: str
    token: int
    since: float
    expires: float


class Leases:
    """Leases in one database. Names are few and stay for ever, at most 255 characters; owners at most 64.

    Every method raises DatabaseError while the database cannot answer.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def acquire(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Take the lease for ``ttl_s`` seconds; None while somebody holds it, be it the same owner."""
        clock = now()
        insert = self._db.insert(leases).values(name=name, owner=owner, token=1, until=clock + ttl_s)
        take = insert.on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={"owner": owner, "token": leases.c.token + 1, "until": clock + ttl_s},
            where=leases.c.until <= clock,
        ).returning(leases.c.token, leases.c.until)
        expires = time.monotonic() + ttl_s
        async with self._db.write() as tx:
            row = await tx.first(take)
        return Lease(name, owner, row.token, row.until - ttl_s, expires) if row is not None else None

    async def renew(self, lease: Lease, ttl_s: float) -> None:
        """Hold it for ``ttl_s`` seconds from now; raises LeaseLost when it was released or somebody has taken it."""
        if not await self._set_until(lease, now() + ttl_s, lease.owner):
            raise LeaseLost(f"the lease {lease.name} is not held any more")

    async def release(self, lease: Lease, *, hold_until: float | None = None) -> bool:
        """Give it up; False when it was lost before.

        With ``hold_until`` (Unix seconds of the database) nobody gets it before that time: what is due only then.
        """
        return await self._set_until(lease, now() if hold_until is None else hold_until, "")

    async def remaining_s(self, name: str) -> float:
        """Seconds until the lease can be acquired, 0 when it can be now."""
        async with self._db.read() as tx:
            left = await tx.scalar(select(leases.c.until - now()).where(leases.c.name == name))
        return max(0.0, float(left or 0.0))

    @asynccontextmanager
    async def held(self, lease: Lease, ttl_s: float, *, hold_until: float | None = None) -> AsyncIterator[None]:
        """Renew ``lease`` while the block runs, then release it as ``release`` does.

        Once it is lost, or the database was away for ``ttl_s``, the block is cancelled and LeaseLost is raised.
        """
        try:
            async with asyncio.timeout(lease.expires - time.monotonic()) as limit:
                renewing = asyncio.create_task(self._keep(lease, ttl_s, limit), name=f"lease {lease.name}")
                try:
                    yield
                finally:
                    renewing.cancel()
                    await asyncio.wait((renewing,))
        except TimeoutError as error:
            if limit.expired():
                raise LeaseLost(f"the lease {lease.name} was lost") from error
            raise
        finally:
            with contextlib.suppress(DatabaseError):  # then it runs out by itself
                await self.release(lease, hold_until=hold_until)

    async def _keep(self, lease: Lease, ttl_s: float, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ttl_s / _RENEWALS_PER_TTL)
            asked = loop.time()
            try:
                await self.renew(lease, ttl_s)
                expires = asked + ttl_s
            except LeaseLost:
                expires = asked
            except DatabaseError as error:
                log.warning("the lease %s could not be renewed: %s", lease.name, error)
                continue
            if limit.expired():
                return
            limit.reschedule(expires)

    async def _set_until(self, lease: Lease, until: ColumnElement[float] | float, owner: str) -> bool:
        mine = (leases.c.name == lease.name) & (leases.c.owner == lease.owner) & (leases.c.token == lease.token)
        async with self._db.write() as tx:
            return bool(await tx.count(update(leases).where(mine).values(until=until, owner=owner)))
