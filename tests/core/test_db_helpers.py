"""Outbox, idempotency and sweeping."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from sqlalchemy import func, insert, select

from gateway_core.db.engine import Database
from gateway_core.db.idempotency import Idempotency, Outcome, Reservation
from gateway_core.db.outbox import Outbox, OutboxItem
from gateway_core.db.sweep import sweep_rows
from gateway_core.db.tables import idempotency, outbox, wakeups
from gateway_core.errors import LeaseLost

pytestmark = pytest.mark.usefixtures("no_forgotten_failure")


@pytest.fixture
def box(db: Database) -> Outbox:
    return Outbox(db)


async def put(db: Database, box: Outbox, *numbers: int, topic: str = "hook", delay_s: float = 0.0) -> list[str]:
    async with db.write() as tx:
        return [await box.put(tx, topic, {"n": number}, delay_s=delay_s) for number in numbers]


async def claim(box: Outbox, *, limit: int = 10, lease_s: float = 30.0, topic: str = "hook") -> list[OutboxItem]:
    return await box.claim(topic, limit=limit, lease_s=lease_s)


def numbers(items: Iterable[OutboxItem]) -> list[int]:
    return [item.payload["n"] for item in items]


async def test_item_put_in_a_transaction_that_fails_never_comes(db: Database, box: Outbox):
    async def fail() -> None:
        async with db.write() as tx:
            await box.put(tx, "hook", {"n": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await claim(box) == []


async def test_items_come_oldest_first_with_their_payload_and_first_attempt(db: Database, box: Outbox):
    for number in range(3):
        await put(db, box, number)
    items = await claim(box)
    assert numbers(items) == [0, 1, 2]
    assert {item.attempt for item in items} == {1}


async def test_claim_takes_only_due_items_of_its_topic_up_to_its_limit(db: Database, box: Outbox):
    await put(db, box, 1, 2, 3)
    await put(db, box, 4, topic="other")
    await put(db, box, 5, delay_s=60.0)
    assert len(await claim(box, limit=2)) == 2
    assert len(await claim(box)) == 1


async def test_no_item_is_claimed_by_two_at_once(db: Database, box: Outbox):
    await put(db, box, *range(40))
    claims = await asyncio.gather(*(claim(box, limit=7) for _ in range(8)))
    claimed = [number for items in claims for number in numbers(items)]
    assert claimed
    assert len(claimed) == len(set(claimed))
    assert all(len(items) <= 7 for items in claims)


async def test_done_item_never_comes_again(db: Database, box: Outbox):
    await put(db, box, 1)
    (item,) = await claim(box, lease_s=0.0)
    await box.done(item)
    assert await claim(box) == []
    assert await box.next_due_s("hook") is None


async def test_item_whose_handler_died_comes_again_and_the_dead_one_cannot_end_it(db: Database, box: Outbox):
    await put(db, box, 1)
    (first,) = await claim(box, lease_s=0.0)
    (second,) = await claim(box)
    assert (second.id, second.attempt) == (first.id, 2)
    for end in (box.done(first), box.retry(first, 0.0), box.dead(first, "late")):
        with pytest.raises(LeaseLost):
            await end
    await box.done(second)


async def test_retried_item_comes_after_its_delay_with_the_next_attempt(db: Database, box: Outbox):
    await put(db, box, 1)
    (item,) = await claim(box)
    await box.retry(item, 60.0)
    assert await claim(box) == []
    assert 50.0 < (await box.next_due_s("hook") or 0.0) <= 60.0
    await box.retry(item, 0.0)
    (again,) = await claim(box)
    assert again.attempt == 2


async def test_item_that_is_put_off_comes_after_its_delay_with_the_same_attempt(db: Database, box: Outbox):
    await put(db, box, 1, 2)
    await box.put_off(await claim(box), 60.0)
    assert await claim(box) == []
    assert 50.0 < (await box.next_due_s("hook") or 0.0) <= 60.0
    await put(db, box, 3)
    await box.put_off(await claim(box), 0.0)
    assert [(item.payload["n"], item.attempt) for item in await claim(box)] == [(3, 1)]


async def test_item_that_another_has_cannot_be_put_off(db: Database, box: Outbox):
    await put(db, box, 1)
    lost = await claim(box, lease_s=0.0)
    (held,) = await claim(box, lease_s=0.0)
    await box.put_off(lost, 60.0)
    await box.done(held)
    await box.put_off([held], 0.0)
    assert await claim(box) == []


async def test_dead_item_stays_with_its_error_and_never_comes_again(db: Database, box: Outbox):
    await put(db, box, 1)
    (item,) = await claim(box, lease_s=0.0)
    await box.dead(item, "410 Gone")
    assert await claim(box) == []
    async with db.read() as tx:
        assert await tx.scalar(select(outbox.c.error)) == "410 Gone"


async def test_sweep_of_the_outbox_takes_only_what_is_finished_and_old(db: Database, box: Outbox):
    await put(db, box, 1, 2)
    first, _ = await claim(box)
    await box.done(first)
    assert await box.sweep(60.0) == 0
    assert await box.sweep(-60.0) == 1
    async with db.read() as tx:
        assert await tx.scalar(select(func.count()).select_from(outbox)) == 1


@pytest.fixture
def keys(db: Database) -> Idempotency:
    return Idempotency(db)


async def reserve(db: Database, keys: Idempotency, fingerprint: str = "body", hold_s: float = 60.0) -> Reservation:
    async with db.write() as tx:
        return await keys.reserve(tx, "client", "key", fingerprint=fingerprint, hold_s=hold_s)


async def store(db: Database, keys: Idempotency, reservation: Reservation, ttl_s: float = 3600.0) -> None:
    async with db.write() as tx:
        await keys.store(tx, reservation, "answer", ttl_s=ttl_s)


async def test_first_request_is_new_and_its_repetition_gets_the_same_answer(db: Database, keys: Idempotency):
    first = await reserve(db, keys)
    assert first.outcome is Outcome.NEW
    await store(db, keys, first)
    again = await reserve(db, keys)
    assert (again.outcome, again.response) == (Outcome.REPLAY, "answer")


async def test_repetition_during_the_first_request_is_told_so(db: Database, keys: Idempotency):
    await reserve(db, keys)
    assert (await reserve(db, keys)).outcome is Outcome.IN_PROGRESS


async def test_same_key_with_another_body_is_a_conflict(db: Database, keys: Idempotency):
    first = await reserve(db, keys)
    assert (await reserve(db, keys, "other body")).outcome is Outcome.CONFLICT
    await store(db, keys, first)
    assert (await reserve(db, keys, "other body")).outcome is Outcome.CONFLICT


async def test_same_key_of_another_client_is_new(db: Database, keys: Idempotency):
    await reserve(db, keys)
    async with db.write() as tx:
        other = await keys.reserve(tx, "other", "key", fingerprint="body")
    assert other.outcome is Outcome.NEW


async def test_of_requests_at_the_same_time_one_is_new(db: Database, keys: Idempotency):
    outcomes = [found.outcome for found in await asyncio.gather(*(reserve(db, keys) for _ in range(8)))]
    assert sorted(outcome.name for outcome in outcomes) == ["IN_PROGRESS"] * 7 + ["NEW"]


async def test_request_whose_process_died_can_be_done_by_the_next_and_not_ended_by_the_dead(
    db: Database, keys: Idempotency
):
    dead = await reserve(db, keys, hold_s=0.0)
    alive = await reserve(db, keys)
    assert alive.outcome is Outcome.NEW
    with pytest.raises(LeaseLost):
        await store(db, keys, dead)
    async with db.write() as tx:
        await keys.forget(tx, dead)
    await store(db, keys, alive)


async def test_reservation_of_a_rolled_back_transaction_is_forgotten(db: Database, keys: Idempotency):
    async def fail() -> None:
        async with db.write() as tx:
            await keys.reserve(tx, "client", "key", fingerprint="body")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await reserve(db, keys)).outcome is Outcome.NEW


async def test_forgotten_key_is_new_again(db: Database, keys: Idempotency):
    first = await reserve(db, keys)
    async with db.write() as tx:
        await keys.forget(tx, first)
    assert (await reserve(db, keys)).outcome is Outcome.NEW


async def test_sweep_of_keys_takes_only_expired_ones(db: Database, keys: Idempotency):
    await store(db, keys, await reserve(db, keys))
    async with db.write() as tx:
        await keys.reserve(tx, "client", "old", fingerprint="body", hold_s=-1.0)
    assert await keys.sweep() == 1
    async with db.read() as tx:
        assert await tx.scalar(select(idempotency.c.key)) == "key"


async def test_sweep_deletes_all_old_rows_in_batches_and_no_new_one(db: Database):
    async with db.write() as tx:
        rows = [{"topic": f"t{number}", "counter": 1, "changed": float(number)} for number in range(25)]
        await tx.execute(insert(wakeups), rows)
    assert await sweep_rows(db, wakeups, wakeups.c.changed, before=20.0, batch=7) == 20
    async with db.read() as tx:
        assert await tx.scalar(select(func.min(wakeups.c.changed))) == 20.0


async def test_sweep_works_on_a_key_of_two_columns(db: Database):
    async with db.write() as tx:
        rows = [{"client_id": f"{n % 2}", "key": f"{n}", "expires": float(n)} for n in range(10)]
        await tx.execute(insert(idempotency).values(fingerprint="f", token="t"), rows)
    assert await sweep_rows(db, idempotency, idempotency.c.expires, before=5.0, batch=2) == 5
