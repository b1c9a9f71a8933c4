"""The open streams of a link: numbering, who serves which, and how they are broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine

from gateway_pipe.link import messages
from gateway_pipe.link.frames import MAX_STREAM, Type, frame
from gateway_pipe.link.half import SendingHalf
from gateway_pipe.link.model import Limits, LinkLost, ProtocolViolation, Reset, StreamReset
from gateway_pipe.link.sender import Sender
from gateway_pipe.link.stream import Stream


class Streams:
    """``changed`` is called when one has ended. ``credit`` is what a new stream may send."""

    def __init__(self, sender: Sender, *, node: bool, credit: int, limits: Limits, changed: Callable[[], None]) -> None:
        self._sender = sender
        self._node = node
        self._credit = credit
        self._limits = limits
        self._changed = changed
        self._next = 1 if node else 2
        self._highest = 0
        self._open: dict[int, Stream] = {}
        self._called = 0
        self._served: dict[int, asyncio.Task[None]] = {}
        self._taken: set[int] = set()
        sender.emptied = self.forget

    def __len__(self) -> int:
        return len(self._open)

    @property
    def called(self) -> int:
        """How many this end opened."""
        return self._called

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """What serves the other end's."""
        return self._served.values()

    @property
    def full(self) -> bool:
        """Whether the other end has as many as this one bears: open ones, and ended ones whose task has not."""
        return len(self._taken) >= self._limits.streams

    @property
    def used_up(self) -> bool:
        """Whether this end has no number left for another."""
        return self._next > MAX_STREAM

    def open(self, payload: bytes) -> Stream:
        """A new stream of this end, with its OPEN frame on its way."""
        stream = self._new(self._next)
        self._next += 2
        self._called += 1
        stream.begin(Type.OPEN, payload)
        return stream

    def opened(self, number: int) -> None:
        """The other end opens a stream; raises ProtocolViolation where the number cannot be its next."""
        if not self.theirs(number) or number <= self._highest:
            raise ProtocolViolation(f"stream {number} cannot be opened")
        self._highest = number

    def accept(self, number: int, *, fin: bool) -> Stream:
        """The stream that the other end opened; ``serve`` is to follow."""
        stream = self._new(number)
        self._taken.add(number)
        if fin:
            stream.feed(b"", fin=True)
        return stream

    def serve(self, stream: Stream, work: Coroutine[None, None, None]) -> None:
        """Have ``work`` answer ``stream``, in a task that a broken stream cancels."""

        def ended(_task: asyncio.Task[None]) -> None:  # also of one that was cancelled before it began
            del self._served[stream.number]
            if stream.number not in self._open:
                self._taken.discard(stream.number)
            elif stream.complete:
                self.forget(stream)

        task = self._served[stream.number] = self._sender.loop.create_task(work)
        task.add_done_callback(ended)

    def get(self, number: int) -> Stream | None:
        """An open stream; None for one that has ended here, whose frames are still under way at times.

        Raises ProtocolViolation for one that was never opened.
        """
        stream = self._open.get(number)
        if stream is None and not 0 < number <= (self._highest if self.theirs(number) else self._next - 2):
            raise ProtocolViolation(f"stream {number} was never opened")
        return stream

    def theirs(self, number: int) -> bool:
        """Whether streams of that number are opened by the other end."""
        return bool(number) and (number % 2 == 0) == self._node

    def reset(self, stream: Stream, code: Reset, reason: str = "", *, retry_after_s: float | None = None) -> None:
        """Break ``stream`` off, if it has not ended."""
        if not self._remove(stream.number):
            return
        stream.fail(StreamReset(code, reason, retry_after_s=retry_after_s))
        if stream.started or self.theirs(stream.number):
            payload = messages.reset_payload(code, reason, retry_after_s)
            self._sender.urgent(frame(Type.RESET, stream.number, payload))
        self._changed()

    def was_reset(self, stream: Stream, error: StreamReset) -> None:
        """The other end broke ``stream`` off: a caller that wants no answer, or a server that reads no further."""
        if self.theirs(stream.number):
            stream.fail(error)
            if (task := self._served.get(stream.number)) is not None:
                task.cancel()
        else:
            stream.stop_sending(error)
        if stream.error is not None or stream.complete:
            self.forget(stream)

    def forget(self, stream: SendingHalf) -> None:
        """It has ended."""
        self._remove(stream.number)
        self._changed()

    def fail_all(self, reason: str) -> None:
        """The link has ended."""
        streams, self._open = self._open, {}
        self._called = 0
        self._taken.intersection_update(self._served)
        for stream in streams.values():
            stream.fail(LinkLost(reason, started=stream.started))
        for task in self._served.values():
            if not task.cancelling():  # once, so that what it does at its end is not broken off
                task.cancel()

    def _remove(self, number: int) -> bool:
        """Whether it was open."""
        if self._open.pop(number, None) is None:
            return False
        if not self.theirs(number):
            self._called -= 1
        elif number not in self._served:
            self._taken.discard(number)
        return True

    def _new(self, number: int) -> Stream:
        stream = Stream(self._sender, number, credit=self._credit, window_bytes=self._limits.window)
        self._open[number] = stream
        return stream
