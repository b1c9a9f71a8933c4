"""What happened, for observers: every type of event stands in this file.

Events tell; they carry no secrets and decide nothing. ``gateway_event`` gets them on the emitting process only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: ``name`` is ``<plugin>.<thing>.<past tense>``, ``data`` plain values."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


CLIENT_CREATED = "core.client.created"
CLIENT_REVOKED = "core.client.revoked"
CLIENT_ROTATED = "core.client.rotated"
SERVER_READY = "core.server.ready"
SERVER_DRAINING = "core.server.draining"
TICKET_CREATED = "archive.ticket.created"
TICKET_EXPIRED = "archive.ticket.expired"
DOWNLOAD_STARTED = "archive.download.started"
DOWNLOAD_COMPLETED = "archive.download.completed"
DOWNLOAD_ABORTED = "archive.download.aborted"
ITEM_FAILED = "archive.item.failed"
WEBHOOK_DELIVERED = "transform.webhook.delivered"
WEBHOOK_FAILED = "transform.webhook.failed"
WEBHOOK_GIVEN_UP = "transform.webhook.given_up"
JOB_ACCEPTED = "transform.job.accepted"
JOB_STARTED = "transform.job.started"
JOB_ENDED = "transform.job.ended"
PIPE_NODE_CONNECTED = "pipe.node.connected"
PIPE_NODE_GONE = "pipe.node.gone"
PIPE_NODE_REPLACED = "pipe.node.replaced"
PIPE_NODE_REVOKED = "pipe.node.revoked"
