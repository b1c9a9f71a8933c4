"""What a durable call is, to the client that made it and on its way to the node."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gateway_pipe.link.model import Head, Opening, header_of

MAX_TTL_S = 30 * 86400.0
"""Longest life of a call; a node remembers what it has answered for as long."""

SMALL_BYTES = 64 * 1024
"""Bodies up to this stand in the row, larger ones in the storage."""

DONE_HEADER = "X-Pipe-Done"
"""In a call to a node: the id of an earlier one whose result is kept here, so that the node need not keep it."""

ATTEMPT_HEADER = "X-Pipe-Attempt"
"""What a handler sees: 1, or more when an earlier run of the same call was cut short."""

OWN_HEADERS = frozenset({DONE_HEADER.lower(), ATTEMPT_HEADER.lower()})
"""Headers that no client may set, in lower case."""


class CallState(StrEnum):
    """``WAITING`` also while a node works on it; the others are final."""

    WAITING = "waiting"
    DONE = "done"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCall:
    """A call that a client makes; ``key`` is its Idempotency-Key, empty for none."""

    client_id: str
    node: str
    opening: Opening
    ttl_s: float
    key: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def wanted(self) -> Opening:
        """What the node gets at each try, but for the time that is left."""
        headers = tuple(pair for pair in self.opening.headers if pair[0].lower() not in OWN_HEADERS)
        return replace(self.opening, headers=headers, node="", call=self.id, key=self.key, timeout_ms=None)

    def fingerprint(self) -> Any:
        """A SHA-256 of what is asked and of whom; the body is still to be added."""
        opening = self.opening
        digest = hashlib.sha256()
        for text in (opening.method, self.node, opening.target, opening.header("Content-Type")):
            part = text.encode(errors="surrogateescape")
            digest.update(len(part).to_bytes(8) + part)
        return digest


@dataclass(frozen=True, slots=True)
class Stowed:
    """A body: ``data`` where it is small, else the object ``key`` of the storage."""

    data: bytes | None
    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as its client sees it. Times are Unix seconds; ``expires`` is when a final one is forgotten.

    ``head`` and ``result`` are there when it is done.
    """

    id: str
    node: str
    state: CallState
    opening: Opening
    attempts: int
    created: float
    deadline: float
    ended: float | None
    expires: float | None
    head: Head | None = None
    result: Stowed | None = None

    @property
    def content_type(self) -> str:
        """Of the result, empty where it has none."""
        return "" if self.head is None else header_of(self.head.headers, "Content-Type")

    def described(self) -> dict[str, Any]:
        """Everything but the result, as ``GET /pipe/calls`` tells it."""
        head = self.head
        return {
            "id": self.id,
            "node": self.node,
            "state": self.state.value,
            "done": self.state is not CallState.WAITING,
            "method": self.opening.method,
            "target": self.opening.target,
            "code": None if head is None else head.code,
            "status": None if head is None else head.status,
            "content_type": self.content_type or None,
            "result_bytes": None if self.result is None else self.result.size_bytes,
            "created": self.created,
            "expires": self.deadline if self.expires is None else self.expires,
            "ended": self.ended,
            "attempts": self.attempts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The next call of a node. ``left_s`` is what is left of its life, below 0 when it is over.

    ``unreadable`` tells that its credentials stayed encrypted, because no key fits.
    """

    id: str
    opening: Opening
    body: Stowed
    left_s: float
    unreadable: bool = False


def failure(error: BaseException) -> tuple[Head, bytes]:
    """The answer of a call that can have no other, as that of a handler that raised: code 251."""
    said = {"exception": {"message": str(error), "class": type(error).__name__, "traceback": ""}}
    head = Head(status=502, code=251, headers=(("Content-Type", "application/json"),))
    return head, json.dumps(said).encode()
