"""Requests that are done once, however often they are sent (draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select, update

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.sweep import sweep_rows
from gateway_core.db.tables import idempotency
from gateway_core.db.transaction import Transaction
from gateway_core.errors import LeaseLost


class Outcome(enum.Enum):
    """What to do with a request that carries a key."""

    NEW = "new"
    """Do it, then ``store`` its answer or ``forget`` the key."""
    REPLAY = "replay"
    """It was done: send the stored answer."""
    IN_PROGRESS = "in progress"
    """The first one is still under way: 409."""
    CONFLICT = "conflict"
    """The key was used for another request: 422."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """``response`` is there for REPLAY; ``token`` proves a NEW one."""

    client_id: str
    key: str
    outcome: Outcome
    token: str = ""
    response: str | None = None


class Idempotency:
    """Keys in one database, each client's apart. ``key`` is at most 255, ``fingerprint`` at most 64 characters."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reserve(
        self, tx: Transaction, client_id: str, key: str, *, fingerprint: str, hold_s: float = 60.0
    ) -> Reservation:
        """Ask what to do with a request whose body has ``fingerprint``.

        A new one has ``hold_s`` to ``store``; after that its process counts as dead and the key is free.
        """
        clock, token = now(), uuid.uuid4().hex
        fresh = {"fingerprint": fingerprint, "token": token, "response": None, "expires": clock + hold_s}
        take = (
            self._db.insert(idempotency)
            .values(client_id=client_id, key=key, **fresh)
            .on_conflict_do_update(
                index_elements=[idempotency.c.client_id, idempotency.c.key],
                set_=fresh,
                where=idempotency.c.expires <= clock,
            )
            .returning(idempotency.c.token)
        )
        if await tx.scalar(take) is not None:
            return Reservation(client_id, key, Outcome.NEW, token)
        mine = (idempotency.c.client_id == client_id) & (idempotency.c.key == key)
        there = await tx.first(select(idempotency.c.fingerprint, idempotency.c.response).where(mine))
        if there is None or there.fingerprint != fingerprint:
            return Reservation(client_id, key, Outcome.CONFLICT)
        if there.response is None:
            return Reservation(client_id, key, Outcome.IN_PROGRESS)
        return Reservation(client_id, key, Outcome.REPLAY, response=there.response)

    async def store(self, tx: Transaction, reservation: Reservation, response: str, *, ttl_s: float = 86400.0) -> None:
        """Keep the answer for ``ttl_s``, in the transaction that does the work; raises LeaseLost after ``hold_s``."""
        kept = update(idempotency).where(*_held(reservation)).values(response=response, expires=now() + ttl_s)
        if not await tx.count(kept):
            raise LeaseLost(f"the request with the key {reservation.key} took too long")

    async def forget(self, tx: Transaction, reservation: Reservation) -> None:
        """Make the key free again: the request failed in a way that trying again can cure."""
        await tx.execute(delete(idempotency).where(*_held(reservation)))

    async def sweep(self) -> int:
        """Delete what has expired; how many."""
        return await sweep_rows(self._db, idempotency, idempotency.c.expires, before=now())


def _held(reservation: Reservation) -> tuple[ColumnElement[bool], ...]:
    return (
        idempotency.c.client_id == reservation.client_id,
        idempotency.c.key == reservation.key,
        idempotency.c.token == reservation.token,
    )
