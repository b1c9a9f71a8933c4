"""Webhooks on their way: taken from the outbox by whichever process is free, tried, and tried again.

A message may come twice, as its sender may die between the answer and the note of it: ``webhook-id`` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from prometheus_client import Counter

from gateway_core import Gateway, GatewayError, NotFound
from gateway_core.db.backoff import jittered_s
from gateway_core.db.outbox import Outbox
from gateway_core.db.wakeups import Subscription
from gateway_core.errors import DatabaseError
from gateway_core.observe.events import WEBHOOK_DELIVERED, WEBHOOK_FAILED, WEBHOOK_GIVEN_UP
from gateway_core.observe.logs import get_logger
from gateway_transform.hooks.lanes import Lanes
from gateway_transform.hooks.log import record
from gateway_transform.hooks.message import WAKEUP, Message, Nobody, read_messages
from gateway_transform.hooks.sending import Outcome, Verdict, send
from gateway_transform.hooks.signing import signed_headers, unsigned_headers
from gateway_transform.jobs.claims import HOOK_TOPIC
from gateway_transform.settings import TransformSettings

WEBHOOKS = Counter("gateway_transform_webhooks_total", "Tries to deliver a webhook, by how they ended", ["outcome"])

_AHEAD = 32
_AHEAD_FOR_A_SLOW_ONE = 4
_LONGEST_WAIT_S = 30.0
_SETTLING_S = 30.0
_PUT_OFF_S = 5.0
_PUT_OFF_SPREAD = 9.0
_LEAST_PAUSE_S = 0.05
_LOOK_EVERY_S = 15.0
_LOOK_WHILE_WAITING_S = 1.0
_AFTER_FAILURE_S = 2.0
_GRACE_S = 5.0
_EVENTS = {Outcome.DELIVERED: WEBHOOK_DELIVERED, Outcome.FAILED: WEBHOOK_FAILED}

log = get_logger("gateway.transform.hooks")


@asynccontextmanager
async def run(gateway: Gateway, settings: TransformSettings) -> AsyncIterator[None]:
    """Deliver webhooks while the block runs; any number of processes may. At its end what is on its way has 5 s."""
    deliverer = Deliverer(gateway, settings)
    working = asyncio.create_task(deliverer.work(), name="transform webhooks")
    try:
        yield
    finally:
        working.cancel()
        await asyncio.wait([working])
        await deliverer.stop()


class Deliverer:
    """One process's part. Messages it has claimed wait here for a place in the lanes, each for half a minute at most.

    What waits for a slow receiver goes back to the outbox, which costs it none of its tries.
    """

    def __init__(self, gateway: Gateway, settings: TransformSettings) -> None:
        self._gateway, self._settings = gateway, settings
        self._outbox = Outbox(gateway.db)
        self._lanes = Lanes()
        self._waiting: list[tuple[float, Message]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._lease_s = _LONGEST_WAIT_S + settings.webhook_timeout_s + _SETTLING_S

    async def work(self) -> None:
        """Until cancelled, or until the process drains."""
        with self._gateway.wakeups.subscribe(WAKEUP) as news:
            while not self._gateway.draining.is_set():
                try:
                    await news.wait(await self._turn(news))
                except DatabaseError as exc:
                    log.warning("webhooks have to wait", error=str(exc))
                    await asyncio.sleep(jittered_s(_AFTER_FAILURE_S))
                except Exception:  # a supervisor is one of the borders where everything is caught
                    log.exception("webhooks: a turn failed")
                    await asyncio.sleep(jittered_s(_AFTER_FAILURE_S))
        await self._give_back()

    async def stop(self) -> None:
        """Give back what waits, and let what is on its way end."""
        await self._give_back()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=_GRACE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _give_back(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            with contextlib.suppress(DatabaseError):  # then the claims run out
                await self._outbox.put_off([message.item for _, message in waiting], 0.0)

    async def _turn(self, news: Subscription) -> float:
        """Take what is due and start what may be; returns how long nothing has to be done, in seconds."""
        due_s = await self._take()
        self._start(news)
        if await self._put_off():
            due_s = 0.0
        return min(max(due_s, _LEAST_PAUSE_S), _LOOK_WHILE_WAITING_S if self._waiting else _LOOK_EVERY_S)

    async def _take(self) -> float:
        """Claim as many as may wait here; returns the seconds until there may be more."""
        room = _AHEAD - len(self._waiting)
        if room <= 0:
            return _LOOK_WHILE_WAITING_S
        due_s = await self._outbox.next_due_s(HOOK_TOPIC)
        if due_s is None or due_s > 0:
            return _LOOK_EVERY_S if due_s is None else due_s
        items = await self._outbox.claim(HOOK_TOPIC, limit=room, lease_s=self._lease_s)
        claimed = time.monotonic()
        for message in await read_messages(self._gateway, items):
            if isinstance(message, Nobody):
                await self._drop(message)
            else:
                self._waiting.append((claimed, message))
        return 0.0

    def _start(self, news: Subscription) -> None:
        left = []
        for claimed, message in self._waiting:
            moment = None if _too_late(claimed) else self._lanes.enter(message.server)
            if moment is None:
                left.append((claimed, message))
                continue
            task = asyncio.create_task(self._deliver(message, moment), name=f"webhook of {message.job_id}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(lambda _: news.wake())
        self._waiting = left

    async def _put_off(self) -> bool:
        """Give back what would keep others from being claimed, or would wait longer than its claim allows.

        Whether there was any.
        """
        waits: Tally[str] = Tally()
        stay: list[tuple[float, Message]] = []
        go: list[tuple[float, Message]] = []
        for claimed, message in self._waiting:
            waits[message.server] += 1
            crowd = waits[message.server] > _AHEAD_FOR_A_SLOW_ONE and self._lanes.slow(message.server)
            (go if crowd or _too_late(claimed) else stay).append((claimed, message))
        if go:
            await self._outbox.put_off(
                [message.item for _, message in go], jittered_s(_PUT_OFF_S, share=_PUT_OFF_SPREAD)
            )
            self._waiting = stay
        return bool(go)

    async def _deliver(self, message: Message, moment: float) -> None:
        try:
            verdict = await self._try(message)
            await self._settle(message, verdict, took_ms=round((time.monotonic() - moment) * 1000))
        except GatewayError as exc:
            log.warning("webhook not settled, it will come again", job=message.job_id, error=str(exc))
        except Exception:  # a task's border; its item comes again when the claim has run out
            log.exception("webhook failed by a fault of ours", job=message.job_id)
        finally:
            self._lanes.leave(message.server, moment)

    async def _try(self, message: Message) -> Verdict:
        moment_s = int(time.time())
        if not message.client_id:  # made without ``use_auth``: there is nobody whose secret could sign
            headers = unsigned_headers(message.item.id, moment_s)
        else:
            try:
                secret = await self._gateway.clients.secret_of(message.client_id)
            except NotFound:
                return Verdict(Outcome.GIVEN_UP, "the client is gone, and with it the secret to sign with")
            headers = signed_headers(secret, message.item.id, moment_s, body=message.body)
        return await send(self._gateway.http, message, headers, timeout_s=self._settings.webhook_timeout_s)

    async def _settle(self, message: Message, verdict: Verdict, *, took_ms: int) -> None:
        item, pauses_s = message.item, self._settings.webhook_backoff_s
        if verdict.outcome is Outcome.FAILED and item.attempt >= len(pauses_s):
            verdict = replace(verdict, outcome=Outcome.GIVEN_UP)
        await record(self._gateway.db, message.job_id, item.attempt, verdict=verdict, took_ms=took_ms)
        if verdict.outcome is Outcome.DELIVERED:
            await self._outbox.done(item)
        elif verdict.outcome is Outcome.FAILED:
            await self._outbox.retry(item, max(jittered_s(pauses_s[item.attempt]), verdict.retry_after_s))
        else:
            await self._outbox.dead(item, verdict.detail)
        self._tell(message, verdict, took_ms)

    async def _drop(self, message: Nobody) -> None:
        verdict = Verdict(Outcome.GIVEN_UP, message.why)
        if message.job_id:
            await record(self._gateway.db, message.job_id, message.item.attempt, verdict=verdict, took_ms=0)
        await self._outbox.dead(message.item, message.why)
        self._tell(message, verdict, 0)

    def _tell(self, message: Message | Nobody, verdict: Verdict, took_ms: int) -> None:
        job, attempt = message.item.payload["job"], message.item.attempt
        WEBHOOKS.labels(verdict.outcome.value).inc()
        event = _EVENTS.get(verdict.outcome, WEBHOOK_GIVEN_UP)
        self._gateway.emit(event, job=job, attempt=attempt, outcome=verdict.outcome.value, status=verdict.status)
        say = log.info if verdict.outcome in _EVENTS else log.warning
        say(
            f"webhook {verdict.outcome.value}",
            job=job,
            server=message.server if isinstance(message, Message) else "",
            attempt=attempt,
            status=verdict.status,
            # what a receiver answers may hold what it was asked: it stays in the delivery log
            detail=verdict.detail if verdict.status is None else "",
            ms=took_ms,
        )


def _too_late(claimed: float) -> bool:
    """Whether a message has waited so long that its claim might run out while it is sent."""
    return time.monotonic() - claimed > _LONGEST_WAIT_S
