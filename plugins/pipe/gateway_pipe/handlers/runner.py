"""Answers calls with handlers' methods: at most ``slots`` at once, each within its caller's time."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from gateway_core.errors import HttpError
from gateway_pipe.handlers import describe, nouns, results
from gateway_pipe.handlers.call import Call, Means
from gateway_pipe.handlers.context import Context
from gateway_pipe.handlers.hooks import Hooks
from gateway_pipe.handlers.load import Handlers
from gateway_pipe.handlers.nouns import Noun
from gateway_pipe.handlers.results import Reply, Result
from gateway_pipe.handlers.streams import Stream
from gateway_pipe.handlers.threads import Threads
from gateway_pipe.link.model import Incoming, Kind, Reset

MAX_BODY_BYTES = 64 * 1024 * 1024
_SLOTS_A_LARGE_BODY = 8


class Metrics(Protocol):
    """Is told of each call."""

    def handled(self, method: str, seconds: float) -> None:
        """The answer of ``method`` (empty where there is none of that name) began after ``seconds``."""


class Runner:
    """Handlers at work. ``start`` it before it serves; ``serve`` is for links, ``notify`` for whoever has them.

    Bodies above 256 KiB are taken and kept for an eighth of the slots at a time, so that slow or large ones neither
    fill the memory nor keep others from their slots.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        slots: int = 64,
        metrics: Metrics | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._handlers = handlers
        self._metrics = metrics
        self._threads = Threads("handler")
        self._hooks = Hooks(handlers, self._threads)
        room = asyncio.Semaphore(max(1, slots // _SLOTS_A_LARGE_BODY))
        self._means = Means(self._threads, asyncio.Semaphore(slots), room, max_body_bytes)

    async def start(self) -> None:
        """Call ``start_hook``."""
        await self._hooks.start()

    async def stop(self) -> None:
        """Call ``stop_hook``; to be called when the links have ended. Methods that still run are left behind."""
        await self._hooks.stop()
        self._threads.stop()

    def notify(self, name: str, *args: Any) -> None:
        """Have the hooks of that name called, soon and in order; never waits. See ``load.HOOKS``."""
        self._hooks.notify(name, *args)

    def nouns(self) -> tuple[str, ...]:
        """What is answered here, sorted."""
        return describe.nouns(self._handlers)

    def catalogue(self) -> dict[str, Any]:
        """The same with verbs, parameters and documentation: see ``describe.catalogue``."""
        return describe.catalogue(self._handlers)

    async def serve(self, incoming: Incoming, peer: str) -> None:
        """Answer one call of a noun; ``peer`` is the name of who is at the other end.

        Refuses what is not begun or not done in the caller's time (DEADLINE), and other kinds (GONE). An exception of a
        stream after its first piece leaves it, and so breaks the stream.
        """
        opening = incoming.opening
        if opening.kind is not Kind.NOUN:
            await incoming.refuse(Reset.GONE, "only nouns are answered here")
            return
        began = time.perf_counter()
        try:
            noun = nouns.parse(opening.target)
        except HttpError as exc:
            await self._send(incoming, results.refused(exc), method="", began=began)
            return
        name = nouns.method_name(opening.method, noun.name)
        method = self._handlers.methods.get(name)
        if method is None:
            await self._send(incoming, self._without_method(opening.method, noun), method="", began=began)
            return
        context = Context(peer, opening, noun.query, time_left_s=incoming.time_left_s())
        call = Call(self._means, incoming, method=method, context=context)
        try:
            reply = await self._in_time(call, noun, context.deadline)
            if reply is None:
                context.cancelled.set()
                await incoming.refuse(Reset.DEADLINE, "the caller's time was up")
            else:
                await self._send(incoming, reply, method=name, began=began)
        except BaseException:
            context.cancelled.set()
            raise
        finally:
            await call.close()

    @staticmethod
    async def _in_time(call: Call, noun: Noun, left_s: float | None) -> Reply | Stream | None:
        """The reply, None when the time is up."""
        try:
            async with asyncio.timeout(left_s):
                return await call.reply(noun)
        except HttpError as exc:
            return results.refused(exc)
        except TimeoutError:
            return None

    async def _send(self, incoming: Incoming, reply: Reply | Stream, *, method: str, began: float) -> None:
        if self._metrics is not None:
            self._metrics.handled(method, time.perf_counter() - began)
        if incoming.opening.method == "HEAD":
            await incoming.answer(reply.head)
        else:
            await incoming.answer(reply.head, reply.body if isinstance(reply, Reply) else reply)

    def _without_method(self, verb: str, noun: Noun) -> Reply:
        """Of the empty noun the catalogue, unless a handler has a method for it."""
        if noun.name == "" and not noun.args and verb in {"GET", "HEAD"}:
            return Result.of(self.catalogue()).reply()
        return results.no_such_method(self._verbs(noun))

    def _verbs(self, noun: Noun) -> list[str]:
        found = [verb for verb in nouns.VERBS if nouns.method_name(verb, noun.name) in self._handlers.methods]
        return [*found, "HEAD"] if "GET" in found else found
