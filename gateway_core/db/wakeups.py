"""Signals between processes that something has changed: they may be lost or doubled, and carry nothing.

Whoever waits for one looks at the truth in the database each time, also when the time is up without a signal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from sqlalchemy import select

from gateway_core.db.backoff import jittered_s
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.db.redis_link import RedisLink
from gateway_core.db.sweep import sweep_rows
from gateway_core.db.tables import wakeups
from gateway_core.errors import DatabaseError

log = logging.getLogger(__name__)

_POLL_S = 1.0
_BETWEEN_WRITES_S = 0.2
_AFTER_FAILURE_S = 2.0
_SLACK_S = 10.0
_MAX_UNSENT = 10_000
_MAX_TOPIC = 255
_KEEP_S = 86_400.0


class Subscription:
    """Hears of its topics from its creation until the end of its ``with`` block; one task waits on it."""

    def __init__(self, owner: Wakeups, topics: tuple[str, ...]) -> None:
        self._owner = owner
        self.topics = topics
        self._signal = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a signal, also one that came since the last call; False when none came in ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._signal.wait()
        except TimeoutError:
            return False
        self._signal.clear()
        return True

    def wake(self) -> None:
        """Let ``wait`` return, now or at its next call."""
        self._signal.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner.unsubscribe(self)


class Wakeups:
    """At once inside the process and through Redis, within about a second through the database otherwise.

    Without ``start`` (the command line) nothing is received, and ``flush`` sends what was published.
    """

    def __init__(self, db: Database, redis: RedisLink | None = None) -> None:
        self._db = db
        self._redis = redis
        self._me = uuid.uuid4().hex
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._unsent: dict[str, bool] = {}
        self._something_to_send = asyncio.Event()
        self._somebody_waits = asyncio.Event()
        self._sending = asyncio.Lock()
        self._polled_at: float | None = None
        self._counters: dict[str, int] = {}
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        if redis is not None:
            redis.listen(self._on_message, self._wake_all)

    def start(self) -> None:
        """Begin to send and receive, in the running loop."""
        self._tasks = (
            asyncio.create_task(self._send_forever(), name="wake-ups out"),
            asyncio.create_task(self._poll_forever(), name="wake-ups in"),
        )

    async def stop(self) -> None:
        """Send what is left, then stop."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.flush()

    def publish(self, topic: str, *, through_database: bool = True) -> None:
        """Wake who waits for ``topic``; after the commit of what changed. Never blocks, never fails for a lost signal.

        Raises ValueError for a topic of more than 255 characters. Signals not yet sent are sent as one. Those that come
        often, to who looks every second anyway, need not go ``through_database``: then other processes hear of them
        with Redis only.
        """
        if len(topic) > _MAX_TOPIC:
            raise ValueError(f"a topic has at most {_MAX_TOPIC} characters: {topic[:40]}…")
        self._wake(topic)
        if through_database or self._redis is not None:
            self._queue({topic: through_database})

    def subscribe(self, *topics: str) -> Subscription:
        """Hear of ``topics``: ``with wakeups.subscribe("jobs") as jobs: await jobs.wait(5)``."""
        subscription = Subscription(self, topics)
        if not self._subscriptions:
            self._polled_at = None
        for topic in topics:
            self._subscriptions.setdefault(topic, set()).add(subscription)
        self._somebody_waits.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """What leaving the subscription's block does."""
        for topic in subscription.topics:
            there = self._subscriptions.get(topic, set())
            there.discard(subscription)
            if not there:
                self._subscriptions.pop(topic, None)
        if not self._subscriptions:
            self._somebody_waits.clear()

    async def flush(self) -> bool:
        """Send to other processes what was published before this call; False when that failed (it is tried again)."""
        async with self._sending:
            unsent, self._unsent = self._unsent, {}
            kept = sorted(topic for topic, through_database in unsent.items() if through_database)
            try:
                if unsent and not await self._send_by_redis(sorted(unsent)) and kept:
                    await self._send_by_database(kept)
            except DatabaseError as error:
                log.warning("%d wake-ups could not be sent yet: %s", len(kept), error)
                self._queue(unsent)
                return False
            except asyncio.CancelledError:
                self._queue(unsent)
                raise
            return True

    async def sweep(self) -> int:
        """Delete counters that nobody has touched for a day; how many."""
        return await sweep_rows(self._db, wakeups, wakeups.c.changed, before=now() - _KEEP_S)

    def _queue(self, topics: Mapping[str, bool]) -> None:
        for topic, through_database in topics.items():
            self._unsent[topic] = self._unsent.get(topic, False) or through_database
        while len(self._unsent) > _MAX_UNSENT:
            self._unsent.pop(next(iter(self._unsent)))
        self._something_to_send.set()

    async def _send_forever(self) -> None:
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            try:
                sent = await self.flush()
            except Exception:  # likewise
                log.exception("sending wake-ups failed")
                sent = False
            if not sent:
                await asyncio.sleep(_AFTER_FAILURE_S)
            elif self._redis is None or not self._redis.connected:
                await asyncio.sleep(_BETWEEN_WRITES_S)  # many signals, few writes

    async def _send_by_redis(self, topics: list[str]) -> bool:
        if self._redis is None:
            return False
        return await self._redis.publish(json.dumps({"from": self._me, "topics": topics}).encode())

    async def _send_by_database(self, topics: list[str]) -> None:
        count = (
            self._db.insert(wakeups)
            .values(counter=1, changed=now())
            .on_conflict_do_update(
                index_elements=[wakeups.c.topic], set_={"counter": wakeups.c.counter + 1, "changed": now()}
            )
        )
        async with self._db.write() as tx:
            await tx.execute(count, [{"topic": topic} for topic in topics])

    async def _poll_forever(self) -> None:
        while True:
            await self._somebody_waits.wait()
            try:
                await self._poll()
            except DatabaseError as error:
                log.info("wake-ups could not be looked for: %s", error)
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("looking for wake-ups failed")
            await asyncio.sleep(jittered_s(_POLL_S * 0.9))

    async def _poll(self) -> None:
        """Wake who waits for a topic whose counter is another one than at the last look."""
        clock = select(now().label("at")).subquery()
        since = now() - _SLACK_S if self._polled_at is None else self._polled_at - _SLACK_S
        changed = clock.outerjoin(wakeups, wakeups.c.changed > since)
        async with self._db.read() as tx:
            rows = await tx.rows(select(clock.c.at, wakeups.c.topic, wakeups.c.counter).select_from(changed))
        before, self._counters = self._counters, {row.topic: row.counter for row in rows if row.topic is not None}
        self._polled_at = float(rows[0].at)
        for topic, counter in self._counters.items():
            if before.get(topic) != counter:
                self._wake(topic)

    def _on_message(self, data: bytes) -> None:
        try:
            message = json.loads(data)
            sender, topics = message["from"], [str(topic) for topic in message["topics"]]
        except (ValueError, TypeError, KeyError):
            log.debug("a message that is no wake-up")
            return
        if sender != self._me:
            for topic in topics:
                self._wake(topic)

    def _wake(self, topic: str) -> None:
        for subscription in self._subscriptions.get(topic, ()):
            subscription.wake()

    def _wake_all(self) -> None:
        for topic in self._subscriptions:
            self._wake(topic)
