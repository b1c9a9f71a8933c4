"""Durable calls in the database: accepted once, given to their node in their order, settled once."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from gateway_core import Conflict, NotFound, Storage, TooManyRequests
from gateway_core.auth.keyring import Keyring
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.transaction import Transaction
from gateway_core.errors import HttpError, StartupError
from gateway_core.settled import settled
from gateway_pipe.durable.bodies import body_key, discard, opened, result_key, stow
from gateway_pipe.durable.model import DONE_HEADER, MAX_TTL_S, SMALL_BYTES, Call, CallState, NewCall, Stowed, Waiting
from gateway_pipe.durable.sealing import sealed, unsealed
from gateway_pipe.link.messages import head_payload, open_payload, parse_head, parse_open
from gateway_pipe.link.model import Body, Head
from gateway_pipe.settings import PipeSettings
from gateway_pipe.tables import calls, nodes

_NODES_AT_ONCE = 1000
_RETRY_FULL_S = 30


class CallStore:
    """All durable calls. A client sees its own and no other.

    Every method raises DatabaseError while the database cannot answer, those that touch bodies StorageError as well.
    """

    def __init__(self, db: Database, storage: Storage, settings: PipeSettings, *, keyring: Keyring) -> None:
        self.db = db
        self.storage = storage
        self._keyring = keyring
        self._keep_s = settings.keep_results
        self._max_waiting = settings.max_waiting
        self._max_bytes = settings.max_durable_mb << 20
        self._insert = _insert(db, settings.max_waiting)
        self._finish = _finish(settings.keep_results)

    # For clients

    async def accept(self, new: NewCall, body: Body) -> Call:
        """Keep a call until it is answered; of the same client, key and question the one that is kept already.

        Raises NotFound for a node that was never here, TooManyRequests when too many calls wait for it, TooLarge,
        BadRequest for what no link takes, Conflict for a key that came with another question, and what ``body`` raises.
        """
        opening = self._opening_text(new)
        fingerprint = new.fingerprint()
        if not isinstance(body, bytes) or len(body) > SMALL_BYTES:
            await self._check_before_body(new)
        stowed = await stow(self.storage, body_key(new.id), body, limit_bytes=self._max_bytes, digest=fingerprint)
        row = {
            "id": new.id,
            "client_id": new.client_id,
            "node": new.node,
            "opening": opening,
            "body": stowed.data,
            "body_key": stowed.key,
            "body_bytes": stowed.size_bytes,
            "fingerprint": fingerprint.hexdigest(),
            "idempotency_key": new.key or None,
            "ttl": new.ttl_s,
        }
        return await settled(self._keep(row))

    async def find(self, call_id: str, client_id: str) -> Call:
        """The call, with a small result; raises NotFound, also for somebody else's."""
        async with self.db.read() as tx:
            row = await tx.first(_FOUND, {"asked_id": call_id, "asked_client": client_id})
        if row is None:
            raise NotFound("Call not found")
        return _call_from(row)

    async def listed(
        self, client_id: str, *, node: str = "", state: CallState | None = None, limit: int = 100
    ) -> Sequence[Call]:
        """Calls of a client, newest first, without what they brought."""
        query = _LISTED.where(calls.c.client_id == client_id).limit(limit)
        if node:
            query = query.where(calls.c.node == node)
        if state is not None:
            query = query.where(_state_is(state))
        async with self.db.read() as tx:
            return [_call_from(row) for row in await tx.rows(query)]

    async def erase(self, call_id: str, client_id: str) -> None:
        """Forget a call and its result; one that no node has begun will never run. Raises NotFound."""
        async with self.db.write() as tx:
            row = await tx.first(_ERASE, {"asked_id": call_id, "asked_client": client_id})
        if row is None:
            raise NotFound("Call not found")
        for key in row:
            await discard(self.storage, key)

    def result(self, call: Call) -> AbstractAsyncContextManager[Body]:
        """The bytes that a call brought which is done, as they are or in chunks; raises ObjectMissing."""
        assert call.result is not None
        return opened(self.storage, call.result)

    # For deliveries

    async def waited_for(self, names: Collection[str]) -> list[str]:
        """Those of the nodes ``names`` for which a call waits."""
        asked, found = list(names), []
        for at in range(0, len(asked), _NODES_AT_ONCE):
            async with self.db.read() as tx:
                rows = await tx.rows(_WAITED_FOR, {"names": asked[at : at + _NODES_AT_ONCE]})
            found += [row.name for row in rows]
        return found

    async def next(self, node: str) -> Waiting | None:
        """The oldest call that waits for ``node``, also one whose time is over."""
        async with self.db.read() as tx:
            row = await tx.first(_NEXT, {"asked_node": node})
        if row is None:
            return None
        body = Stowed(row.body, row.body_key, row.body_bytes)
        opening = parse_open(row.opening.encode())
        try:
            opened = unsealed(opening, self._keyring)
        except StartupError:
            return Waiting(id=row.id, opening=opening, body=body, left_s=row.left_s, unreadable=True)
        return Waiting(id=row.id, opening=opened, body=body, left_s=row.left_s)

    async def wanted(self, ids: Collection[str]) -> set[str]:
        """Those of the calls ``ids`` that wait still."""
        found: set[str] = set()
        asked = list(ids)
        for at in range(0, len(asked), _NODES_AT_ONCE):
            async with self.db.read() as tx:
                found |= {row.id for row in await tx.rows(_WANTED, {"ids": asked[at : at + _NODES_AT_ONCE]})}
        return found

    async def stow_result(self, call_id: str, body: Body) -> Stowed:
        """Take what a node answers; raises TooLarge, StorageError, and what ``body`` raises."""
        key = result_key(call_id, uuid.uuid4().hex)
        return await stow(self.storage, key, body, limit_bytes=self._max_bytes)

    async def finish(self, call: Waiting, head: Head, result: Stowed) -> bool:
        """Make it the call's result; False when it has one, its time is over, or its client no longer wants it.

        The first one that is written counts, whoever brings it; ``result`` is deleted where it does not.
        """
        return await settled(self._settle(call, head, result))

    async def tried(self, call_id: str) -> None:
        """Count a delivery that brought no result."""
        async with self.db.write() as tx:
            await tx.execute(_TRIED, {"asked_id": call_id})

    async def expire(self, call: Waiting) -> bool:
        """End a call whose time is over; False when it is not by the database's clock, or has ended already."""
        expired = sa.update(calls).where(calls.c.id == call.id, *OVERDUE).values(expired_values(self._keep_s))
        async with self.db.write() as tx:
            ended = await tx.count(expired)
        if ended:
            await discard(self.storage, call.body.key)
        return bool(ended)

    def _opening_text(self, new: NewCall) -> str:
        """The opening as it is kept, with room for what each delivery adds; raises BadRequest where it is too long."""
        opening = sealed(new.wanted(), self._keyring)
        open_payload(replace(opening, headers=(*opening.headers, (DONE_HEADER, new.id))), int(MAX_TTL_S * 1000))
        return open_payload(opening, None).decode()

    async def _check_before_body(self, new: NewCall) -> None:
        """Refuse what will be refused before a body is read for nothing; a repeated request is told at its end."""
        if not new.key:
            async with self.db.read() as tx:
                await self._refuse(tx, new.node)

    async def _keep(self, row: dict[str, Any]) -> Call:
        try:
            async with self.db.write() as tx:
                found = await tx.first(self._insert, {f"new_{name}": value for name, value in row.items()})
                if found is None:
                    found = await self._repeated(tx, row)
        except HttpError:
            await discard(self.storage, row["body_key"])
            raise
        if found.id != row["id"]:
            await discard(self.storage, row["body_key"])
        return _call_from(found)

    async def _repeated(self, tx: Transaction, row: dict[str, Any]) -> Any:
        """The row of the same question asked before; raises what tells why there is none."""
        values = {"asked_client": row["client_id"], "asked_key": row["idempotency_key"]}
        found = await tx.first(_REPEATED, values) if row["idempotency_key"] else None
        if found is None:
            await self._refuse(tx, row["node"])
            raise TooManyRequests("too many calls wait for this node", retry_after_s=_RETRY_FULL_S)
        if found.fingerprint != row["fingerprint"]:
            raise Conflict("This Idempotency-Key came with another call before")
        return found

    async def _refuse(self, tx: Transaction, node: str) -> None:
        found = await tx.first(_ROOM, {"asked_node": node})
        if found is None:
            raise NotFound(f"No node {node} was ever here")
        if found.waiting >= self._max_waiting:
            detail = f"{found.waiting} calls wait for this node (pipe.max_waiting)"
            raise TooManyRequests(detail, retry_after_s=_RETRY_FULL_S)

    async def _settle(self, call: Waiting, head: Head, result: Stowed) -> bool:
        values = {
            "asked_id": call.id,
            "new_head": head_payload(head).decode(),
            "new_result": result.data,
            "new_key": result.key,
            "new_bytes": result.size_bytes,
        }
        async with self.db.write() as tx:
            first = bool(await tx.count(self._finish, values))
        await discard(self.storage, call.body.key if first else result.key)
        return first


OVERDUE = (calls.c.state == CallState.WAITING.value, calls.c.deadline <= now())
"""Calls that nobody may deliver any more."""


def expired_values(keep_s: float) -> dict[str, Any]:
    """What the row of a call becomes whose time is over; its body is deleted afterwards."""
    ended = {"state": CallState.EXPIRED.value, "ended": now(), "expires": now() + keep_s}
    return {**ended, "body": None, "body_key": ""}


def _state_is(state: CallState) -> sa.ColumnElement[bool]:
    """One whose time is over has expired, swept or not."""
    waiting = calls.c.state == CallState.WAITING.value
    if state is CallState.WAITING:
        return sa.and_(waiting, calls.c.deadline > now())
    if state is CallState.EXPIRED:
        return sa.or_(calls.c.state == state.value, sa.and_(*OVERDUE))
    return calls.c.state == state.value


def _insert(db: Database, max_waiting: int) -> Any:
    """The statement that accepts a call if it may; made once, as making it takes longer than running it."""
    given = ("id", "client_id", "node", "opening", "body", "body_key", "body_bytes", "fingerprint", "idempotency_key")
    row: dict[str, sa.ColumnElement[Any]] = {
        name: sa.bindparam(f"new_{name}", type_=calls.c[name].type) for name in given
    }
    ttl = sa.bindparam("new_ttl", type_=calls.c.deadline.type)
    row |= {"created": now(), "deadline": now() + ttl}
    fixed = {"state": CallState.WAITING.value, "attempts": 0, "head": "", "result_key": "", "result_bytes": 0}
    row |= {name: sa.literal(value, calls.c[name].type) for name, value in fixed.items()}
    known = sa.exists().where(nodes.c.name == row["node"])
    selected = sa.select(*row.values()).where(known, _waiting_for(row["node"]) < max_waiting)
    return (
        db.insert(calls)
        .from_select(list(row), selected)
        .on_conflict_do_nothing(index_elements=[calls.c.client_id, calls.c.idempotency_key])
        .returning(*_SHOWN, now().label("at"))
    )


def _finish(keep_s: float) -> sa.Update:
    return (
        sa.update(calls)
        .where(_ASKED_ID, calls.c.state == CallState.WAITING.value, calls.c.deadline > now())
        .values(
            state=CallState.DONE.value,
            attempts=calls.c.attempts + 1,
            ended=now(),
            expires=now() + keep_s,
            head=sa.bindparam("new_head"),
            result=sa.bindparam("new_result"),
            result_key=sa.bindparam("new_key"),
            result_bytes=sa.bindparam("new_bytes"),
            body=None,
            body_key="",
        )
    )


def _waiting_for(node: sa.ColumnElement[Any]) -> sa.ScalarSelect[int]:
    waiting = (calls.c.node == node, calls.c.state == CallState.WAITING.value)
    return sa.select(sa.func.count()).select_from(calls).where(*waiting).scalar_subquery()


_SHOWN = tuple(column for column in calls.c if column.name not in {"body", "result"})
_ASKED_ID = calls.c.id == sa.bindparam("asked_id")
_OWN = sa.and_(_ASKED_ID, calls.c.client_id == sa.bindparam("asked_client"))
_FOUND = sa.select(*_SHOWN, calls.c.result, now().label("at")).where(_OWN)
_LISTED = sa.select(*_SHOWN, sa.null().label("result"), now().label("at")).order_by(calls.c.seq.desc())
_REPEATED = sa.select(*_SHOWN, sa.null().label("result"), now().label("at")).where(
    calls.c.client_id == sa.bindparam("asked_client"), calls.c.idempotency_key == sa.bindparam("asked_key")
)
_ERASE = sa.delete(calls).where(_OWN).returning(calls.c.body_key, calls.c.result_key)
_TRIED = (
    sa.update(calls).where(_ASKED_ID, calls.c.state == CallState.WAITING.value).values(attempts=calls.c.attempts + 1)
)
_NEXT = (
    sa.select(
        *(calls.c[name] for name in ("id", "opening", "body", "body_key", "body_bytes")),
        (calls.c.deadline - now()).label("left_s"),
    )
    .where(calls.c.node == sa.bindparam("asked_node"), calls.c.state == CallState.WAITING.value)
    .order_by(calls.c.seq)
    .limit(1)
)
_WANTED = sa.select(calls.c.id).where(
    calls.c.id.in_(sa.bindparam("ids", expanding=True)), calls.c.state == CallState.WAITING.value
)
_ROOM = sa.select(_waiting_for(nodes.c.name).label("waiting")).where(nodes.c.name == sa.bindparam("asked_node"))
_WAITED_FOR = sa.select(nodes.c.name).where(
    nodes.c.name.in_(sa.bindparam("names", expanding=True)),
    sa.exists().where(calls.c.node == nodes.c.name, calls.c.state == CallState.WAITING.value),
)


def _call_from(row: Any) -> Call:
    """The call in ``row``: the columns shown, and the database's time as ``at``."""
    state = CallState(row.state)
    if state is CallState.WAITING and row.deadline <= row.at:
        state = CallState.EXPIRED
    done = state is CallState.DONE
    return Call(
        id=row.id,
        node=row.node,
        state=state,
        opening=parse_open(row.opening.encode()),
        attempts=row.attempts,
        created=row.created,
        deadline=row.deadline,
        ended=row.ended,
        expires=row.expires,
        head=parse_head(row.head.encode()) if done else None,
        result=Stowed(row.result, row.result_key, row.result_bytes) if done else None,
    )
