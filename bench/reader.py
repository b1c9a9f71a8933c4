"""The client: reads bodies into one buffer and throws them away, so that it is never what is measured."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

BUFFER = memoryview(bytearray(1 << 20))
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class Reading:
    """Unix time of the first request, seconds from it to the first body byte and to the end, bytes on the wire."""

    started: float
    first_byte_s: float = 0.0
    total_s: float = 0.0
    wire_bytes: int = 0


def read(port: int, paths: list[str], *, timeout_s: float = 120) -> Reading:
    """GET ``paths`` in order over one connection; raises SystemExit where an answer is not 200 or breaks off."""
    clock = time.perf_counter()
    reading = Reading(time.time())
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        for path in paths:
            close = "Connection: close\r\n" if path is paths[-1] else ""
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{close}\r\n".encode())
            head, body = _head(connection)
            if not body:
                body = connection.recv(65_536)
            reading.first_byte_s = reading.first_byte_s or time.perf_counter() - clock
            reading.wire_bytes += _drain(connection, head, body)
    reading.total_s = time.perf_counter() - clock
    return reading


def _head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head, and what came of the body with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65_536)
        if not more:
            raise SystemExit(f"closed inside the head: {received!r}")
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not the answer wanted: {received!r}")
    return head, body


def _drain(connection: socket.socket, head: bytes, body: bytes) -> int:
    """Size of the body; one without a length goes on to the end of the connection and has a last chunk."""
    told = LENGTH.search(head)
    length = int(told[1]) if told else None
    received, tail = len(body), body[-5:]
    while length is None or received < length:
        count = connection.recv_into(BUFFER)
        if not count:
            break
        received += count
        tail = (tail + bytes(BUFFER[max(0, count - 5) : count]))[-5:]
    if tail != b"0\r\n\r\n" if length is None else received != length:
        raise SystemExit(f"the body broke off after {received:,} bytes")
    return received
