"""The queue through Redis: each wake-up goes to one worker process that has time, on any machine.

arq carries them, and nothing else: what it loses, as when Redis drops or is flushed, a look at the rows finds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

from gateway_core import ConfigError
from gateway_core.db.backoff import full_jitter_s
from gateway_core.db.wakeups import Subscription, Wakeups
from gateway_transform.jobs.topics import QUEUE

if TYPE_CHECKING:
    from arq.connections import ArqRedis
    from arq.typing import WorkerCoroutine
    from arq.worker import Worker

log = logging.getLogger(__name__)

QUEUE_NAME = "gateway:transform"
_FUNCTION = "wake"
_POLL_S = 0.1
_ANSWER_S = 2.0
_LONGEST_PAUSE_S = 1.0
_CANCEL_AGAIN_S = 0.2
"""redis-py loses a cancellation now and then."""
_MOST_SENDING = 64
_MOST_IN_REDIS = 32
"""More would only wake workers for jobs that those before them have found."""


class RedisQueue:
    """arq on the Redis at ``url``, and the gateway's wake-ups while it is away. Raises ConfigError for a wrong URL.

    A worker of this process that waits is woken without Redis.
    """

    def __init__(self, url: str, wakeups: Wakeups) -> None:
        self._redis = _client(url)
        self._wakeups = wakeups
        self._subscription: Subscription | None = None
        self._idle = False
        self._closed = False
        self._worker: Worker | None = None
        self._listening: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def announce(self, job_id: str, /) -> None:
        """As in JobQueue."""
        if self._idle and self._subscription is not None:
            self._idle = False  # it takes one; the next goes to another process
            self._subscription.wake()
        elif self._closed or len(self._sending) >= _MOST_SENDING:
            self._wakeups.publish(QUEUE)
        else:
            task = asyncio.create_task(self._send(), name=f"announce {job_id}")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def wait(self, timeout_s: float) -> bool:
        """As in JobQueue."""
        if self._subscription is None:  # a process that only accepts jobs takes no wake-up away from those that work
            self._subscription = self._wakeups.subscribe(QUEUE)
            self._listening = asyncio.create_task(self._supervise(), name="transform queue")
            return True
        self._let_in(idle=True)
        try:
            return await self._subscription.wait(timeout_s)
        finally:
            self._let_in(idle=False)

    async def start(self) -> None:
        """As in JobQueue."""

    async def stop(self) -> None:
        """As in JobQueue."""
        self._closed = True
        while self._listening is not None and not self._listening.done():
            self._listening.cancel()
            await asyncio.wait((self._listening,), timeout=_CANCEL_AGAIN_S)
        # what is left does no more than ask Redis, with a time limit
        taken = self._worker.tasks.values() if self._worker is not None else ()
        await asyncio.gather(*taken, *self._sending, return_exceptions=True)
        if self._subscription is not None:
            self._wakeups.unsubscribe(self._subscription)
        await self._redis.aclose(close_connection_pool=True)

    async def _send(self) -> None:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(_ANSWER_S):
                if await self._redis.zcard(QUEUE_NAME) < _MOST_IN_REDIS:
                    await self._redis.enqueue_job(_FUNCTION, _job_id=uuid.uuid4().hex)
        except (RedisError, OSError) as error:
            log.info("a job is announced without Redis: %s", error)
            self._wakeups.publish(QUEUE)

    async def _supervise(self) -> None:
        from redis.exceptions import RedisError

        attempt = 0
        while True:
            worker = self._worker = _worker(self._redis, self._take)
            worker.allow_pick_jobs = self._idle
            try:
                await worker.main()
            except (RedisError, OSError) as error:
                attempt = 0 if worker.jobs_complete else attempt + 1
                log.log(logging.WARNING if attempt <= 1 else logging.DEBUG, "no wake-ups through Redis: %s", error)
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("taking wake-ups from Redis failed")
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
            await asyncio.sleep(0.05 + full_jitter_s(attempt, cap_s=_LONGEST_PAUSE_S))

    async def _take(self, *_context: Any, **_named: Any) -> None:
        if self._subscription is not None:
            self._let_in(idle=False)
            self._subscription.wake()

    def _let_in(self, *, idle: bool) -> None:
        self._idle = idle
        if self._worker is not None:
            self._worker.allow_pick_jobs = idle


def _client(url: str) -> ArqRedis:
    """Never waits long; JSON, as whoever may write to Redis could run code through arq's own pickles."""
    from arq.connections import ArqRedis
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    limits: dict[str, Any] = {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _ANSWER_S}
    try:
        pool = ConnectionPool.from_url(url, **limits, retry=Retry(NoBackoff(), 0), client_name="content-gateway")
    except ValueError:  # which quotes parts of the URL
        raise ConfigError("the Redis URL is not redis://host:port/number, rediss:// or unix://") from None
    return ArqRedis(pool, job_serializer=_to_json, job_deserializer=json.loads, default_queue_name=QUEUE_NAME)


def _worker(redis: ArqRedis, take: WorkerCoroutine) -> Worker:
    """One that takes one wake-up at a time, and lives until Redis fails it."""
    from arq.worker import Worker, func

    logging.getLogger("arq").setLevel(logging.WARNING)  # it tells of every wake-up
    return Worker(
        [func(take, name=_FUNCTION)],
        queue_name=QUEUE_NAME,
        redis_pool=redis,
        handle_signals=False,
        max_jobs=1,
        job_timeout=_ANSWER_S,
        keep_result=0,
        poll_delay=_POLL_S,
        max_tries=1,
        retry_jobs=False,
        job_serializer=_to_json,
        job_deserializer=json.loads,
    )


def _to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, default=str).encode()
