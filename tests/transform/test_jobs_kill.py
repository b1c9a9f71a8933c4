"""Servers and workers that are killed while they take and run jobs: nothing accepted is lost, nothing is seen twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway_core.testing.services import PrivatePostgres, PrivateRedis
from tests.transform.campaign import LEASE_S, Campaign, campaign, leftovers

pytest_plugins = ["tests.transform.databases"]

SECONDS = 0.4
"""What a job takes; a kill may come at any moment of it."""


@asynccontextmanager
async def under_load(campaign: Campaign, count: int) -> AsyncIterator[None]:
    """Jobs are sent and results looked at while the block runs; at its end all jobs have been sent."""
    sending = [asyncio.create_task(campaign.send(range(first, count, 4), SECONDS)) for first in range(4)]
    watching = asyncio.create_task(campaign.watch())
    try:
        yield
        await asyncio.gather(*sending)
    finally:
        for task in (*sending, watching):
            task.cancel()
        await asyncio.wait([*sending, watching])
    with contextlib.suppress(asyncio.CancelledError):
        watching.result()


async def all_ended(campaign: Campaign, count: int) -> None:
    """Every accepted id has ended, whole or lost for good after all attempts, and no other job is there."""
    ended = await campaign.outcomes(timeout_s=60 + count * (SECONDS + 0.1))
    assert sum(ended.values()) == count
    assert set(ended) <= {"succeeded", "worker_lost"}, ended
    assert ended["succeeded"] > count / 2, ended
    rows = await campaign.rows()
    assert rows.keys() == campaign.accepted.keys()
    assert set(rows.values()) <= {"succeeded", "failed"}


async def kill_now_and_then(campaign: Campaign, cycles: int, between: Callable[[int], Awaitable[None]]) -> None:
    for cycle in range(cycles):
        await asyncio.sleep(random.uniform(0.5, 2))
        await between(cycle)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("cycles", "count"), [(2, 12), pytest.param(20, 200, marks=pytest.mark.slow)])
async def test_a_server_that_is_killed_loses_no_job(tmp_path: Path, cycles: int, count: int):
    async with campaign(tmp_path, workers=2) as running:
        (server,) = running.programs

        async def between(_cycle: int) -> None:
            await server.kill()
            await server.start()

        async with under_load(running, count):
            await kill_now_and_then(running, cycles, between)
        await all_ended(running, count)
    assert leftovers(tmp_path) == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("cycles", "count"), [(3, 12), pytest.param(20, 200, marks=pytest.mark.slow)])
async def test_workers_on_postgresql_and_redis_lose_no_job(
    tmp_path: Path, cycles: int, count: int, jobs_postgres: PrivatePostgres, jobs_redis: PrivateRedis
):
    """One of the three processes is killed each time; in between Redis is flushed, or killed and started again."""
    services = {
        "GATEWAY_DB_URL": jobs_postgres.create("campaign"),
        "GATEWAY_REDIS_URL": jobs_redis.url,
        "GATEWAY_SECRET_KEY": "a key of more than sixteen characters",
        "GATEWAY_AUTO_MIGRATE": "true",
    }
    try:
        async with campaign(tmp_path, workers=2, services=services) as running:

            async def between(cycle: int) -> None:
                victim = running.programs[(cycle + 1) % 3]
                if cycle % 3 == 0:
                    flush(jobs_redis)
                elif cycle % 3 == 1:
                    jobs_redis.kill()
                await victim.kill()
                await victim.start()
                if cycle % 3 == 1:
                    await asyncio.to_thread(jobs_redis.start)

            async with under_load(running, count):
                await kill_now_and_then(running, cycles, between)
            await all_ended(running, count)
    finally:
        jobs_postgres.drop("campaign")
    assert leftovers(tmp_path) == []


async def test_a_worker_frozen_past_its_lease_publishes_nothing(tmp_path: Path, jobs_postgres: PrivatePostgres):
    services = {
        "GATEWAY_DB_URL": jobs_postgres.create("frozen"),
        "GATEWAY_SECRET_KEY": "a key of more than sixteen characters",
        "GATEWAY_AUTO_MIGRATE": "true",
    }
    try:
        async with campaign(tmp_path, workers=2, services=services) as running:
            _, frozen, other = running.programs
            other.freeze()
            async with under_load(running, 4):
                await asyncio.sleep(SECONDS / 2)
                frozen.freeze()
                other.thaw()
                await asyncio.sleep(LEASE_S + 1)
                frozen.thaw()
            await all_ended(running, 4)
    finally:
        jobs_postgres.drop("frozen")


def flush(redis: PrivateRedis) -> None:
    with socket.create_connection(("127.0.0.1", redis.port), timeout=5) as link:
        link.sendall(f"AUTH {redis.password}\r\nFLUSHALL\r\n".encode())
        received = b""
        while received.count(b"+OK") < 2:
            received += link.recv(100)
