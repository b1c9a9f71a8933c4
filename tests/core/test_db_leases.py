"""Leases and what is done periodically under them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway_core.db.backoff import full_jitter_s
from gateway_core.db.engine import Database
from gateway_core.db.leases import Lease, Leases
from gateway_core.db.periodic import Every
from gateway_core.errors import LeaseLost
from gateway_core.testing.services import PrivatePostgres

pytestmark = pytest.mark.usefixtures("no_forgotten_failure")


@pytest.fixture
def leases(db: Database) -> Leases:
    return Leases(db)


async def acquired(leases: Leases, name: str = "job", owner: str = "me", ttl_s: float = 30.0) -> Lease:
    lease = await leases.acquire(name, owner, ttl_s)
    assert lease is not None
    return lease


async def until_free(leases: Leases, owner: str) -> Lease:
    async with asyncio.timeout(10):
        while True:
            lease = await leases.acquire("job", owner, 30.0)
            if lease is not None:
                return lease
            await asyncio.sleep(await leases.remaining_s("job"))


async def test_lease_is_held_by_one_and_refused_to_all_others(leases: Leases):
    takers = [leases.acquire("job", f"owner {number}", 30.0) for number in range(8)]
    assert sum(lease is not None for lease in await asyncio.gather(*takers)) == 1


async def test_leases_of_different_names_do_not_meet(leases: Leases):
    await acquired(leases, "one")
    await acquired(leases, "two")


async def test_token_grows_with_every_acquisition(leases: Leases):
    tokens = []
    for owner in ("a", "b", "a"):
        lease = await acquired(leases, owner=owner)
        tokens.append(lease.token)
        await leases.release(lease)
    assert tokens == [1, 2, 3]


async def test_lease_that_ran_out_goes_to_the_next_and_its_old_holder_cannot_renew(leases: Leases):
    old = await acquired(leases, owner="old", ttl_s=0.2)
    new = await until_free(leases, "new")
    assert new.token == old.token + 1
    with pytest.raises(LeaseLost):
        await leases.renew(old, 30.0)
    assert not await leases.release(old)
    await leases.renew(new, 30.0)


async def test_renewed_lease_lives_longer(leases: Leases):
    lease = await acquired(leases, ttl_s=1.0)
    await leases.renew(lease, 60.0)
    assert 55.0 < await leases.remaining_s("job") <= 60.0


async def test_released_lease_is_free_at_once_and_cannot_be_renewed(leases: Leases):
    lease = await acquired(leases)
    assert await leases.release(lease)
    with pytest.raises(LeaseLost):
        await leases.renew(lease, 30.0)
    await acquired(leases, owner="other")


async def test_lease_released_until_a_time_keeps_everybody_away_before_it(leases: Leases):
    lease = await acquired(leases)
    await leases.release(lease, hold_until=lease.since + 60.0)
    assert await leases.acquire("job", "me", 30.0) is None
    assert 50.0 < await leases.remaining_s("job") <= 60.0


async def test_unknown_lease_is_free(leases: Leases):
    assert await leases.remaining_s("job") == 0.0


async def test_times_are_the_databases(leases: Leases, db: Database):
    before, began = time.time(), time.monotonic()
    lease = await acquired(leases)
    assert before - 1.0 < lease.since < time.time() + 1.0
    assert began + 30.0 <= lease.expires <= time.monotonic() + 30.0


async def test_held_lease_is_renewed_for_as_long_as_the_block_runs(leases: Leases):
    lease = await acquired(leases, ttl_s=1.2)
    async with leases.held(lease, 1.2):
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            assert await leases.acquire("job", "other", 1.2) is None
            await asyncio.sleep(0.05)
    await acquired(leases, owner="other")


async def test_body_is_cancelled_when_its_lease_is_taken_away(leases: Leases, db: Database):
    lease = await acquired(leases, ttl_s=0.6)
    cancelled = False

    async def body() -> None:
        nonlocal cancelled
        async with leases.held(lease, 0.6):
            async with db.write() as tx:
                await tx.execute(text("UPDATE leases SET owner = 'thief', token = token + 1"))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

    with pytest.raises(LeaseLost):
        async with asyncio.timeout(20):
            await body()
    assert cancelled


async def test_error_and_timeout_of_the_body_come_through_and_free_the_lease(leases: Leases):
    async def raise_inside(error: Exception) -> None:
        async with leases.held(await acquired(leases), 30.0):
            raise error

    for error in (ZeroDivisionError(), TimeoutError()):
        with pytest.raises(type(error)) as caught:
            await raise_inside(error)
        assert caught.value is error
    await acquired(leases)


async def test_cancellation_from_outside_stays_one_and_frees_the_lease(leases: Leases):
    async def body() -> None:
        async with leases.held(await acquired(leases), 30.0):
            started.set()
            await asyncio.Event().wait()

    started = asyncio.Event()
    task = asyncio.create_task(body())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await acquired(leases, owner="other")


async def test_body_is_cancelled_when_the_database_stays_away_for_the_leases_time(
    postgres_server: PrivatePostgres, migrated_postgres_url: str
):
    db = Database(migrated_postgres_url, timeout_s=1.0, statement_timeout_s=1.0)
    await db.connect()
    leases = Leases(db)

    async def body() -> None:
        async with leases.held(await acquired(leases, "away", ttl_s=1.0), 1.0):
            await asyncio.to_thread(postgres_server.kill)
            await asyncio.Event().wait()

    try:
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(20):
                await body()
    finally:
        await asyncio.to_thread(postgres_server.start)
        await db.close()


async def test_two_runners_take_each_turn_once(leases: Leases):
    turns: list[float] = []
    enough = asyncio.Event()

    async def turn() -> None:
        turns.append(time.monotonic())
        if len(turns) >= 4:
            enough.set()

    runners = [Every(leases), Every(leases)]
    for runner in runners:
        runner.add(0.4, turn, "sweep")
        runner.start()
    async with asyncio.timeout(10):
        await enough.wait()
    for runner in runners:
        await runner.stop()
    # three periods, less what the first turn was late by; two runners for themselves would need one and a half
    assert turns[3] - turns[0] > 0.9, turns


async def test_failing_turn_is_logged_and_the_next_one_comes(leases: Leases, caplog: pytest.LogCaptureFixture):
    turns = 0
    third = asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ZeroDivisionError
        if turns == 2:
            raise asyncio.CancelledError
        third.set()

    runner = Every(leases)
    runner.start()
    runner.add(0.1, turn, "fails")
    async with asyncio.timeout(10):
        await third.wait()
    await runner.stop()
    assert "a turn of every:fails failed" in caplog.text


async def test_stop_ends_a_turn_under_way_and_leaves_the_lease_to_others(leases: Leases):
    started = asyncio.Event()

    async def turn() -> None:
        started.set()
        await asyncio.Event().wait()

    runner = Every(leases)
    runner.add(0.05, turn, "long")
    runner.start()
    await started.wait()
    async with asyncio.timeout(15):  # the lease itself lasts 30 s
        await runner.stop()
        while await leases.acquire("every:long", "other", 30.0) is None:
            await asyncio.sleep(await leases.remaining_s("every:long"))


async def test_turn_that_hangs_is_cut_at_its_limit_and_the_next_one_comes(leases: Leases):
    turns: list[int] = []
    twice = asyncio.Event()

    async def turn() -> None:
        turns.append(1)
        if len(turns) == 2:
            twice.set()
        await asyncio.Event().wait()

    runner = Every(leases, turn_limit_s=0.1)
    runner.add(0.1, turn, "hangs")
    runner.start()
    async with asyncio.timeout(10):
        await twice.wait()
    await runner.stop()


@pytest.mark.parametrize(("seconds", "name"), [(1.0, "taken"), (0.0, "new"), (-1.0, "new")])
def test_periodic_task_that_does_not_fit_is_refused(tmp_path: Path, seconds: float, name: str):
    async def nothing() -> None:
        pass

    runner = Every(Leases(Database(f"sqlite:///{tmp_path}/x.db")))
    runner.add(1.0, nothing, "taken")
    with pytest.raises(ValueError, match=name):
        runner.add(seconds, nothing, name)


def test_backoff_grows_to_its_cap_and_uses_the_whole_range():
    tries = [full_jitter_s(3, base_s=1.0, cap_s=100.0) for _ in range(500)]
    assert min(tries) < 1.0
    assert 7.0 < max(tries) <= 8.0
    assert max(full_jitter_s(10**6, cap_s=5.0) for _ in range(500)) <= 5.0


async def test_periodic_task_survives_a_database_that_is_away(
    postgres_server: PrivatePostgres, migrated_postgres_url: str
):
    db = Database(migrated_postgres_url, timeout_s=0.5)
    await db.connect()
    turns = asyncio.Queue[float]()

    async def turn() -> None:
        turns.put_nowait(time.monotonic())

    runner = Every(Leases(db), lease_ttl_s=1.0)
    runner.add(0.2, turn, "survives")
    runner.start()
    async with asyncio.timeout(10):
        await turns.get()
    await asyncio.to_thread(postgres_server.kill)
    await asyncio.to_thread(postgres_server.start)
    while not turns.empty():
        turns.get_nowait()
    async with asyncio.timeout(20):
        await turns.get()
    await runner.stop()
    await db.close()
