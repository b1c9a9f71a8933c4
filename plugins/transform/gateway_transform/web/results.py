"""``GET /job/<id>``: the result, where there is one."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from functools import partial

from aiohttp import hdrs, web
from pydantic import BaseModel

from gateway_core import Gateway, Gone, NotFound
from gateway_core.http.conditional import ETag, Validators, format_http_date
from gateway_core.http.disposition import content_disposition
from gateway_core.http.json_body import validate
from gateway_core.http.representation import Content, Representation, send_representation
from gateway_transform.jobs.model import Job, JobState
from gateway_transform.web.access import asked_job, owner_of
from gateway_transform.web.content import stored_content
from gateway_transform.web.eager import Eager
from gateway_transform.web.waiting import job_within
from gateway_transform.web.zipped import Zipper

TAR = "application/x-tar"
"""What Circe calls a tar.gz, and nothing about its coding: the client takes the bytes as they come."""

ZIP = "application/zip"


class ResultQuery(BaseModel):
    """Any ``zip`` but an empty one asks for a zip; with ``gone`` an expired result is 410 instead of 404."""

    zip: str = ""
    gone: bool = False


class Results:
    """The handler of ``GET /job/<id>``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._zipper = Zipper(gateway)
        self._eager = Eager()

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The result of a job that has ended, in a tar.gz; 202 before that, 404 when there is none (any more).

        A job that failed has a result too: its `out.log` and `status.json` say why. Ranges and conditions are obeyed,
        `Expires` says how long it is kept. With `?zip=1` it comes as a zip. With `?gone=1` an expired one is 410.
        """
        query = validate(ResultQuery, dict(request.query), location="query")
        job_id, owner = asked_job(request), owner_of(request, self._gateway)
        job = await job_within(self._gateway, job_id, owner.id, timeout_s=self._eager.hold_s(job_id))
        if not job.state.final:
            return web.Response(text="Accepted", status=202, headers={hdrs.CACHE_CONTROL: "no-store"})
        return await self.answer(request, job, query)

    async def answer(self, request: web.Request, job: Job, query: ResultQuery) -> web.StreamResponse:
        """What a job that has ended is answered with; raises NotFound, Gone, and as ``send_representation`` does."""
        if job.state is JobState.EXPIRED:
            raise Gone("the result has expired") if query.gone else NotFound
        found = self._as_zip(job) if query.zip else self._as_tar(job)
        return await send_representation(request, found, stall_s=self._gateway.settings.write_stall_s)

    def _as_tar(self, job: Job) -> Representation:
        content = partial(stored_content, self._gateway.storage, job.result.key)
        return Representation(TAR, _validators(job, job.result.sha256), _headers(job), content)

    def _as_zip(self, job: Job) -> Representation:
        def content() -> AbstractAsyncContextManager[Content]:
            return self._zipper.zipped(job)

        named: dict[str, str] = {hdrs.CONTENT_DISPOSITION: content_disposition(f"{job.id}.zip")}
        tag = f"{job.result.sha256}-{self._zipper.kind}"
        return Representation(ZIP, _validators(job, tag), {**_headers(job), **named}, content)


def _validators(job: Job, tag: str) -> Validators:
    """The end of the job is when its result was made; a clock that is behind must not put it into the future."""
    return Validators(ETag(tag), None if job.ended is None else min(job.ended, time.time()))


def _headers(job: Job) -> dict[str, str]:
    """Caches of clients may keep it, and ask each time; nothing on the way may change or compress it."""
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: "private, no-cache, no-transform"}
    if job.expires is not None:
        headers[hdrs.EXPIRES] = format_http_date(job.expires)
    return headers
