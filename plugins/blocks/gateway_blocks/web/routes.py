"""The blocks plugin's routes: the file server, reliable-download's ``/rd/``, and the state of the hashing."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel

from gateway_blocks.files.serving import base_path
from gateway_blocks.settings import BlocksSettings
from gateway_blocks.source import SCOPE
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.service import SERVICE_KEY
from gateway_blocks.web.files import Files
from gateway_blocks.web.metadata import Metadata, ReportBody, WaitQuery, rd_errors
from gateway_core import Body, Gateway, Kind, Route

_MOST_LISTED = 100


class FileState(BaseModel):
    """A file that is being hashed, or waits for it: ``eta_s`` is null while there is no rate."""

    path: str
    size: int
    blocks: int
    hashed_blocks: int
    eta_s: float | None


class QueueState(BaseModel):
    """What this process hashes. ``whole_waiting`` counts the files whose SHA-256 is still to come."""

    active: list[FileState]
    waiting: list[FileState]
    waiting_count: int
    whole_waiting: int


class QueueHandlers:
    """The state of the hashing."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def show(self, _request: web.Request) -> web.Response:
        """What is being hashed by the process that answers, and what waits for it."""
        queue = self._gateway.state[SERVICE_KEY].catalogue.queue()
        state = QueueState(
            active=[_state(record) for record in queue.active],
            waiting=[_state(record) for record in queue.waiting[:_MOST_LISTED]],
            waiting_count=len(queue.waiting),
            whole_waiting=queue.whole_waiting,
        )
        return web.json_response(state.model_dump())


def blocks_routes(gateway: Gateway) -> list[Route]:
    """All routes of the plugin; where the mount is ``/`` the files come after every other route."""
    settings = gateway.section(BlocksSettings)
    files, metadata, queue = Files(gateway), Metadata(gateway), QueueHandlers(gateway)
    access: dict[str, Any] = {"public": True} if settings.public else {"scope": SCOPE}
    stream: dict[str, Any] = {"kind": Kind.STREAM, **access}
    rd: dict[str, Any] = {"at_root": True, "errors": rd_errors, **access}
    routes = [
        Route(
            method="GET",
            path="/rd/{path:(?s:.*)}",
            handler=metadata.blocks,
            name="blocks",
            kind=Kind.STREAM,
            query=WaitQuery,
            **rd,
        ),
        Route(
            method="POST",
            path="/rd/{path:(?s:.*)}",
            handler=metadata.report,
            name="report",
            body=Body.JSON,
            request=ReportBody,
            **rd,
        ),
        Route(method="GET", path="/blocks/queue", handler=queue.show, name="queue", response=QueueState, scope=SCOPE),
        Route(
            method="GET",
            path=f"{settings.mount}/{{path:(?s:.*)}}",
            handler=files.serve,
            name="file",
            media_type="application/octet-stream",
            **stream,
        ),
    ]
    if base := base_path(settings):
        to_folder = Route(
            method="GET", path=base, handler=files.to_folder, name="mount", at_root=True, in_openapi=False, **access
        )
        routes.append(to_folder)
    return routes


def _state(record: Record) -> FileState:
    return FileState(
        path=record.key.path,
        size=record.layout.size_bytes,
        blocks=record.layout.count,
        hashed_blocks=record.table.known,
        eta_s=None if (eta_s := record.eta_s()) is None else round(eta_s, 1),
    )
