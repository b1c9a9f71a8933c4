"""Names that may not connect."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from gateway_core.db.engine import Database
from gateway_core.db.transaction import Transaction
from gateway_pipe.tables import certificates, invites, nodes, revocations

REVOKED_TOPIC = "pipe:revoked"
"""Woken when a name was revoked."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """When a name was revoked, and when a new invitation lifted that for later certificates; Unix seconds."""

    revoked: float
    lifted: float | None

    def covers(self, issued: float) -> bool:
        """Whether it stands against a certificate, or another credential, that was issued then."""
        return self.lifted is None or issued <= self.revoked


class Revocations:
    """All of them, read when they are needed: nobody gets in for a moment because of something remembered."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._reading: asyncio.Task[Mapping[str, Revocation]] | None = None
        self._next: asyncio.Task[Mapping[str, Revocation]] | None = None

    async def current(self) -> Mapping[str, Revocation]:
        """By name, as they stand at this call or later; many callers at once share one look. Raises DatabaseError."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._read(), name="pipe revocations")
        return await asyncio.shield(self._next)

    async def issued(self, serial: str) -> float | None:
        """When the built-in authority signed that certificate, by the database's clock; None for others."""
        async with self._db.read() as tx:
            moment = await tx.scalar(sa.select(certificates.c.issued).where(certificates.c.serial == serial))
        return None if moment is None else float(moment)

    async def revoke(self, name: str) -> bool:
        """Shut out the name, with its open invitations; False when nothing of that name was ever seen.

        Publish ``REVOKED_TOPIC`` then. Raises DatabaseError.
        """
        now = self._db.now()
        put = self._db.insert(revocations).values(name=name, revoked=now, lifted=None)
        known = [sa.exists().where(table.c.name == name) for table in (nodes, certificates, invites, revocations)]
        async with self._db.write() as tx:
            seen = bool(await tx.scalar(sa.select(sa.or_(*known))))
            await tx.execute(
                put.on_conflict_do_update(index_elements=[revocations.c.name], set_={"revoked": now, "lifted": None})
            )
            await tx.execute(sa.delete(invites).where(invites.c.name == name, invites.c.used == sa.null()))
        return seen

    async def undo(self, name: str) -> bool:
        """Forget that the name was revoked, as if it had never been; False when it was not. Raises DatabaseError."""
        async with self._db.write() as tx:
            return await tx.count(sa.delete(revocations).where(revocations.c.name == name)) == 1

    async def lift(self, tx: Transaction, name: str) -> None:
        """Let certificates of the name in that are issued from now on."""
        standing = sa.update(revocations).where(revocations.c.name == name, revocations.c.lifted == sa.null())
        await tx.execute(standing.values(lifted=self._db.now()))

    async def stands(self, tx: Transaction, name: str, issued: float | None = None) -> bool:
        """Whether the name may get no certificate: it is revoked, or the one it shows is from before that."""
        row = await tx.first(sa.select(revocations).where(revocations.c.name == name))
        if row is None:
            return False
        found = Revocation(row.revoked, row.lifted)
        return found.lifted is None if issued is None else found.covers(issued)

    async def _read(self) -> Mapping[str, Revocation]:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        self._reading, self._next = self._next, None  # who asks from here on needs a look that begins later
        async with self._db.read() as tx:
            rows = await tx.rows(sa.select(revocations))
        return {row.name: Revocation(row.revoked, row.lifted) for row in rows}
