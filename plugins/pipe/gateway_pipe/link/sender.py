"""What leaves over the wire, in which order: control first, then every stream in turn, many frames in one message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway_core.observe.logs import get_logger
from gateway_pipe.link.half import SendingHalf
from gateway_pipe.link.model import Traffic, Wire

log = get_logger("gateway.pipe")

_MESSAGE_BYTES = 64 * 1024
"""A message is sent when it has so much; it can be one turn longer."""

_TURN_BYTES = 64 * 1024
_SHARED_TURN_BYTES = 16 * 1024
_SLOW_S = 0.25
_SLOW_TURN_BYTES = 8 * 1024
_MAX_URGENT_BYTES = 1024 * 1024


class Sender:
    """One message at a time. ``broken(reason)`` is called when the wire fails, or the other end takes nothing.

    ``sending_since`` is when the message under way was begun (the loop's time), None while nothing is.
    """

    def __init__(self, wire: Wire, traffic: Traffic, broken: Callable[[str], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.traffic = traffic
        self.sending_since: float | None = None
        self._wire = wire
        self._broken = broken
        self._urgent: list[bytes] = []
        self._urgent_bytes = 0
        self._turns: deque[SendingHalf] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._slow = False
        self.emptied: Callable[[SendingHalf], None] = _nothing

    def urgent(self, frame: bytes) -> None:
        """Send ``frame`` before all data."""
        if self._closed:
            return
        self._urgent.append(frame)
        self._urgent_bytes += len(frame)
        if self._urgent_bytes > _MAX_URGENT_BYTES:
            self._broken("takes nothing of what is sent")
        else:
            self._start()

    def turn(self, stream: SendingHalf) -> None:
        """``stream`` has something to send."""
        if not stream.in_turn and not self._closed:
            stream.in_turn = True
            self._turns.append(stream)
            self._start()

    def stop(self) -> None:
        """Send nothing more."""
        self._closed = True
        self._urgent.clear()
        self._turns.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None  # one that has not begun never says that it ended

    async def flush(self) -> None:
        """Wait until nothing is under way."""
        while self._task is not None:
            await asyncio.wait({self._task})

    def _start(self) -> None:
        if self._task is None and not self._closed:
            self._task = self.loop.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            while parts := self._gather():
                began = self.sending_since = self.loop.time()
                message = b"".join(parts)
                await self._wire.send(message)
                self._slow = self.loop.time() - began > _SLOW_S
                self.traffic.sent_bytes += len(message)
        except OSError as error:
            self._broken(str(error) or type(error).__name__)
        except Exception:  # whatever it is: what was to be sent is lost, and nothing may follow it
            log.exception("a message of a link could not be sent")
            self._broken("could not be sent on")
        finally:
            self.sending_since = None
            self._task = None

    def _gather(self) -> list[bytes | memoryview]:
        """Parts of the next message: control, then streams in turn until it is long enough."""
        parts: list[bytes | memoryview] = []
        size = 0
        if self._urgent:
            size = self._take_urgent(parts)
        turns = self._turns
        while turns and size < _MESSAGE_BYTES:
            stream = turns.popleft()
            stream.in_turn = False
            size += stream.take(parts, self._quantum())
            if stream.has_turn:
                stream.in_turn = True
                turns.append(stream)
            elif stream.complete:
                self.emptied(stream)
        return parts

    def _quantum(self) -> int:
        """How much a stream sends in its turn."""
        if self._slow:
            return _SLOW_TURN_BYTES
        return _SHARED_TURN_BYTES if self._turns else _TURN_BYTES

    def _take_urgent(self, parts: list[bytes | memoryview]) -> int:
        if self._urgent_bytes <= _MESSAGE_BYTES:
            size, self._urgent_bytes = self._urgent_bytes, 0
            parts += self._urgent
            self._urgent.clear()
            return size
        size = taken = 0
        while size < _MESSAGE_BYTES:
            size += len(self._urgent[taken])
            taken += 1
        parts += self._urgent[:taken]
        del self._urgent[:taken]
        self._urgent_bytes -= size
        return size


def _nothing(_stream: SendingHalf) -> None:
    return
