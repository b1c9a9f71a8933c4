"""Waiting for a job: woken by signals, which may be lost, so the row is looked at every second as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gateway_core import Gateway
from gateway_core.db.wakeups import Subscription
from gateway_transform.jobs.model import Job
from gateway_transform.jobs.topics import job_topic
from gateway_transform.work.service import SERVICE_KEY

_POLL_S = 1.0


async def ended_job(gateway: Gateway, job_id: str, client_id: str, *, signal: Subscription) -> Job:
    """The job in its final state; ``signal`` has heard of it since before it could end. Raises NotFound."""
    store = gateway.state[SERVICE_KEY].store
    while True:
        await signal.wait(_POLL_S)
        job = await store.find(job_id, client_id)
        if job.state.final:
            return job


async def job_within(
    gateway: Gateway, job_id: str, client_id: str, *, timeout_s: float, with_position: bool = False
) -> Job:
    """The job in its final state, or as it is after ``timeout_s``; raises NotFound.

    When the gateway drains it comes back at once: the caller can ask another one.
    """
    store, clock = gateway.state[SERVICE_KEY].store, asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    with gateway.wakeups.subscribe(job_topic(job_id)) as signal:
        while True:
            job = await store.find(job_id, client_id, with_position=with_position)
            left = deadline - clock()
            if job.state.final or left <= 0 or gateway.draining.is_set():
                return job
            await signal.wait(min(_POLL_S, left))


async def job_changes(gateway: Gateway, job_id: str, client_id: str) -> AsyncGenerator[Job, None]:
    """The job as it is, and again whenever what is told of it has changed, up to its final state; raises NotFound."""
    store, last = gateway.state[SERVICE_KEY].store, None
    with gateway.wakeups.subscribe(job_topic(job_id)) as signal:
        while last is None or not last.state.final:
            if last is not None:
                await signal.wait(_POLL_S)
            job = await store.find(job_id, client_id, with_position=True)
            if last is None or job.described() != last.described():
                yield job
            last = job
