"""Redis, which may be away at any time: one supervised connection that knows whether it is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway_core.db.backoff import full_jitter_s
from gateway_core.errors import ConfigError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 3.0
_HEALTH_CHECK_S = 15
_LONGEST_PAUSE_S = 2.0


class RedisLink:
    """Listens to one channel and reconnects for ever; ``url`` is ``redis://``, ``rediss://`` or ``unix://``.

    A connection that is silent for ``answer_timeout_s``, asked once more, and silent for as long again is dropped.
    Raises ConfigError for a URL that does not fit; that Redis is away is never an error here.
    """

    def __init__(self, url: str, *, channel: str = "gw:wakeups", answer_timeout_s: float = 5.0) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialBackoff, NoBackoff
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import TimeoutError as RedisTimeoutError

        common: dict[str, Any] = {
            "socket_timeout": answer_timeout_s,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "client_name": "content-gateway",
        }
        patient = Retry(ExponentialBackoff(cap=2, base=0.1), 10)
        try:
            parts = urlsplit(url)
            if parts.scheme != "unix":
                common["socket_keepalive"] = True
            self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            self._client: Redis = Redis.from_url(
                url,
                **common,
                retry=patient,
                retry_on_error=[RedisConnectionError, RedisTimeoutError],
                health_check_interval=_HEALTH_CHECK_S,
            )
            self._impatient: Redis = Redis.from_url(url, **common, retry=Retry(NoBackoff(), 0))
        except ValueError:  # which quotes parts of the URL
            raise ConfigError("the Redis URL is not redis://host:port/number, rediss:// or unix://") from None
        self._channel = channel
        self._answer_timeout_s = answer_timeout_s
        self._on_message: Callable[[bytes], None] | None = None
        self._on_connected: Callable[[], None] | None = None
        self._connected = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"RedisLink({self._shown})"

    @property
    def client(self) -> Redis:
        """For caches: bounded in time, but patient, so ask ``connected`` first where waiting hurts."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether messages arrive now; silence is noticed after two answer timeouts."""
        return self._connected

    def listen(self, on_message: Callable[[bytes], None], on_connected: Callable[[], None]) -> None:
        """Call these for each message and after each (re)connection, as messages may have been missed before it."""
        self._on_message, self._on_connected = on_message, on_connected

    def start(self) -> None:
        """Begin connecting, in the running loop; waits for nothing."""
        self._task = asyncio.create_task(self._supervise(), name="redis link")

    async def stop(self) -> None:
        """Close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._connected = False
        await self._impatient.aclose()
        await self._client.aclose()

    async def publish(self, message: bytes) -> bool:
        """Send to all processes that listen, this one too; False when it did not arrive at Redis for sure."""
        from redis.exceptions import RedisError

        if not self._connected:
            return False
        try:
            await self._impatient.publish(self._channel, message)
        except (RedisError, OSError) as error:
            log.info("a message could not be sent through %s: %s", self._shown, error)
            return False
        return True

    async def _supervise(self) -> None:
        from redis.exceptions import RedisError

        attempt = 0
        while True:
            try:
                await self._receive()
            except (RedisError, OSError) as error:
                level = logging.WARNING if self._connected or attempt == 0 else logging.DEBUG
                log.log(level, "%s is away, the service runs on without it: %s", self._shown, error)
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("the connection to %s failed", self._shown)
            attempt = 0 if self._connected else attempt + 1
            self._connected = False
            await asyncio.sleep(0.05 + full_jitter_s(attempt, base_s=0.1, cap_s=_LONGEST_PAUSE_S))

    async def _receive(self) -> None:
        """Hand messages on until the connection breaks; raises RedisError or OSError then."""
        async with self._impatient.pubsub() as pubsub:
            await pubsub.subscribe(self._channel)
            asked = False
            while True:
                message = await pubsub.get_message(timeout=self._answer_timeout_s)
                if message is None:
                    if asked or not self._connected:
                        raise TimeoutError("it does not answer")
                    await pubsub.ping()
                asked = message is None
                if message is not None:
                    self._handle(message["type"], message["data"])

    def _handle(self, kind: str, data: Any) -> None:
        if kind == "subscribe":
            log.info("%s is there", self._shown)
            self._connected = True
            if self._on_connected is not None:
                self._on_connected()
        elif kind == "message" and self._on_message is not None:
            self._on_message(data)
