"""Durable calls on their way: for each node that is connected here and has calls waiting, one after another."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from dataclasses import dataclass, field, replace

from gateway_core import ObjectMissing, StorageError, TooLarge
from gateway_core.db.backoff import full_jitter_s
from gateway_core.db.wakeups import Subscription, Wakeups
from gateway_core.errors import DatabaseError, GatewayError, ObjectCorrupt
from gateway_core.observe.logs import get_logger
from gateway_pipe.durable.bodies import opened
from gateway_pipe.durable.metrics import ENDED
from gateway_pipe.durable.model import DONE_HEADER, CallState, Stowed, Waiting, failure
from gateway_pipe.durable.store import CallStore
from gateway_pipe.durable.topics import CALLS, ERASED, call_topic
from gateway_pipe.hub.hub import Hub
from gateway_pipe.hub.nodes import Connected
from gateway_pipe.link.model import Head, LinkError, Opening, Reset, StreamReset
from gateway_pipe.link.session import Link

log = get_logger("gateway.pipe")

_POLL_S = 30.0
_BETWEEN_LOOKS_S = 0.1
_QUERIES_AT_ONCE = 8
_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 30.0
_FOR_EVER = frozenset({Reset.FORBIDDEN, Reset.GONE})
"""What a node refuses so, it will refuse each time."""


@dataclass(slots=True)
class _Delivery:
    """The work for one node: ``again`` says to look once more before it ends, ``attached`` that it has a new link.

    ``call`` is the id of the call that the node has now, empty for none; ``asking`` ends when that is given up.
    ``latest`` is the one that was delivered last.
    """

    task: asyncio.Task[None] = field(init=False)
    call: str = ""
    latest: str = ""
    asking: asyncio.Timeout = field(init=False)
    again: bool = False
    attached: asyncio.Event = field(default_factory=asyncio.Event)


class Deliveries:
    """Gives waiting calls to the nodes that are connected to this process.

    A node without waiting calls costs nothing: one query finds those that have some, when a node comes or a call is
    accepted anywhere, and every 30 s. A call is settled in the database before the next one is sent, so that their
    order holds whatever breaks; two processes that believe to have the same node meet in its journal and in the row.
    """

    def __init__(self, wakeups: Wakeups, store: CallStore, hub: Hub) -> None:
        self._wakeups = wakeups
        self._store = store
        self._hub = hub
        self._deliveries: dict[str, _Delivery] = {}
        self._done: dict[str, str] = {}
        self._queries = asyncio.Semaphore(_QUERIES_AT_ONCE)
        self._signal: Subscription | None = None
        self._lookers: list[asyncio.Task[None]] = []
        hub.on_attach(self._attached)
        hub.on_detach(self._detached)

    async def start(self) -> None:
        """Begin, in the running loop."""
        self._signal = self._wakeups.subscribe(CALLS)
        works = (self._look_forever(), self._give_up_forever())
        self._lookers = [asyncio.create_task(work, name="durable calls") for work in works]

    async def stop(self) -> None:
        """Stop; what is under way is delivered again later."""
        tasks = [*self._lookers, *(delivery.task for delivery in self._deliveries.values())]
        self._lookers = []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._signal is not None:
            self._wakeups.unsubscribe(self._signal)
            self._signal = None

    def announce(self, node: str) -> None:
        """A call for ``node`` was accepted: deliver it, here or wherever the node is."""
        if self._lookers and self._hub.node(node) is not None:
            self._begin(node)
        self._wakeups.publish(CALLS)

    def _attached(self, node: Connected) -> None:
        if (delivery := self._deliveries.get(node.name)) is not None:
            delivery.again = True
            delivery.attached.set()
        if self._signal is not None:
            self._signal.wake()

    def _detached(self, node: Connected) -> None:
        if self._hub.node(node.name) is None:
            self._done.pop(node.name, None)

    def _begin(self, node: str) -> None:
        delivery = self._deliveries.get(node)
        if delivery is not None:
            delivery.again = True
            return
        delivery = self._deliveries[node] = _Delivery()
        work = self._deliver_all(node, delivery)
        # not in the context of the request that happens to be the first: its id would be in all log lines
        delivery.task = asyncio.create_task(work, name=f"durable calls of {node}", context=Context())

    async def _look_forever(self) -> None:
        assert self._signal is not None
        while True:
            try:
                async with self._queries:
                    names = [connected.name for connected in self._hub.connected()]
                    for node in await self._store.waited_for(names):
                        self._begin(node)
            except DatabaseError as error:
                log.info("waiting calls could not be looked for", error=str(error))
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("looking for waiting calls failed")
            await asyncio.sleep(_BETWEEN_LOOKS_S)  # many nodes come, many calls are accepted, one query
            await self._signal.wait(_POLL_S)

    async def _give_up_forever(self) -> None:
        """Calls that their clients erased while nodes had them: nobody waits for these, and the next ones do."""
        with self._wakeups.subscribe(ERASED) as erased:
            while True:
                await erased.wait(_POLL_S)
                held = {delivery.call: delivery for delivery in self._deliveries.values() if delivery.call}
                try:
                    async with self._queries:
                        wanted = await self._store.wanted(held)
                except DatabaseError as error:
                    log.info("erased calls could not be looked for", error=str(error))
                    continue
                except Exception:  # a supervisor is one of the borders where everything is caught
                    log.exception("looking for erased calls failed")
                    continue
                for call_id, delivery in held.items():
                    if call_id not in wanted and delivery.call == call_id:
                        log.info("a durable call was erased while its node had it", call=call_id)
                        delivery.call = ""
                        delivery.asking.reschedule(asyncio.get_running_loop().time())

    async def _deliver_all(self, node: str, delivery: _Delivery) -> None:
        """Until nothing waits, or the node has left; whoever finds more to do meanwhile sets ``again``."""
        failures = 0
        try:
            while True:
                delivery.again = False
                delivery.attached.clear()
                try:
                    if await self._deliver_next(node, delivery):
                        failures = 0
                    elif not delivery.again:
                        return
                except GatewayError as error:
                    log.info("a durable call has to wait", node=node, call=delivery.latest, error=str(error))
                    await _pause(delivery, failures, error)
                    failures += 1
                except Exception as error:  # a supervisor is one of the borders where everything is caught
                    log.exception("a durable call could not be delivered", node=node)
                    await _pause(delivery, failures, error)
                    failures += 1
        finally:
            del self._deliveries[node]

    async def _deliver_next(self, node: str, delivery: _Delivery) -> bool:
        """Settle the oldest call; False when there is none, or no link. Raises what its delivery failed with."""
        connected = self._hub.node(node)
        if connected is None or not connected.link.alive:
            return False
        async with self._queries:
            call = await self._store.next(node)
        if call is None:
            return False
        if call.left_s <= 0:
            async with self._queries:
                expired = await self._store.expire(call)
            ENDED.labels(CallState.EXPIRED.value).inc(expired)
            self._tell(call)
            return True
        try:
            async with asyncio.timeout(None) as delivery.asking:
                delivery.call = delivery.latest = call.id
                head, result = await self._answered(connected.link, node, call)
        except TimeoutError:
            if not delivery.asking.expired():
                raise
            return True
        finally:
            delivery.call = ""
        async with self._queries:
            first = await self._store.finish(call, head, result)
        ENDED.labels(CallState.DONE.value).inc(first)
        self._done[node] = call.id
        self._tell(call)
        return True

    async def _answered(self, link: Link, node: str, call: Waiting) -> tuple[Head, Stowed]:
        """What the node answers; a failure where there will never be an answer that can be kept."""
        try:
            if call.unreadable:
                raise ObjectCorrupt("its credentials fit none of the keys in SECRET_KEY any more")
            async with AsyncExitStack() as stack:
                body = await stack.enter_async_context(opened(self._store.storage, call.body))
                opening = self._opening(node, call)
                asked = link.call(opening, body, timeout_s=call.left_s, whole=True)
                answer = await stack.enter_async_context(asked)
                return answer.head, await self._store.stow_result(call.id, answer)
        except (TooLarge, ObjectMissing, ObjectCorrupt) as error:
            return _failed(node, call, error)
        except (LinkError, StorageError) as error:
            if isinstance(error, StreamReset) and error.code in _FOR_EVER:
                return _failed(node, call, error)
            async with self._queries:
                await self._store.tried(call.id)
            raise

    def _opening(self, node: str, call: Waiting) -> Opening:
        """With the word that the node may forget the one before."""
        done = self._done.get(node)
        if done is None:
            return call.opening
        return replace(call.opening, headers=(*call.opening.headers, (DONE_HEADER, done)))

    def _tell(self, call: Waiting) -> None:
        """Whoever waits for the call looks every second anyway."""
        self._wakeups.publish(call_topic(call.id), through_database=False)


def _failed(node: str, call: Waiting, error: Exception) -> tuple[Head, Stowed]:
    log.warning("a durable call failed", node=node, call=call.id, error=str(error))
    head, data = failure(error)
    return head, Stowed(data, "", len(data))


async def _pause(delivery: _Delivery, failures: int, error: Exception) -> None:
    """Longer each time, and about as long as the node asks for; a new link ends it."""
    asked_s = min(error.retry_after_s or 0.0, _MAX_BACKOFF_S) if isinstance(error, StreamReset) else 0.0
    pause_s = asked_s + full_jitter_s(failures, base_s=_BACKOFF_S, cap_s=_MAX_BACKOFF_S)
    with suppress(TimeoutError):
        await asyncio.wait_for(delivery.attached.wait(), pause_s)
