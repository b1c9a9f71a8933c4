"""A client of ranges: it reads them, or has the kernel throw them away uncopied, which costs next to nothing."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator

TIMEOUT_S = 60
BUFFER = bytearray(256 << 10)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def drain(port: int, path: str, ranges: list[range], *, connections: int, read: bool) -> float:
    """Seconds to get all ``ranges``, one after another on each connection; raises SystemExit if one does not come."""
    flags = 0 if read else socket.MSG_TRUNC  # tcp(7)
    clock, rest, live = time.perf_counter(), iter(ranges), 0
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = _Connection(port, path, rest, flags)
            if connection.ask():
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                live += 1
        while live:
            ready = selector.select(TIMEOUT_S)
            if not ready:
                raise SystemExit(f"{path}: nothing has come for {TIMEOUT_S} s")
            for key, _ in ready:
                if not key.data.take():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
                    live -= 1
    return time.perf_counter() - clock


class _Connection:
    """One connection: asks for the next range when it has all of the last."""

    def __init__(self, port: int, path: str, rest: Iterator[range], flags: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._request = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nRange: bytes="
        self._rest = rest
        self._flags = flags
        self._head = b""
        self._left = 0

    def ask(self) -> bool:
        """Whether there was another range to ask for."""
        wanted = next(self._rest, None)
        if wanted is None:
            return False
        self._head, self._left = b"", len(wanted)
        self.socket.sendall(f"{self._request}{wanted.start}-{wanted.stop - 1}\r\n\r\n".encode())
        return True

    def take(self) -> bool:
        """Take what has come; False when all is done."""
        if b"\r\n\r\n" not in self._head:
            self._take_head()
        else:
            count = self.socket.recv_into(BUFFER, min(len(BUFFER), self._left), self._flags)
            if not count:
                raise SystemExit(f"a range broke off with {self._left:,} bytes missing")
            self._left -= count
        return bool(self._left) or self.ask()

    def _take_head(self) -> None:
        received = self.socket.recv(16_384)
        self._head += received
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not received or (end and not self._fits(head)):
            raise SystemExit(f"not the answer wanted: {self._head[:500]!r}")
        self._left -= len(body)

    def _fits(self, head: bytes) -> bool:
        length = LENGTH.search(head)
        return head.startswith(b"HTTP/1.1 206") and length is not None and int(length[1]) == self._left
