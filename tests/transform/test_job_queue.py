"""Wake-ups for workers: inside the process, through the database, through Redis, and while Redis comes and goes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway_core import ConfigError
from gateway_core.db.engine import Database
from gateway_core.db.redis_link import RedisLink
from gateway_core.db.wakeups import Wakeups
from gateway_core.testing.services import PrivateRedis, free_port
from gateway_transform.jobs.topics import QUEUE
from gateway_transform.queue.base import JobQueue
from gateway_transform.queue.embedded import EmbeddedQueue
from gateway_transform.queue.redis import QUEUE_NAME, RedisQueue

pytest_plugins = ["tests.transform.databases"]


class Process:
    """What one process has of it all: its own connections and its own queue."""

    def __init__(self, database_url: str, redis_url: str = "") -> None:
        self.db = Database(database_url)
        self.link = RedisLink(redis_url) if redis_url else None
        self.wakeups = Wakeups(self.db, self.link)
        self.queue: JobQueue = RedisQueue(redis_url, self.wakeups) if redis_url else EmbeddedQueue(self.wakeups)

    async def start(self, *, works: bool = True, deaf: bool = False) -> None:
        """``deaf`` to wake-ups other than those that arq brings."""
        if self.link is not None:
            self.link.start()
        if not deaf:
            self.wakeups.start()
        await self.queue.start()
        if works:
            assert await self.queue.wait(0.0)  # the first call

    async def stop(self) -> None:
        await self.queue.stop()
        await self.wakeups.stop()
        if self.link is not None:
            await self.link.stop()
        await self.db.close()


@pytest.fixture
def redis(jobs_redis: PrivateRedis) -> PrivateRedis:
    """Redis, running, with nothing in it."""
    if jobs_redis.answers():
        jobs_redis.kill()
    jobs_redis.start()
    return jobs_redis


@pytest.fixture
async def started() -> AsyncIterator[list[Process]]:
    """To be filled with what is to be stopped."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        await process.stop()


async def begin(started: list[Process], url: str, redis_url: str = "", **how: bool) -> Process:
    process = Process(url, redis_url)
    started.append(process)
    await process.start(**how)
    return process


async def pair(started: list[Process], url: str, redis_url: str) -> tuple[Process, Process]:
    """One that only accepts jobs, and one that works and can be woken through arq alone."""
    sender, waiting = await begin(started, url, redis_url, works=False), await begin(started, url, redis_url, deaf=True)
    await until_woken(sender, waiting)
    return sender, waiting


async def woken_after(process: Process, within_s: float) -> float | None:
    """Seconds until the worker was woken, None when it was not."""
    began = time.monotonic()
    return time.monotonic() - began if await process.queue.wait(within_s) else None


async def woken_by(sender: Process, waiting: Process, within_s: float) -> float | None:
    """As above, for an announcement that comes while it waits."""
    waits = asyncio.create_task(woken_after(waiting, within_s))
    await asyncio.sleep(0)
    sender.queue.announce("a" * 32)
    return await waits


async def until_woken(sender: Process, waiting: Process) -> None:
    """Announce until Redis carries it again."""
    async with asyncio.timeout(20):
        while await woken_by(sender, waiting, 0.5) is None:
            pass


async def in_redis(redis: PrivateRedis) -> int:
    async with Redis.from_url(redis.url) as client:
        return await client.zcard(QUEUE_NAME)


async def test_embedded_worker_is_woken_at_once(started: list[Process], jobs_url: str):
    process = await begin(started, jobs_url)
    after = await woken_by(process, process, 5.0)
    assert after is not None
    assert after < 0.1


async def test_announcement_before_the_wait_is_not_missed(started: list[Process], jobs_sqlite_url: str):
    process = await begin(started, jobs_sqlite_url)
    process.queue.announce("a" * 32)
    assert await process.queue.wait(0.0)
    assert not await process.queue.wait(0.05)


async def test_worker_on_another_machine_is_woken_through_redis(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    sender, waiting = await pair(started, jobs_sqlite_url, redis.url)
    times = [await woken_by(sender, waiting, 5.0) for _ in range(3)]
    assert all(after is not None and after < 0.5 for after in times), times


async def test_worker_of_the_same_process_is_woken_without_redis(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    process = await begin(started, jobs_sqlite_url, redis.url)
    redis.pause()
    try:
        after = await woken_by(process, process, 5.0)
    finally:
        redis.resume()
    assert after is not None
    assert after < 0.1


async def test_each_announcement_wakes_one_of_the_workers_that_wait(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    sender, first = await pair(started, jobs_sqlite_url, redis.url)
    second = await begin(started, jobs_sqlite_url, redis.url, deaf=True)
    waiting = (first, second)
    await until_woken(sender, second)
    while await in_redis(redis):
        await asyncio.gather(*(woken_after(one, 0.3) for one in waiting))
    waits = [asyncio.create_task(woken_after(one, 1.0)) for one in waiting]
    await asyncio.sleep(0)
    sender.queue.announce("a" * 32)
    assert sum(after is not None for after in await asyncio.gather(*waits)) == 1


async def test_worker_that_is_busy_leaves_wake_ups_to_others(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    sender, _busy = await pair(started, jobs_sqlite_url, redis.url)
    idle = await begin(started, jobs_sqlite_url, redis.url, deaf=True)
    await until_woken(sender, idle)
    for _ in range(3):
        assert await woken_by(sender, idle, 5.0) is not None


async def test_process_that_only_accepts_takes_no_wake_ups(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    process = await begin(started, jobs_sqlite_url, redis.url, works=False)
    process.queue.announce("a" * 32)
    async with asyncio.timeout(5):
        while await in_redis(redis) == 0:
            await asyncio.sleep(0.01)
    assert await in_redis(redis) == 1


async def test_wake_ups_that_nobody_takes_do_not_pile_up(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    process = await begin(started, jobs_sqlite_url, redis.url, works=False)
    for _ in range(20):
        for _ in range(10):
            process.queue.announce("a" * 32)
        await asyncio.sleep(0.02)
    await process.queue.stop()
    assert 0 < await in_redis(redis) <= 96


async def test_nothing_in_redis_is_a_pickle(started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis):
    process = await begin(started, jobs_sqlite_url, redis.url, works=False)
    process.queue.announce("a" * 32)
    await process.queue.stop()
    async with Redis.from_url(redis.url) as client:
        (key,) = await client.keys("arq:job:*")
        assert (await client.get(key)).startswith(b'{"t": null, "f": "wake"')


@pytest.mark.parametrize("way", ["killed", "flushed"])
async def test_worker_hears_again_after_redis_was_gone(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis, way: str
):
    sender, waiting = await pair(started, jobs_sqlite_url, redis.url)
    if way == "flushed":
        async with Redis.from_url(redis.url) as client:
            await client.flushall()
    else:
        await asyncio.to_thread(redis.kill)
        assert await woken_after(waiting, 0.5) is None
        await asyncio.to_thread(redis.start)
    async with asyncio.timeout(4):
        await until_woken(sender, waiting)


async def test_announcement_while_redis_is_away_arrives_through_the_database(
    started: list[Process], jobs_sqlite_url: str
):
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    sender, waiting = [await begin(started, jobs_sqlite_url, nobody, works=works) for works in (False, True)]
    assert await woken_by(sender, waiting, 10.0) is not None


async def test_announcing_never_waits_for_a_redis_that_is_frozen(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    process = await begin(started, jobs_sqlite_url, redis.url, works=False)
    with process.wakeups.subscribe(QUEUE) as fallback:
        redis.pause()
        try:
            began = time.monotonic()
            for _ in range(200):
                process.queue.announce("a" * 32)
            assert time.monotonic() - began < 0.1
            assert await fallback.wait(5.0)
            began = time.monotonic()
            await process.queue.stop()
            assert time.monotonic() - began < 5.0
        finally:
            redis.resume()


async def test_stopped_queue_still_announces_and_leaves_no_task(
    started: list[Process], jobs_sqlite_url: str, redis: PrivateRedis
):
    process = await begin(started, jobs_sqlite_url, redis.url)
    await until_woken(process, process)
    await process.queue.stop()
    with process.wakeups.subscribe(QUEUE) as fallback:
        process.queue.announce("a" * 32)
        assert await fallback.wait(0.0)
    assert not [task for task in asyncio.all_tasks() if "queue" in task.get_name() or "announce" in task.get_name()]


async def test_wrong_url_is_a_configuration_error_that_does_not_show_it(jobs_sqlite_url: str):
    db = Database(jobs_sqlite_url)
    with pytest.raises(ConfigError) as wrong:
        RedisQueue("redis//:secret@nowhere", Wakeups(db))
    assert "secret" not in str(wrong.value)


def test_process_without_redis_does_not_load_arq():
    code = "import sys, gateway_transform.queue as q, gateway_transform.queue.redis; print('arq' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert shown.stdout.strip() == "False"
