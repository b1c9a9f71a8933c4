"""Wake-ups for those who wait for jobs. They carry nothing and may be lost."""

from __future__ import annotations

from gateway_core import Gateway
from gateway_transform.queue.base import JobQueue
from gateway_transform.queue.embedded import EmbeddedQueue


def make_queue(gateway: Gateway) -> JobQueue:
    """Through Redis where ``REDIS_URL`` is set; raises ConfigError when it is wrong."""
    if not gateway.settings.redis_url:
        return EmbeddedQueue(gateway.wakeups)
    from gateway_transform.queue.redis import RedisQueue

    return RedisQueue(gateway.settings.redis_url, gateway.wakeups)
