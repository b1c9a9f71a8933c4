"""The sending half of a stream: what waits to be sent, and the credit for it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from gateway_pipe.link.frames import HEADER_BYTES, Type, data_header, frame
from gateway_pipe.link.model import ProtocolViolation

if TYPE_CHECKING:
    from gateway_pipe.link.sender import Sender

_QUEUED_BYTES = 128 * 1024


class SendingHalf:
    """``error`` is why the stream failed, None while it has not; ``started``: its first frame was given to the wire.

    ``in_turn`` is the sender's: it will ask for what may go.
    """

    __slots__ = (
        "_credit",
        "_fin_sent",
        "_fin_wanted",
        "_first",
        "_loop",
        "_offset",
        "_pieces",
        "_queued",
        "_room",
        "_sender",
        "_stop",
        "_unwanted",
        "error",
        "in_turn",
        "number",
        "started",
    )

    def __init__(self, sender: Sender, number: int, *, credit: int) -> None:
        self.number = number
        self.error: BaseException | None = None
        self.started = False
        self.in_turn = False
        self._sender = sender
        self._loop = sender.loop
        self._first = b""
        self._pieces: deque[bytes] | None = None
        self._offset = 0
        self._queued = 0
        self._credit = credit
        self._fin_wanted = self._fin_sent = False
        self._stop = b""
        self._unwanted: BaseException | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all of this side was sent, its end too."""
        return self._fin_sent

    def begin(self, kind: Type, payload: bytes) -> None:
        """Send the first frame of this side, OPEN or HEAD, before everything else of it."""
        self._first = frame(kind, self.number, payload)
        self._sender.turn(self)

    def put(self, data: bytes) -> None:
        """Send ``data`` and nothing after it; kept until there is credit. Raises as ``write`` does."""
        self._check()
        if data:
            self._append(data)
        self._fin_wanted = True
        self._sender.turn(self)

    async def write(self, data: bytes) -> None:
        """Send ``data``; waits while much is queued. Raises what the stream failed with, or that nobody reads it."""
        self._check()
        if not data:
            return
        self._append(data)
        self._sender.turn(self)
        while self._queued > _QUEUED_BYTES:
            self._room = self._loop.create_future()
            await self._room
            self._check()

    def add_credit(self, credit: int) -> None:
        """The other end took that many bytes; raises ProtocolViolation beyond 2^31."""
        self._credit += credit
        if self._credit > 2**31:
            raise ProtocolViolation("too much credit")
        if self._pieces:
            self._sender.turn(self)

    def take(self, parts: list[bytes | memoryview], quantum: int) -> int:
        """Move what may go now, up to about ``quantum`` bytes of data, to ``parts``; returns how many bytes it is."""
        moved = 0
        if self._first:
            parts.append(self._first)
            moved = len(self._first)
            self._first = b""
            self.started = True
        size = min(quantum, self._credit, self._queued)
        last = self._fin_wanted and size == self._queued
        if size or (last and not self._fin_sent):
            parts.append(data_header(self.number, size, fin=last))
            self._move(parts, size)
            moved += HEADER_BYTES + size
            self._fin_sent = last
        if self._stop and self._fin_sent:
            parts.append(self._stop)
            moved += len(self._stop)
            self._stop = b""
        return moved

    @property
    def has_turn(self) -> bool:
        """Whether ``take`` would move anything."""
        if self._queued:
            return bool(self._first) or self._credit > 0
        return bool(self._first) or (self._fin_wanted and not self._fin_sent)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
        if self._unwanted is not None:
            raise self._unwanted

    def _append(self, data: bytes) -> None:
        if self._pieces is None:
            self._pieces = deque()
        self._pieces.append(data)
        self._queued += len(data)

    def _move(self, parts: list[bytes | memoryview], size: int) -> None:
        self._credit -= size
        self._queued -= size
        while size:
            assert self._pieces
            piece = self._pieces[0]
            rest = len(piece) - self._offset
            if rest <= size:
                parts.append(memoryview(piece)[self._offset :] if self._offset else piece)
                self._pieces.popleft()
                self._offset = 0
                size -= rest
            else:
                parts.append(memoryview(piece)[self._offset : self._offset + size])
                self._offset += size
                size = 0
        if self._room is not None and self._queued <= _QUEUED_BYTES and not self._room.done():
            self._room.set_result(None)

    def _drop_unsent(self) -> None:
        self._first = b""
        self._pieces = None
        self._queued = self._offset = 0
        self._fin_wanted = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
