"""Many webhooks, receivers and processes: each message is sent once, and none waits for another's receiver."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa
import structlog

from gateway_core.db.outbox import Outbox
from gateway_core.db.tables import outbox
from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Resource
from gateway_core.testing.upstream_behaviour import Stall
from gateway_transform.jobs.claims import HOOK_TOPIC
from tests.transform import hook_stand
from tests.transform.hook_stand import Stand, outcomes

make_stand = hook_stand.make_stand
stand = hook_stand.stand


async def test_slow_receiver_does_not_hold_up_others(stand: Stand):
    silent = stand.receiver.add("/silent", b"", Stall())
    waiting = [await stand.ended(silent) for _ in range(60)]
    async with Upstream() as other, stand.delivering(webhook_timeout_s=60):
        await stand.receiver.wait_requests(1)
        quick = [await stand.ended(other.add("/quick")) for _ in range(10)]
        await stand.told(10, name="delivered")
        assert {event.data["job"] for event in stand.events} == set(quick)
        assert len(stand.receiver.seen("/silent")) <= 4
        stand.receiver.release("/silent")
    tried = {row.id: row.attempt for row in await stand.left()}
    assert len(tried) >= len(waiting) - 5
    assert set(tried.values()) == {0}, "what had to wait has lost none of its tries"


async def test_slow_receiver_gets_all_of_its_messages(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway_transform.hooks.lanes._SLOW_S", 0.01)
    monkeypatch.setattr("gateway_transform.hooks.delivery._PUT_OFF_S", 0.05)
    hook = stand.receiver.add("/hook", b"", Stall(seconds=0.05))
    jobs = [await stand.ended(hook) for _ in range(30)]
    async with stand.delivering():
        await stand.told(30, name="delivered")
    assert Counter(request.body for request in stand.receiver.requests) == {f"uuid={job}".encode(): 1 for job in jobs}
    assert {tried.try_number for tried in await stand.tries()} == {1}


async def test_one_receiver_of_many_messages_gets_each_once_and_few_at_a_time(stand: Stand):
    hook = stand.receiver.add("/hook")
    jobs = [await stand.ended(hook) for _ in range(50)]
    async with stand.delivering():
        await stand.told(50, name="delivered")
    assert Counter(request.body for request in stand.receiver.requests) == {f"uuid={job}".encode(): 1 for job in jobs}
    assert stand.receiver.peak_requests <= 4


async def test_several_processes_share_the_messages(stand: Stand):
    hook = stand.receiver.add("/hook")
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(stand.delivering())
        jobs = [await stand.ended(hook) for _ in range(30)]
        await stand.told(30, name="delivered")
    assert Counter(request.body for request in stand.receiver.requests) == {f"uuid={job}".encode(): 1 for job in jobs}


async def test_message_of_a_sender_that_died_is_sent_by_another(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook"))
    (claimed,) = await Outbox(stand.gateway.db).claim(HOOK_TOPIC, limit=1, lease_s=0.2)
    async with stand.delivering():
        await stand.told(1, name="delivered")
    assert stand.receiver.requests[0].headers["webhook-id"] == claimed.id
    assert outcomes(await stand.tries(job)) == [(2, "delivered", 200)]


async def test_sender_that_was_too_slow_leaves_the_message_to_who_has_it_now(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", b"", Stall()))
    with structlog.testing.capture_logs() as lines:
        async with stand.delivering():
            await stand.receiver.wait_requests(1)
            async with stand.gateway.db.write() as tx:
                await tx.execute(sa.update(outbox).values(attempt=outbox.c.attempt + 1))
            stand.receiver.release("/hook")
    assert [line["event"] for line in lines] == ["webhook not settled, it will come again"]
    assert outcomes(await stand.tries(job)) == [(1, "delivered", 200)]
    assert [row.attempt for row in await stand.left()] == [2]


async def test_work_goes_on_after_the_database_failed(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway_transform.hooks.delivery._AFTER_FAILURE_S", 0.05)

    async def rename(old: str, new: str) -> None:
        async with stand.gateway.db.write() as tx:
            await tx.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))

    await stand.ended(stand.receiver.add("/hook"))
    await rename("outbox", "away")
    with structlog.testing.capture_logs() as lines:
        async with stand.delivering():
            async with asyncio.timeout(10):
                while not lines:
                    await asyncio.sleep(0.01)
            await rename("away", "outbox")
            await stand.told(1, name="delivered")
    assert len(stand.receiver.requests) == 1


async def test_message_that_comes_while_nothing_is_to_be_done_is_sent_at_once(stand: Stand):
    hook = stand.receiver.add("/hook")
    async with stand.delivering():
        await stand.ended(hook)
        await stand.told(1, name="delivered")
        before = time.monotonic()
        await stand.ended(hook)
        await stand.told(2, name="delivered")
    assert time.monotonic() - before < 5


async def test_message_on_its_way_is_settled_before_the_process_ends(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", b"", Stall()))
    async with stand.delivering():
        await stand.receiver.wait_requests(1)
        asyncio.get_running_loop().call_later(0.1, stand.receiver.release, "/hook")
    assert outcomes(await stand.tries(job)) == [(1, "delivered", 200)]


async def test_answer_of_a_receiver_stays_out_of_the_logs(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", Resource(b"no token=hidden", status=400)))
    with structlog.testing.capture_logs() as lines:
        async with stand.delivering(webhook_backoff_s=(0,)):
            await stand.told(1)
    assert (lines[0]["event"], lines[0]["job"], lines[0]["status"]) == ("webhook given_up", job, 400)
    assert "hidden" not in str(lines)


async def test_process_that_drains_begins_nothing_new(stand: Stand):
    stand.gateway.draining.set()
    await stand.ended(stand.receiver.add("/hook"))
    async with stand.delivering():
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "transform webhooks"], timeout=5)
    assert (stand.receiver.requests, len(await stand.left())) == ([], 1)
