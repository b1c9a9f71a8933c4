"""``POST /job/``: an archive on its way into the storage, and a row for it once it is whole."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from aiohttp import hdrs, web

from gateway_core import BadRequest, Client, Conflict, Gateway, Invalid
from gateway_core.db.idempotency import Idempotency, Outcome, Reservation
from gateway_core.errors import HttpError
from gateway_core.http.body import BodyLimits, body
from gateway_core.http.json_body import validate
from gateway_core.http.links import external_base
from gateway_core.observe.events import JOB_ACCEPTED
from gateway_core.settled import settled
from gateway_core.storage.base import Writer
from gateway_transform.jobs.model import Job, Upload
from gateway_transform.jobs.objects import input_key
from gateway_transform.jobs.topics import job_topic
from gateway_transform.settings import TransformSettings
from gateway_transform.web.access import owner_of
from gateway_transform.web.results import ResultQuery, Results
from gateway_transform.web.waiting import ended_job
from gateway_transform.work.service import SERVICE_KEY, Service

IDEMPOTENCY_KEY = "Idempotency-Key"
_LONGEST_KEY = 255
_SMALL_BYTES = 64 << 10


class SubmitQuery(ResultQuery):
    """Any ``block`` but an empty one waits for the result; ``strict`` refuses what is known to fail."""

    block: str = ""
    strict: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """A job to be: ``repeat_key`` is its Idempotency-Key, empty for none."""

    job_id: str
    owner: Client
    strict: bool
    repeat_key: str


class Uploads:
    """The handler of ``POST /job/``."""

    def __init__(self, gateway: Gateway, results: Results) -> None:
        self._gateway = gateway
        self._results = results
        self._settings = gateway.section(TransformSettings)

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Take a tar.gz that holds a `job.json`; the answer is the id of the job, 32 hex characters.

        With `?block=1` the answer comes when the job has ended and is its result, also of one that failed. With
        `?strict=1` an archive that cannot be read, or asks for what is not there, is refused instead of becoming a job
        that fails. With an `Idempotency-Key` the same archive can be sent again: it becomes one job.
        """
        query = validate(SubmitQuery, dict(request.query), location="query")
        gateway = self._gateway
        base = external_base(request, gateway.public_url, gateway.trusted_proxies)
        order = _Order(uuid.uuid4().hex, owner_of(request, gateway), query.strict, _repeat_key(request))
        # a repeated request gets its answer however full the queue is by now, a small one with its acceptance
        if not order.repeat_key and (request.content_length or _SMALL_BYTES) >= _SMALL_BYTES:
            await self._service.store.has_room(order.owner.id)
        if query.block:
            return await self._results.answer(request, await self._ended(request, order), query)
        job_id = await self._receive(request, order)
        location = f"{base}{self._settings.prefix}/job/{job_id}"
        return web.Response(text=job_id, headers={hdrs.LOCATION: location, hdrs.CACHE_CONTROL: "no-store"})

    async def _ended(self, request: web.Request, order: _Order) -> Job:
        """The job that the body became, when it has ended."""
        gateway = self._gateway
        with gateway.wakeups.subscribe(job_topic(order.job_id)) as signal:
            job_id = await self._receive(request, order)
            if job_id != order.job_id:  # an earlier one, which may have ended
                signal.wake()
            return await ended_job(gateway, job_id, order.owner.id, signal=signal)

    @property
    def _service(self) -> Service:
        return self._gateway.state[SERVICE_KEY]

    async def _receive(self, request: web.Request, order: _Order) -> str:
        """The id of the job that the body became; nothing of it is to be seen before it is whole and proven."""
        limits = BodyLimits(max_bytes=self._settings.upload_bytes(order.owner.name))
        async with self._gateway.storage.writer(input_key(order.job_id)) as writer:
            async for chunk in body(request, limits):
                await writer.write(chunk)
            return await settled(self._keep(writer, order))

    async def _keep(self, writer: Writer, order: _Order) -> str:
        """Publish the archive and its row. Where it becomes no job of its own the archive is deleted.

        After a database error it is left to the retention, since the row may be there.
        """
        stored = await writer.commit()
        upload = Upload(stored.key, stored.sha256, stored.size_bytes)
        try:
            if order.strict:
                await self._scan(upload)
            job_id = await self._accept(order, upload)
        except HttpError:
            await self._gateway.storage.delete(upload.key)
            raise
        if job_id == order.job_id:
            self._service.queue.announce(job_id)
            self._gateway.emit(JOB_ACCEPTED, job=job_id, client=order.owner.id, bytes=upload.size_bytes)
        else:
            await self._gateway.storage.delete(upload.key)
        return job_id

    async def _scan(self, upload: Upload) -> None:
        """Raise Invalid, by field of job.json, or BadRequest for an archive whose job is known to fail."""
        found = await self._service.scan(upload.key, upload.size_bytes)
        if found["fields"]:
            raise Invalid(found["fields"])
        if found["error"] is not None:
            raise BadRequest(f"{found['error']['code']}: {found['error']['message']}")

    async def _accept(self, order: _Order, upload: Upload) -> str:
        """Insert the row and answer for its key in one transaction; returns the earlier job's id for a repetition.

        Raises TooManyRequests, Conflict, Invalid.
        """
        store, repeats = self._service.store, Idempotency(self._gateway.db)
        async with self._gateway.db.write() as tx:
            if not order.repeat_key:
                await store.accept(tx, order.job_id, order.owner.id, upload=upload)
                return order.job_id
            reserved = await repeats.reserve(tx, order.owner.id, order.repeat_key, fingerprint=upload.sha256)
            if reserved.outcome is Outcome.NEW:
                await store.accept(tx, order.job_id, order.owner.id, upload=upload)
                await repeats.store(tx, reserved, order.job_id)
                return order.job_id
        return _answered_before(reserved)


def _repeat_key(request: web.Request) -> str:
    """The Idempotency-Key, empty where there is none; raises Invalid for one that no database takes."""
    key = request.headers.get(IDEMPOTENCY_KEY, "")
    if len(key) > _LONGEST_KEY or not key.isprintable():
        raise Invalid({IDEMPOTENCY_KEY: [f"At most {_LONGEST_KEY} printable characters."]}, location="headers")
    return key


def _answered_before(reserved: Reservation) -> str:
    if reserved.outcome is Outcome.CONFLICT:
        raise Invalid({IDEMPOTENCY_KEY: ["It came with another archive before."]}, location="headers")
    if reserved.response is None:
        raise Conflict("The first request with this Idempotency-Key is still under way")
    return reserved.response
