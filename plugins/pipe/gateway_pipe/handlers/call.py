"""One call of a handler's method, from the request's body to what it gave."""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway_core.errors import BadRequest
from gateway_core.observe.logs import get_logger
from gateway_pipe.handlers import bodies, results
from gateway_pipe.handlers.context import Context
from gateway_pipe.handlers.load import Method
from gateway_pipe.handlers.nouns import Noun
from gateway_pipe.handlers.results import Reply, Result
from gateway_pipe.handlers.streams import Pieces, Stream, pieces_of
from gateway_pipe.handlers.threads import Threads
from gateway_pipe.link.model import Incoming

log = get_logger("gateway.pipe")


@dataclass(frozen=True, slots=True)
class Means:
    """What all calls share: ``slots`` for methods that run, ``room`` for large bodies, threads."""

    threads: Threads
    slots: asyncio.Semaphore
    room: asyncio.Semaphore
    max_body_bytes: int


class Call:
    """``reply`` once, then ``close`` in any case.

    A slot is given back when the method has really ended: a thread goes on though nobody waits for it.
    """

    def __init__(self, means: Means, incoming: Incoming, *, method: Method, context: Context) -> None:
        self._means = means
        self._incoming = incoming
        self._method = method
        self._context = context
        self._pending: asyncio.Future[Any] | None = None
        self._pieces: Pieces | None = None
        self._file: bodies.BodyFile | None = None
        self._room = AsyncExitStack()
        self._has_slot = False

    async def reply(self, noun: Noun) -> Reply | Stream:
        """What the method answers. Raises HttpError where it cannot be called, TimeoutError when the time is up."""
        try:
            self._method.signature.bind(self._context, None, *noun.args)
        except TypeError as exc:
            raise BadRequest(f"arguments that the method does not take: {exc}") from exc
        mimetype = bodies.mimetype_of(self._context.content_type)
        if self._method.streams:
            await self._take_slot()
            data = self._streamed()
        else:
            data = await self._whole()
            await self._take_slot()
        try:
            returned = await self._run((mimetype, data), noun.args)
            return await self._told(Result.of(returned))
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._raised(exc)
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - a handler may raise anything; the caller is told
            return self._raised(exc)

    async def close(self) -> None:
        """Stop what still runs, and give slot and room back when it has ended."""
        last = self._pending if self._pending is not None and not self._pending.done() else None
        if last is not None:
            self._context.cancelled.set()
        if self._file is not None:
            self._file.leave()
        try:
            if self._pieces is not None:
                last = await self._pieces.close() or last
            await self._room.aclose()
        finally:
            if last is None:
                self._give_slot_back()
            else:
                last.add_done_callback(self._give_slot_back)

    async def _take_slot(self) -> None:
        await self._means.slots.acquire()
        self._has_slot = True
        if self._context.deadline == 0:
            raise TimeoutError

    def _give_slot_back(self, ended: asyncio.Future[Any] | None = None) -> None:
        if ended is not None and not ended.cancelled():
            ended.exception()  # nobody asks for it any more
        if self._has_slot:
            self._has_slot = False
            self._means.slots.release()

    async def _whole(self) -> Any:
        content_type = self._context.content_type
        most = self._means.max_body_bytes
        data = await bodies.whole(self._incoming, limit_bytes=most, room=self._means.room, holding=self._room)
        if len(data) <= bodies.SMALL_BYTES:
            return bodies.decoded(content_type, data)
        return await self._in_thread(partial(bodies.decoded, content_type, data))

    def _streamed(self) -> Any:
        chunks = aiter(self._incoming)
        if self._method.asynchronous:
            return chunks
        self._file = bodies.BodyFile(chunks)
        return io.BufferedReader(self._file, bodies.SMALL_BYTES)

    async def _run(self, post_data: tuple[str, Any], args: tuple[str, ...]) -> Any:
        call = partial(self._method.call, self._context, post_data, *args)
        returned = call() if self._method.asynchronous else await self._in_thread(call)
        return await returned if inspect.isawaitable(returned) else returned

    async def _told(self, result: Result) -> Reply | Stream:
        self._pieces = pieces_of(result.data, self._in_thread, self._means.threads)
        if self._pieces is not None:
            return Stream(result, await self._pieces.next(), self._pieces)
        if result.large:
            reply: Reply = await self._in_thread(partial(result.reply, patient=True))
            return reply
        return result.reply()

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Do ``work``; when this is cancelled it goes on, and ``cancelled`` tells it."""
        self._pending = self._means.threads.submit(work)
        try:
            return await asyncio.shield(self._pending)
        except asyncio.CancelledError:
            self._context.cancelled.set()
            raise

    def _raised(self, error: BaseException) -> Reply:
        log.warning("a handler raised", peer=self._context.name, method=self._method.name, exc_info=error)
        return results.raised(error)
