"""A job while it lives: how it is, every change of it, and its end before its time."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from gateway_core import Gateway, NotFound
from gateway_core.http.json_body import validate
from gateway_core.http.sse import ServerEvent, send_events
from gateway_transform.jobs.model import ErrorCode, Job, JobState
from gateway_transform.jobs.topics import CANCEL, job_topic
from gateway_transform.web.access import asked_job, owner_of
from gateway_transform.web.waiting import job_changes, job_within
from gateway_transform.work.service import SERVICE_KEY

MAX_WAIT_S = 60.0


class WaitQuery(BaseModel):
    """With ``wait`` the answer comes when the job has ended, or after so many seconds."""

    wait: float = Field(0.0, ge=0.0, le=MAX_WAIT_S)


class JobErrorStatus(BaseModel):
    """Why a job has no good result; ``step`` is the step it happened in."""

    code: ErrorCode
    message: str
    step: str | None


class JobStatus(BaseModel):
    """A job as it is. Times are Unix seconds; ``position`` counts the jobs before it while it is queued.

    ``queued_ms`` is the time before its last run began, ``run_ms`` that of the run. ``steps`` are as in status.json.
    """

    id: str
    state: JobState
    error: JobErrorStatus | None
    attempt: int
    queued_ms: int
    run_ms: int
    step: str | None
    steps: list[dict[str, Any]]
    position: int | None
    cancelling: bool
    created: float
    started: float | None
    ended: float | None
    expires: float | None
    result_bytes: int | None
    result_sha256: str | None


class StatusHandlers:
    """Handlers of ``/job/<id>/status`` and ``/job/<id>/events``, and of DELETE."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def status(self, request: web.Request) -> web.Response:
        """How a job is; with `?wait=30` the answer comes when it has ended, or after as many seconds, at most 60."""
        query = validate(WaitQuery, dict(request.query), location="query")
        job_id, client_id = self._asked(request)
        return _told(await job_within(self._gateway, job_id, client_id, timeout_s=query.wait, with_position=True))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """How a job is, as server-sent events: one `status` now and one after every change, to the job's end."""
        job_id, client_id = self._asked(request)
        await self._gateway.state[SERVICE_KEY].store.find(job_id, client_id)
        events = self._events(job_id, client_id)
        return await send_events(request, events, draining=self._gateway.closing)

    async def delete(self, request: web.Request) -> web.Response:
        """Cancel a job that has not ended: 202 and its status. Erase one that has, with its files: 204.

        A cancelled job still ends, soon, with a result that holds what was there until then.
        """
        gateway, (job_id, client_id) = self._gateway, self._asked(request)
        service = gateway.state[SERVICE_KEY]
        job = await service.store.ask_cancel(job_id, client_id)
        if job.state.final:
            for key in await service.store.erase(job_id, client_id):
                await gateway.storage.delete(key)
            gateway.wakeups.publish(job_topic(job_id), through_database=False)
            return web.Response(status=204)
        service.queue.announce(job_id)
        for topic in (CANCEL, job_topic(job_id)):
            gateway.wakeups.publish(topic)
        return _told(job, status=202)

    def _asked(self, request: web.Request) -> tuple[str, str]:
        return asked_job(request), owner_of(request, self._gateway).id

    async def _events(self, job_id: str, client_id: str) -> AsyncGenerator[ServerEvent, None]:
        async with aclosing(job_changes(self._gateway, job_id, client_id)) as changes:
            with suppress(NotFound):  # erased meanwhile: nothing more will come
                async for job in changes:
                    yield ServerEvent(json.dumps(job.described()), event="status")


def _told(job: Job, *, status: int = 200) -> web.Response:
    return web.json_response(job.described(), status=status, headers={hdrs.CACHE_CONTROL: "no-store"})
