"""Two ends of a wire in memory, for links without sockets."""

from __future__ import annotations

import asyncio
from collections import deque


class MemoryWire:
    """One end. What the other one sent waits here, ``room`` messages at most; then its sending waits.

    ``frozen`` holds up what is sent from here, as a network does that loses everything; ``cut`` breaks the connection.
    """

    def __init__(self, room: int) -> None:
        self.other = self
        self.sent = 0
        self._frozen = False
        self._room = room
        self._arrived: deque[bytes] = deque()
        self._something = asyncio.Event()
        self._taken = asyncio.Event()
        self._open = True

    @property
    def frozen(self) -> bool:
        """Whether nothing leaves."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._frozen = value
        self.other._taken.set()

    async def send(self, message: bytes) -> None:
        """Raises ConnectionResetError once one of both ends has closed."""
        other = self.other
        while self._open and other._open and (self._frozen or len(other._arrived) >= other._room):
            other._taken.clear()
            await other._taken.wait()
        if not (self._open and other._open):
            raise ConnectionResetError("the wire is closed")
        other._arrived.append(bytes(message))
        other._something.set()
        self.sent += 1

    async def receive(self) -> bytes | None:
        """What arrived before the other end closed comes first."""
        while not self._arrived:
            if not (self._open and self.other._open):
                return None
            self._something.clear()
            await self._something.wait()
        self._taken.set()
        return self._arrived.popleft()

    async def close(self, reason: str) -> None:
        """The other end reads what it has, then the end."""
        del reason
        self._shut()

    def abort(self) -> None:
        """What has not been read is lost, at both ends."""
        self._arrived.clear()
        self.other._arrived.clear()
        self._shut()

    cut = abort

    def _shut(self) -> None:
        self._open = False
        for end in (self, self.other):
            end._something.set()
            end._taken.set()


def wire_pair(*, room: int = 64) -> tuple[MemoryWire, MemoryWire]:
    """The two ends of a connection."""
    one, two = MemoryWire(room), MemoryWire(room)
    one.other, two.other = two, one
    return one, two
