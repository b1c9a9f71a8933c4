"""Answers to requests for a ticket's download, in the database: which bytes went out, to be seen by its owner."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from gateway_archive.ledger.together import Together
from gateway_archive.tables import responses
from gateway_core import Gateway
from gateway_core.db.transaction import Transaction

RUNNING: Final = "running"
ABORTED: Final = "aborted"
SILENT_S: Final = 15.0
"""Who runs saves every second; after so long without, its process is dead."""
KEEP_S: Final = 3600.0
_FOLDED: Final = "folded"
"""State of a row for the swept answers of a layout: while the ticket lives, some client may have their bytes."""
_BATCH: Final = 500

Span = tuple[int, int]
"""First byte and the one after the last."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer: ``state`` is RUNNING, ABORTED, or any other word of at most 12 letters for an end.

    ``spans`` of the archive were sent, ``sent`` bytes in all, ``total`` are to be sent (None: not known). ``entry`` is
    the name of the one under way, ``failures`` how many items are missing. ``began`` and ``updated`` are Unix seconds
    by the database, which sets them.
    """

    id: str
    ticket_id: str
    etag: str
    instance: str
    state: str = RUNNING
    spans: tuple[Span, ...] = ()
    sent: int = 0
    total: int | None = None
    entry: str = ""
    failures: int = 0
    began: float = 0.0
    updated: float = 0.0


class Responses:
    """The answers of all processes; methods raise DatabaseError."""

    def __init__(self, gateway: Gateway, together: Together | None = None) -> None:
        self._db, self._together = gateway.db, together or Together(gateway.db)

    async def save(self, response: Response) -> None:
        """Store how it stands now; to be called at its begin, every second and at its end."""
        now = self._db.now()
        changes = {
            "etag": response.etag,
            "updated": now,
            "state": response.state,
            "spans": _json(response.spans),
            "sent": response.sent,
            "total": response.total,
            "entry": response.entry,
            "failures": response.failures,
        }
        fixed = {
            "id": response.id,
            "ticket_id": response.ticket_id,
            "instance": response.instance,
            "began": now,
        }
        put = self._db.insert(responses).values({**fixed, **changes})
        await self._together.put(put.on_conflict_do_update(index_elements=[responses.c.id], set_=changes))

    async def of(self, ticket_id: str, limit: int = 20) -> list[Response]:
        """The last answers for a ticket, newest first; one whose process died while it ran reads as ABORTED."""
        silent = (responses.c.updated < self._db.now() - SILENT_S).label("silent")
        shown = (responses.c.ticket_id == ticket_id, responses.c.state != _FOLDED)
        query = sa.select(responses, silent).where(*shown)
        async with self._db.read() as tx:
            rows = await tx.rows(query.order_by(responses.c.began.desc(), responses.c.id).limit(limit))
        return [_response(row) for row in rows]

    async def lately(self, ticket_id: str, etag: str, *, but: str, within_s: float) -> bool:
        """Whether an answer of a layout other than ``but`` runs, as was saved within so many seconds."""
        mine = (responses.c.ticket_id == ticket_id, responses.c.etag == etag, responses.c.id != but)
        late = sa.and_(responses.c.state == RUNNING, responses.c.updated >= self._db.now() - within_s)
        async with self._db.read() as tx:
            return bool(await tx.scalar(sa.select(sa.exists().where(*mine, late))))

    async def covered(self, ticket_id: str, etag: str) -> list[Span]:
        """The bytes of a layout that went out in any answer, as spans that neither meet nor overlap, in order."""
        query = sa.select(responses.c.spans).where(responses.c.ticket_id == ticket_id, responses.c.etag == etag)
        async with self._db.read() as tx:
            rows = await tx.rows(query)
        return merged(span for row in rows for span in _spans(row))

    async def sweep(self) -> int:
        """Remove those that ended, or fell silent, an hour ago; how many. What they sent stays covered."""
        swept = 0
        while True:
            async with self._db.write() as tx:
                count = await self._fold(tx)
            swept += count
            if count < _BATCH:
                return swept

    async def _fold(self, tx: Transaction) -> int:
        """Put the spans of some old answers into one row for each layout, in the answers' place."""
        old = (responses.c.updated < self._db.now() - KEEP_S, responses.c.state != _FOLDED)
        rows = await tx.rows(sa.select(responses).where(*old).limit(_BATCH).with_for_update())
        spans: dict[tuple[str, str], list[Span]] = {}
        for row in rows:
            if row.etag:  # what has no layout cannot be continued
                spans.setdefault((row.ticket_id, row.etag), []).extend(_spans(row))
        for (ticket_id, etag), sent in sorted(spans.items()):
            mine = (responses.c.ticket_id == ticket_id, responses.c.etag == etag, responses.c.state == _FOLDED)
            for row in await tx.rows(sa.delete(responses).where(*mine).returning(responses.c.spans)):
                sent.extend(_spans(row))
            await tx.execute(sa.insert(responses).values(self._folded(ticket_id, etag, sent)))
        if rows:
            await tx.execute(sa.delete(responses).where(responses.c.id.in_([row.id for row in rows])))
        return len(rows)

    def _folded(self, ticket_id: str, etag: str, sent: Iterable[Span]) -> dict[str, Any]:
        folded = Response(uuid.uuid4().hex, ticket_id, etag, "", _FOLDED)
        now = self._db.now()
        return {**asdict(folded), "spans": _json(merged(sent)), "began": now, "updated": now}


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same bytes as spans that neither meet nor overlap, in order."""
    found: list[Span] = []
    for first, end in sorted(span for span in spans if span[0] < span[1]):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return found


def _json(spans: Sequence[Span]) -> str:
    return json.dumps(spans, separators=(",", ":"))


def _spans(row: Any) -> list[Span]:
    return [(first, end) for first, end in json.loads(row.spans)]


def _response(row: Any) -> Response:
    return Response(
        id=row.id,
        ticket_id=row.ticket_id,
        etag=row.etag,
        instance=row.instance,
        state=ABORTED if row.state == RUNNING and row.silent else row.state,
        spans=tuple(_spans(row)),
        sent=row.sent,
        total=row.total,
        entry=row.entry,
        failures=row.failures,
        began=row.began,
        updated=row.updated,
    )
