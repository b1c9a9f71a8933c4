"""What is told, to whom, about the end of a job: made from an item of the outbox and the job's row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from gateway_core import Gateway, SourceRefused
from gateway_core.auth.keyring import Keyring
from gateway_core.db.clock import now
from gateway_core.db.outbox import OutboxItem
from gateway_core.errors import StartupError
from gateway_core.sources.urls import parse_url
from gateway_transform.jobs.model import JobState
from gateway_transform.tables import jobs

WAKEUP = "transform:hooks"
"""Published after a commit that has put an item of HOOK_TOPIC into the outbox."""

_MOST_OF_A_MESSAGE = 3000  # characters; the whole stays below 20 kB (Standard Webhooks), whatever they are in JSON
_COLUMNS = (
    jobs.c.id,
    jobs.c.client_id,
    jobs.c.state,
    jobs.c.ended,
    jobs.c.error_code,
    jobs.c.error_message,
    jobs.c.error_step,
    jobs.c.hook,
    jobs.c.hook_form,
    (jobs.c.expires <= now()).label("over"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook to be sent; ``server`` is the URL's origin, the only part of it that may be logged."""

    item: OutboxItem
    job_id: str
    client_id: str
    url: str = field(repr=False)
    server: str
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Nobody:
    """An item of which nobody can be told, and why. ``job_id`` is empty when there is no such job any more."""

    item: OutboxItem
    job_id: str
    why: str


async def read_messages(gateway: Gateway, items: Sequence[OutboxItem]) -> list[Message | Nobody]:
    """What ``items`` stand for, in their order. Raises DatabaseError."""
    ids = {item.payload["job"] for item in items}
    async with gateway.db.read() as tx:
        rows = {row.id: row for row in await tx.rows(sa.select(*_COLUMNS).where(jobs.c.id.in_(ids)))}
    return [_message(item, rows.get(item.payload["job"]), gateway.keyring) for item in items]


def _message(item: OutboxItem, row: Any, keyring: Keyring) -> Message | Nobody:
    if row is None:
        return Nobody(item, "", "the job is gone")
    state = JobState.EXPIRED if row.over else JobState(row.state)
    if not state.final or state is JobState.EXPIRED:
        return Nobody(item, row.id, f"the job is {state}")
    if not row.hook:
        return Nobody(item, row.id, "the job has no webhook")
    try:
        url = keyring.decrypt(row.hook.encode()).decode()
    except StartupError:
        return Nobody(item, row.id, "its address was stored under a key that is no more in SECRET_KEY")
    media_type, body = _standard(row) if row.hook_form == "standard" else _circe(row)
    return Message(item, row.id, row.client_id, url, _origin(url), media_type, body)


def _circe(row: Any) -> tuple[str, bytes]:
    return "application/x-www-form-urlencoded", f"uuid={row.id}".encode()


def _standard(row: Any) -> tuple[str, bytes]:
    error = {"code": row.error_code, "message": row.error_message[:_MOST_OF_A_MESSAGE], "step": row.error_step or None}
    ended = datetime.fromtimestamp(row.ended, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = {"id": row.id, "state": row.state, "error": error if row.error_code else None}
    told = {"type": f"job.{row.state}", "timestamp": ended, "data": data}
    return "application/json", json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _origin(url: str) -> str:
    try:
        return parse_url(url).server.origin
    except SourceRefused:  # the client refuses it when it is sent
        return ""
