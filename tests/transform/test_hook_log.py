"""What is told of webhooks: the delivery log, metrics, events and logs; and who is told nothing."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from prometheus_client import REGISTRY

from gateway_core import Conflict, NotFound
from gateway_core.auth.keyring import Keyring
from gateway_core.db.clock import now
from gateway_core.testing.services import free_port
from gateway_core.testing.upstream_behaviour import Raw, Status
from gateway_transform.hooks.log import deliveries, replay
from gateway_transform.tables import jobs
from tests.transform import hook_stand
from tests.transform.hook_stand import Stand, outcomes
from tests.transform.rows import add_job

make_stand = hook_stand.make_stand
stand = hook_stand.stand


# Jobs that cannot be told of


async def test_erased_job_is_told_to_nobody(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook"))
    async with stand.gateway.db.write() as tx:
        await tx.execute(sa.delete(jobs).where(jobs.c.id == job))
    async with stand.delivering():
        await stand.told(1, name="given_up")
    assert (stand.receiver.requests, await stand.left(), await stand.tries()) == ([], [], [])


@pytest.mark.parametrize(
    ("columns", "detail"),
    [
        ({"state": "queued", "ended": None}, "the job is queued"),
        ({"state": "running", "ended": None}, "the job is running"),
        ({"state": "expired"}, "the job is expired"),
        ({"expires": now() - 1}, "the job is expired"),
        ({"hook": ""}, "the job has no webhook"),
    ],
    ids=["queued", "running", "expired", "its time is up", "no hook"],
)
async def test_job_that_has_not_ended_or_is_over_is_told_to_nobody(stand: Stand, columns: dict[str, Any], detail: str):
    job = await stand.due(await add_job(stand.gateway, **{"hook": stand.receiver.add("/hook"), **columns}))
    async with stand.delivering():
        await stand.told(1, name="given_up")
    (tried,) = await stand.tries(job)
    assert (tried.outcome, tried.detail) == ("given_up", detail)
    assert (stand.receiver.requests, await stand.left()) == ([], [])


async def test_hook_whose_key_is_lost_is_given_up(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook"))
    foreign = Keyring(["another key of sixteen characters"]).encrypt(b"http://127.0.0.1/").decode()
    async with stand.gateway.db.write() as tx:
        await tx.execute(sa.update(jobs).where(jobs.c.id == job).values(hook=foreign))
    async with stand.delivering():
        await stand.told(1, name="given_up")
    assert "SECRET_KEY" in (await stand.tries(job))[0].detail
    assert await stand.left() == []


# The log


async def test_replay_sends_a_new_message_with_all_tries(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", b"", Status(410, times=1), Status(500, times=1)))
    async with stand.delivering():
        await stand.told(1, name="given_up")
        message_id = await replay(stand.gateway, job)
        await stand.told(1, name="delivered")
    first, *again = (request.headers["webhook-id"] for request in stand.receiver.requests)
    assert (again, first == message_id) == ([message_id] * 2, False)
    assert outcomes(await stand.tries(job)) == [(1, "given_up", 410), (1, "failed", 500), (2, "delivered", 200)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"state": "running", "ended": None}, "The job is running"),
        ({"state": "expired"}, "The job is expired"),
        ({"expires": now() - 1}, "The job is expired"),
        ({"hook": ""}, "The job has no webhook"),
    ],
    ids=["running", "expired", "its time is up", "no hook"],
)
async def test_replay_of_a_job_that_cannot_be_told_of_is_a_conflict(
    stand: Stand, columns: dict[str, Any], message: str
):
    job = await add_job(stand.gateway, **{"hook": "https://hooks.example/", **columns})
    with pytest.raises(Conflict, match=message):
        await replay(stand.gateway, job)
    assert await stand.left() == []


async def test_replay_of_no_job_is_told(stand: Stand):
    with pytest.raises(NotFound):
        await replay(stand.gateway, "0" * 32)


async def test_log_shows_the_last_tries_of_one_job_or_of_all(stand: Stand):
    hook = stand.receiver.add("/hook", b"", Status(500))
    async with stand.delivering():
        first = await stand.ended(hook)
        await stand.told(1, name="given_up")
        second = await stand.ended(hook)
        await stand.told(2, name="given_up")
    shown = await deliveries(stand.gateway)
    assert [(one.job_id, one.try_number) for one in shown] == [(job, n) for job in (second, first) for n in (3, 2, 1)]
    assert [one.try_number for one in await deliveries(stand.gateway, first, limit=2)] == [3, 2]
    assert all(time.time() - 60 < one.at < time.time() + 60 and 0 <= one.took_ms < 60_000 for one in shown)


async def test_metrics_and_events_tell_every_outcome(stand: Stand):
    def counted() -> dict[str, float]:
        names = ("delivered", "failed", "given_up")
        metric = "gateway_transform_webhooks_total"
        return {name: REGISTRY.get_sample_value(metric, {"outcome": name}) or 0 for name in names}

    before = counted()
    job = await stand.ended(stand.receiver.add("/hook", b"", Status(500, times=1), Status(410, times=1)))
    async with stand.delivering():
        await stand.told(1, name="given_up")
        await replay(stand.gateway, job)
        events = await stand.told(3)
    assert [(event.name, event.data["job"], event.data["attempt"], event.data["status"]) for event in events] == [
        ("transform.webhook.failed", job, 1, 500),
        ("transform.webhook.given_up", job, 2, 410),
        ("transform.webhook.delivered", job, 1, 200),
    ]
    assert {name: value - before[name] for name, value in counted().items()} == dict.fromkeys(before, 1)


async def test_no_log_line_and_no_row_has_the_path_query_or_credentials_of_a_hook(
    stand: Stand, caplog: pytest.LogCaptureFixture
):
    port = free_port()
    hooks = [
        stand.receiver.add("/hidden/ok"),
        stand.receiver.add("/hidden/failing", b"", Status(500)),
        stand.receiver.add("/hidden/broken", b"", Raw(b"nonsense\r\n\r\n")),
        f"http://127.0.0.1:{port}/hidden/away",
        f"http://10.0.0.1:{port}/hidden/refused",
        f"ftp://127.0.0.1:{port}/hidden/other",
    ]
    with structlog.testing.capture_logs() as lines, caplog.at_level(logging.DEBUG):
        for hook in hooks:
            await stand.ended(hook.replace("://", "://user:hidden@") + "?token=hidden")
        async with stand.delivering(webhook_backoff_s=(0,)):
            await stand.told(len(hooks))
    async with stand.gateway.db.read() as tx:
        stored = str(await tx.rows(sa.select(jobs)))
    said = str(lines) + caplog.text + str(await stand.tries()) + str(stand.events) + stored
    assert "10.0.0.1" in said
    assert "hidden" not in said
