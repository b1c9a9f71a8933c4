"""One stream of a link: its sending half, what came and was not taken yet, and how it ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from gateway_core.errors import TooLarge
from gateway_pipe.link.frames import Type, frame, window
from gateway_pipe.link.half import SendingHalf
from gateway_pipe.link.model import Head, Limits, ProtocolViolation

if TYPE_CHECKING:
    from gateway_pipe.link.sender import Sender

_UNKNOWN_RTT_S = 0.02
_SMALL_BYTES = 4 * 1024
"""What comes in smaller pieces is joined up to this, so that it takes no more memory than its credit."""


class Stream(SendingHalf):
    """Both halves of one exchange; it ends when both have, or when it fails. ``head`` is what a call waits for."""

    __slots__ = (
        "_chunks",
        "_consumed",
        "_deaf",
        "_ended",
        "_headed",
        "_left",
        "_reader",
        "_updated",
        "_window",
        "head",
    )

    def __init__(self, sender: Sender, number: int, *, credit: int, window_bytes: int) -> None:
        super().__init__(sender, number, credit=credit)
        self.head: asyncio.Future[Head] | None = None
        self._headed = False
        self._chunks: deque[bytes] | None = None
        self._window = self._left = window_bytes
        self._consumed = 0
        self._updated = 0.0
        self._ended = False
        self._deaf = False
        self._reader: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether both sides have ended as they should."""
        return super().complete and self._ended

    @property
    def received(self) -> bool:
        """Whether the other end has sent all it has."""
        return self._ended

    # What came

    def begin_answer(self, head: Head) -> None:
        """The answer's head has come; raises ProtocolViolation where nobody asked, or for a second one."""
        if self.head is None or self._headed:
            raise ProtocolViolation(f"stream {self.number}: a HEAD that nobody asked for")
        self._headed = True
        if not self.head.done():  # else its caller has given up, and is about to say so
            self.head.set_result(head)

    def feed(self, data: bytes, *, fin: bool) -> bool:
        """Data of the other end; False for what was under way when it was told that nobody reads it.

        Raises ProtocolViolation for more than its credit, before a head, and after the end.
        """
        if self._deaf or self.error is not None:
            return False
        if self.head is not None and not self._headed:
            raise ProtocolViolation(f"stream {self.number}: data before its HEAD")
        if self._ended or len(data) > self._left or not (data or fin):
            raise ProtocolViolation(f"stream {self.number}: data beyond its credit or its end")
        self._left -= len(data)
        self._ended = fin
        if data:
            self._keep(data)
        self._wake()
        return True

    def _keep(self, data: bytes) -> None:
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = deque()
        if chunks and len(chunks[-1]) + len(data) <= _SMALL_BYTES:
            chunks[-1] += data
        else:
            chunks.append(data)

    async def chunk(self) -> bytes | None:
        """The next bytes of the other end, None at its end; raises what the stream failed with."""
        while not self._chunks:
            if self.error is not None:
                raise self.error
            if self._ended:
                return None
            self._reader = self._loop.create_future()
            await self._reader
        data = self._chunks.popleft()
        if not self._ended:
            self._account(len(data))
        return data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        while (data := await self.chunk()) is not None:
            yield data

    async def read(self, limit_bytes: int) -> bytes:
        """Everything the other end sends; raises TooLarge beyond the limit."""
        pieces, size = [], 0
        while (data := await self.chunk()) is not None:
            size += len(data)
            if size > limit_bytes:
                raise TooLarge(f"more than {limit_bytes} bytes")
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _account(self, size: int) -> None:
        """Give credit when half a window was taken; a reader that needs it sooner than it comes gets a wider one."""
        self._consumed += size
        if self._consumed < self._window // 2:
            return
        now = self._loop.time()
        if now - self._updated < 2 * (self._sender.traffic.rtt_s or _UNKNOWN_RTT_S):
            grown = min(2 * self._window, Limits.max_window)
            self._consumed += grown - self._window
            self._window = grown
        self._updated = now
        self._left += self._consumed
        self._sender.urgent(window(self.number, self._consumed))
        self._consumed = 0

    # How it ends

    def fail(self, error: BaseException) -> None:
        """Nothing more is sent or received; whoever waits gets ``error``. The first failure counts."""
        if self.error is not None:
            return
        self.error = error
        self._drop_unsent()
        if not self._ended:
            self._chunks = None
        self._wake()
        if self.head is not None and not self.head.done():
            self.head.set_exception(error)
            self.head.exception()  # nobody may wait for it any more

    def stop_sending(self, error: BaseException) -> None:
        """The other end wants no more of this side; what it sent itself can still be read."""
        if self._ended:
            self._unwanted = error
            self._drop_unsent()
            self._fin_sent = True
        else:
            self.fail(error)

    def stop_receiving(self, payload: bytes) -> None:
        """After this side's end, tell the other that nobody reads the rest."""
        if self._ended:
            return
        self._ended = self._deaf = True
        self._chunks = None
        stop = frame(Type.RESET, self.number, payload)
        if self._fin_sent:
            self._sender.urgent(stop)
        else:
            self._stop = stop

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
