"""Wake-ups: inside one process, through the database, through Redis, and while Redis comes and goes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, insert, select

from gateway_core.db.engine import Database
from gateway_core.db.redis_link import RedisLink
from gateway_core.db.tables import wakeups as table
from gateway_core.db.wakeups import Subscription, Wakeups
from gateway_core.errors import ConfigError
from gateway_core.testing.services import PrivatePostgres, PrivateRedis, free_port

pytestmark = pytest.mark.usefixtures("no_forgotten_failure")


@pytest.fixture
async def pair(db: Database) -> AsyncIterator[tuple[Wakeups, Wakeups]]:
    """Two processes' worth of wake-ups on one database, without Redis."""
    both = Wakeups(db), Wakeups(db)
    for one in both:
        one.start()
    yield both
    for one in both:
        await one.stop()


class Node:
    """What one process has: a database of its own connections, a link to Redis, wake-ups."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self.db = Database(database_url)
        self.redis = RedisLink(redis_url)
        self.wakeups = Wakeups(self.db, self.redis)

    async def start(self) -> None:
        self.redis.start()
        self.wakeups.start()

    async def stop(self) -> None:
        await self.wakeups.stop()
        await self.redis.stop()
        await self.db.close()

    async def until(self, *, connected: bool) -> None:
        await until(self.redis, connected=connected)


async def until(link: RedisLink, *, connected: bool) -> None:
    async with asyncio.timeout(15):
        while link.connected is not connected:
            await asyncio.sleep(0.01)


@pytest.fixture
async def nodes(sqlite_url: str, redis_server: PrivateRedis) -> AsyncIterator[tuple[Node, Node]]:
    if not redis_server.answers():
        redis_server.start()
    both = Node(sqlite_url, redis_server.url), Node(sqlite_url, redis_server.url)
    for node in both:
        await node.start()
        await node.until(connected=True)
    yield both
    for node in both:
        await node.stop()


async def woken(subscription: Subscription, within_s: float) -> float | None:
    """Seconds until the wake-up, None when it did not come."""
    began = time.monotonic()
    return time.monotonic() - began if await subscription.wait(within_s) else None


async def sent_by_database(db: Database) -> int:
    """How often a signal of any topic was written; those that go through Redis are not."""
    async with db.read() as tx:
        return int(await tx.scalar(select(func.coalesce(func.sum(table.c.counter), 0))))


async def test_subscriber_in_the_same_process_wakes_at_once(pair: tuple[Wakeups, Wakeups]):
    with pair[0].subscribe("a") as a:
        waiting = asyncio.create_task(a.wait(5.0))
        await asyncio.sleep(0)
        pair[0].publish("a")
        for _ in range(3):  # turns of the loop, in which no database is asked
            await asyncio.sleep(0)
        assert waiting.done()
        assert await waiting


async def test_subscriber_in_another_process_wakes_within_about_a_second(pair: tuple[Wakeups, Wakeups]):
    with pair[1].subscribe("a", "b") as ab:
        for topic in ("b", "a", "b"):
            pair[0].publish(topic)
            took = await woken(ab, 10.0)
            assert took is not None
            assert took < 5


async def test_topics_do_not_wake_each_others_subscribers(pair: tuple[Wakeups, Wakeups]):
    with pair[0].subscribe("a") as here, pair[1].subscribe("a") as there, pair[1].subscribe("b") as b:
        pair[0].publish("b")
        assert await b.wait(10.0)
        assert not await here.wait(0.0)
        assert not await there.wait(0.0)


async def test_signal_between_two_waits_is_not_lost(pair: tuple[Wakeups, Wakeups]):
    with pair[0].subscribe("a") as a:
        pair[0].publish("a")
        pair[0].publish("a")
        assert await a.wait(0.0)
        assert not await a.wait(0.0)


async def test_left_subscription_hears_nothing(pair: tuple[Wakeups, Wakeups]):
    with pair[0].subscribe("a") as a:
        pass
    pair[0].publish("a")
    assert not await a.wait(0.0)


async def test_many_signals_are_few_writes(pair: tuple[Wakeups, Wakeups], db: Database):
    for _ in range(1000):
        pair[0].publish("a")
        await asyncio.sleep(0)
    await pair[0].flush()
    async with db.read() as tx:
        assert await tx.scalar(select(table.c.counter)) < 20


async def test_flush_sends_for_a_process_that_ends_right_after_it(pair: tuple[Wakeups, Wakeups], db: Database):
    command = Wakeups(db)
    with pair[0].subscribe("a") as a:
        command.publish("a")
        assert await command.flush()
        assert await a.wait(10.0)


async def test_stop_sends_what_was_published_last(db: Database):
    ending = Wakeups(db)
    ending.start()
    ending.publish("last")
    await ending.stop()
    assert await sent_by_database(db) == 1


async def test_database_is_not_asked_while_nobody_subscribes(pair: tuple[Wakeups, Wakeups]):
    async def asked(wakeups: Wakeups) -> None:
        async with asyncio.timeout(20):
            while wakeups._polled_at is None:
                await asyncio.sleep(0.01)

    with pair[1].subscribe("a"):
        await asked(pair[1])
    assert pair[0]._polled_at is None
    with pair[0].subscribe("a"):
        await asked(pair[0])


async def test_counters_nobody_touches_are_swept(db: Database):
    async with db.write() as tx:
        await tx.execute(insert(table).values(topic="old", counter=5, changed=db.now() - 90_000))
        await tx.execute(insert(table).values(topic="new", counter=5, changed=db.now()))
    assert await Wakeups(db).sweep() == 1


async def test_topic_that_is_too_long_is_refused(db: Database):
    with pytest.raises(ValueError, match="255"):
        Wakeups(db).publish("x" * 256)


async def test_signals_wait_for_a_database_that_is_away(postgres_server: PrivatePostgres, migrated_postgres_url: str):
    db = Database(migrated_postgres_url, timeout_s=0.5)
    wakeups = Wakeups(db)
    await db.connect()
    postgres_server.kill()
    wakeups.publish("kept")
    assert not await wakeups.flush()
    await asyncio.to_thread(postgres_server.start)
    async with asyncio.timeout(20):
        while not await wakeups.flush():  # a server that has just come back may need more than half a second
            await asyncio.sleep(0.02)
    async with db.read() as tx:
        assert await tx.scalar(select(table.c.topic).where(table.c.topic == "kept")) == "kept"
    await db.close()


async def test_signal_goes_through_redis_at_once_and_not_through_the_database(nodes: tuple[Node, Node]):
    with nodes[1].wakeups.subscribe("a") as a:
        await a.wait(0.0)
        nodes[0].wakeups.publish("a")
        assert await a.wait(10.0)
    assert await sent_by_database(nodes[0].db) == 0


async def test_own_signal_wakes_once(nodes: tuple[Node, Node]):
    with nodes[0].wakeups.subscribe("a") as own, nodes[1].wakeups.subscribe("a") as other:
        nodes[0].wakeups.publish("a")
        assert await own.wait(0.0)
        assert await other.wait(5.0)
        assert not await own.wait(0.1)


async def test_killed_redis_is_replaced_by_the_database_and_used_again_when_it_is_back(
    nodes: tuple[Node, Node], redis_server: PrivateRedis
):
    redis_server.kill()
    for node in nodes:
        await node.until(connected=False)
    with nodes[1].wakeups.subscribe("a") as a:
        nodes[0].wakeups.publish("a")
        took = await woken(a, 10.0)
        assert took is not None
        assert took < 5
        await asyncio.to_thread(redis_server.start)
        for node in nodes:
            await node.until(connected=True)
        await asyncio.sleep(0)
        while await a.wait(1.5):
            pass
        before = await sent_by_database(nodes[0].db)
        nodes[0].wakeups.publish("a")
        assert await a.wait(10.0)
        assert await sent_by_database(nodes[0].db) == before


async def test_signal_during_the_kill_of_redis_is_not_lost(nodes: tuple[Node, Node], redis_server: PrivateRedis):
    with nodes[1].wakeups.subscribe("a") as a:
        redis_server.kill()
        nodes[0].wakeups.publish("a")
        assert await a.wait(10.0)


async def test_reconnection_wakes_everybody_as_signals_may_have_been_missed(
    nodes: tuple[Node, Node], redis_server: PrivateRedis
):
    with nodes[0].wakeups.subscribe("a") as a:
        redis_server.kill()
        await nodes[0].until(connected=False)
        await a.wait(0.0)
        await asyncio.to_thread(redis_server.start)
        assert await a.wait(10.0)


async def test_silent_redis_is_noticed_and_used_again_when_it_answers(redis_server: PrivateRedis):
    link = RedisLink(redis_server.url, answer_timeout_s=0.3)
    link.start()
    await until(link, connected=True)
    redis_server.pause()
    try:
        await until(link, connected=False)
    finally:
        redis_server.resume()
    await until(link, connected=True)
    await link.stop()


async def test_redis_may_be_absent_at_start_and_come_later(sqlite_url: str, redis_server: PrivateRedis):
    redis_server.kill()
    node = Node(sqlite_url, redis_server.url)
    began = time.monotonic()
    await node.start()
    assert time.monotonic() - began < 5
    assert not node.redis.connected
    await asyncio.to_thread(redis_server.start)
    await node.until(connected=True)
    assert await node.redis.client.ping()
    await node.stop()


async def test_foreign_messages_on_the_channel_do_no_harm(nodes: tuple[Node, Node]):
    for rubbish in (b"", b"\xff", b"[]", b"3", b'{"from": 1}', b'{"from": "x", "topics": [[], null]}'):
        await nodes[0].redis.client.publish("gw:wakeups", rubbish)
    with nodes[1].wakeups.subscribe("a") as a:
        await a.wait(0.0)
        nodes[0].wakeups.publish("a")
        assert await a.wait(10.0)
    assert await sent_by_database(nodes[0].db) == 0


async def test_redis_password_is_in_no_log_line_or_repr(sqlite_url: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    node = Node(sqlite_url, f"redis://user:s3cret@127.0.0.1:{free_port()}/0")
    await node.start()
    async with asyncio.timeout(20):
        while "is away" not in caplog.text:
            await asyncio.sleep(0.01)
    await node.stop()
    assert "s3cret" not in caplog.text + repr(node.redis)


@pytest.mark.parametrize("url", ["", "http://s3cret@h", "redis://h:s3cret/0"])
def test_redis_url_that_does_not_fit_is_a_config_error(url: str):
    with pytest.raises(ConfigError) as caught:
        RedisLink(url)
    assert "s3cret" not in str(caught.value)
