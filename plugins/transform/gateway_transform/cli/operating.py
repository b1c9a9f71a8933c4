"""What operators' commands do with an opened gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click

from gateway_core import ConfigError, Gateway
from gateway_core.cli import run
from gateway_transform.hooks import log
from gateway_transform.jobs.model import Job, JobState
from gateway_transform.jobs.store import JobStore
from gateway_transform.jobs.topics import QUEUE, job_topic
from gateway_transform.settings import TransformSettings

_MOST_DEAD = 1000


def show_jobs(state: str | None, limit: int, *, as_json: bool) -> None:
    """One line a job."""

    async def work(gateway: Gateway) -> None:
        found = await _store(gateway).listed(state=None if state is None else JobState(state), limit=limit)
        await _show(gateway, found, as_json=as_json)

    run(work)


def show_dead(*, as_json: bool) -> None:
    """One line a job."""

    async def work(gateway: Gateway) -> None:
        await _show(gateway, await _store(gateway).dead_letters(_MOST_DEAD), as_json=as_json)

    run(work)


def try_again(text: str) -> None:
    """Raises NotFound, and Conflict when the job has not failed or its input is gone."""
    job_id = _id(text)

    async def work(gateway: Gateway) -> None:
        await _store(gateway).retry(job_id)
        for topic in (QUEUE, job_topic(job_id)):
            gateway.wakeups.publish(topic)

    run(work)
    click.echo(f"Job queued again: {job_id}")


def show_deliveries(text: str | None, *, as_json: bool) -> None:
    """One line a try."""
    job_id = None if text is None else _id(text)

    async def work(gateway: Gateway) -> Sequence[log.Delivery]:
        _section(gateway)
        return await log.deliveries(gateway, job_id)

    found = run(work)
    if as_json:
        click.echo(json.dumps([asdict(delivery) for delivery in found], indent=2))
        return
    for d in found:
        status = "-" if d.status is None else d.status
        click.echo(
            _line(d.job_id, _date(d.at), f"try {d.try_number}", d.outcome.value, status, f"{d.took_ms} ms", d.detail)
        )


def deliver_again(text: str) -> None:
    """Raises NotFound, and Conflict when there is nothing to tell."""
    job_id = _id(text)

    async def work(gateway: Gateway) -> str:
        _section(gateway)
        return await log.replay(gateway, job_id)

    click.echo(f"Webhook queued: {job_id} as {run(work)}")


async def _show(gateway: Gateway, found: Sequence[Job], *, as_json: bool) -> None:
    names = {client.id: client.name for client in await gateway.clients.list()}
    owners = [names.get(job.client_id, job.client_id or "-") for job in found]
    if as_json:
        rows = [{**job.described(), "client": owner} for job, owner in zip(found, owners, strict=True)]
        click.echo(json.dumps(rows, indent=2))
        return
    for job, owner in zip(found, owners, strict=True):
        error = "" if job.error is None else f"{job.error.code}: {job.error.message}"
        state = "cancelling" if job.cancelling and not job.state.final else job.state.value
        click.echo(_line(job.id, state, _date(job.created), f"attempt {job.attempt}", f"{job.run_ms} ms", owner, error))


def _line(*columns: object) -> str:
    """What comes from elsewhere is shown without what could steer a terminal."""
    text = "  ".join(str(column) for column in columns).rstrip()
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _store(gateway: Gateway) -> JobStore:
    return JobStore(gateway.db, _section(gateway))


def _section(gateway: Gateway) -> TransformSettings:
    """The plugin's settings; raises ConfigError when it is switched off here, and with it its tables."""
    try:
        return gateway.section(TransformSettings)
    except ConfigError as exc:
        raise ConfigError("the plugin transform is not enabled here (PLUGINS)") from exc


def _id(text: str) -> str:
    plain = text.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", plain):
        raise click.BadParameter("a job's id has 32 hex digits", param_hint="ID")
    return plain


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
