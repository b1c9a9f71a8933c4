"""Durable calls on the node: each runs once, whatever becomes of the link that brought it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway_core.errors import StorageError, TooLarge
from gateway_core.observe.logs import get_logger
from gateway_core.settled import settled
from gateway_pipe.durable.journal import Answered, Journal
from gateway_pipe.durable.model import ATTEMPT_HEADER, DONE_HEADER, MAX_TTL_S, failure
from gateway_pipe.link.messages import head_payload
from gateway_pipe.link.model import Body, Head, Incoming, Opening, Reset, Serve

log = get_logger("gateway.pipe")

MAX_BODY_BYTES = 256 * 1024 * 1024
"""Of a durable call to this node; it is in memory while its handler runs."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of a durable call's answer."""

_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: Reset
    reason: str
    retry_after_s: float | None = None


_Outcome: TypeAlias = Answered | _Refusal


class DurableServe:
    """A ``Serve`` around another: calls with an id go through the journal, all others straight on.

    A call is handled in a task of its own, which a broken link does not end; it is cancelled when the call's time is
    over. One that is delivered again meanwhile waits for the same answer, later it gets the one that was given. One for
    all links of a process; ``stop`` cancels what runs.
    """

    def __init__(self, serve: Serve, journal: Journal) -> None:
        self._serve = serve
        self._journal = journal
        self._running: dict[str, asyncio.Task[_Outcome]] = {}

    async def __call__(self, incoming: Incoming) -> None:
        """Answer one stream; raises LinkLost or StreamReset where nobody waits for it any more."""
        call_id = incoming.opening.call
        if not call_id:
            await self._serve(incoming)
            return
        if done := incoming.opening.header(DONE_HEADER):
            self._journal.settled(done)
        run = self._running.get(call_id)
        if run is None:
            try:
                body = await incoming.read(MAX_BODY_BYTES)
            except TooLarge as error:
                await incoming.answer(*failure(error))
                return
            run = self._running.get(call_id) or self._begin(incoming, body)
        await asyncio.wait({run})
        outcome = _Refusal(Reset.REFUSED, "the node is stopping") if run.cancelled() else run.result()
        if isinstance(outcome, Answered):
            await incoming.answer(outcome.head, outcome.body)
        else:
            await incoming.refuse(outcome.code, outcome.reason, retry_after_s=outcome.retry_after_s)

    async def stop(self) -> None:
        """Cancel what runs; each of these calls runs again when it is delivered the next time."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, incoming: Incoming, body: bytes) -> asyncio.Task[_Outcome]:
        left_s = incoming.time_left_s()
        left_s = MAX_TTL_S if left_s is None else min(left_s, MAX_TTL_S)
        call_id = incoming.opening.call
        task = asyncio.create_task(self._run(incoming.opening, body, left_s), name=f"durable call {call_id}")
        self._running[call_id] = task
        task.add_done_callback(lambda _: self._running.pop(call_id))
        return task

    async def _run(self, opening: Opening, body: bytes, left_s: float) -> _Outcome:
        try:
            async with asyncio.timeout(left_s):
                begun = await self._journal.begin(opening.call, left_s)
                if isinstance(begun, Answered):
                    return begun
                return await self._attempt(opening, body, begun, left_s=left_s)
        except TimeoutError:
            return _Refusal(Reset.DEADLINE, "the time of the call is over")
        except StorageError as error:
            log.warning("a durable call cannot be written down", call=opening.call, error=str(error))
            return _Refusal(Reset.REFUSED, str(error), _RETRY_S)

    async def _attempt(self, opening: Opening, body: bytes, attempt: int, *, left_s: float) -> _Outcome:
        headers = tuple(pair for pair in opening.headers if pair[0].lower() != DONE_HEADER.lower())
        seen = replace(opening, headers=(*headers, (ATTEMPT_HEADER, str(attempt))))
        detached = _Detached(seen, body, left_s)
        try:
            await self._serve(detached)
            outcome = detached.outcome or Answered(*failure(RuntimeError("the call was not answered")))
        except Exception as error:  # a supervisor; what has run is not repeated because it failed
            log.exception("a durable call failed", call=opening.call)
            outcome = Answered(*failure(error))
        if isinstance(outcome, Answered):
            await self._keep(opening.call, outcome)
        elif outcome.code is Reset.REFUSED:
            await self._journal.withdraw(opening.call)
        return outcome

    async def _keep(self, call_id: str, answer: Answered) -> None:
        """An answer that cannot be written down is given all the same: it is the best that there is."""
        try:
            await settled(self._journal.finish(call_id, answer))  # what has run must not run again after a restart
        except StorageError as error:
            log.warning("the answer of a durable call is not written down", call=call_id, error=str(error))


class _Detached:
    """An Incoming that no link can break: its body is here, its answer stays here."""

    def __init__(self, opening: Opening, body: bytes, left_s: float) -> None:
        self.opening = opening
        self.outcome: _Outcome | None = None
        self._body = body
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + left_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self._body = self._body, b""
        if body:
            yield body

    async def read(self, limit_bytes: int) -> bytes:
        if len(self._body) > limit_bytes:
            raise TooLarge(f"more than {limit_bytes} bytes")
        body, self._body = self._body, b""
        return body

    def time_left_s(self) -> float | None:
        return max(0.0, self._deadline - self._clock())

    async def answer(self, head: Head, body: Body = b"") -> None:
        """An answer that breaks, or is too large, becomes a failure: there is no caller to see a part of it."""
        try:
            head_payload(head)
            whole = await _whole(body)
        except Exception as error:  # the handler's own, whatever it is
            log.warning("the answer of a durable call broke", call=self.opening.call, exc_info=True)
            head, whole = failure(error)
        self.outcome = Answered(head, whole)

    async def refuse(self, code: Reset, reason: str, *, retry_after_s: float | None = None) -> None:
        self.outcome = _Refusal(code, reason, retry_after_s)


async def _whole(body: Body) -> bytes:
    pieces, size = [], 0
    if isinstance(body, bytes):
        pieces, size = [body], len(body)
    else:
        async for chunk in body:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                break
            pieces.append(chunk)
    if size > MAX_ANSWER_BYTES:
        raise TooLarge(f"the answer of a durable call has more than {MAX_ANSWER_BYTES} bytes")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
