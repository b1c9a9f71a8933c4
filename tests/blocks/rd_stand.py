"""A server of files and block maps on loopback that can be late, lie, cut, stall and change its mind."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BLOCK = 64 << 10
"""Bytes in a block, unless a stand says otherwise."""
_STEP = 16 << 10
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


@dataclass(frozen=True)
class Asked:
    """A request for a file: bytes ``first`` to ``last``; ``number`` counts the requests for its path from 0."""

    path: str
    first: int
    last: int
    number: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering well; counts are of the bytes of the body."""

    status: int = 0
    retry_after: str = ""
    cut_after: int | None = None
    stall_after: int | None = None
    step_s: float = 0.0
    """Wait before each 16 KiB."""
    corrupt: Callable[[int, bytes], bytes] | None = None
    """Makes other bytes of those at an offset of the file."""


@dataclass
class Served:
    """One version of a file; a block whose number is in ``pending`` has no checksum yet."""

    data: bytes
    etag: str
    block_bytes: int
    pending: set[int] = field(default_factory=set)
    digests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        cut = range(0, len(self.data), self.block_bytes)
        self.digests = [hashlib.sha1(self.data[at : at + self.block_bytes]).hexdigest() for at in cut]

    def listed(self, after: int) -> list[list[object]]:
        """The ``blocks`` of a map."""
        size, step = len(self.data), self.block_bytes
        return [
            [i, i * step, min(size, (i + 1) * step) - 1, "pending" if i in self.pending else digest]
            for i, digest in enumerate(self.digests)
            if i > after
        ]


class Stand(ThreadingHTTPServer):
    """Serves what was put; ``with stand() as it``.

    ``fault`` is asked about every GET of a file. ``verdict`` answers reports of bad blocks, which are in ``reported``.
    ``sent`` counts, by path and block, blocks that were sent to their last byte. Maps of paths in ``claimed`` tell that
    size, with one pending block.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *, block_bytes: int = BLOCK, checksums: bool = True, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.block_bytes = block_bytes
        self.checksums = checksums
        self.ranges = ranges
        self.etags = True
        self.files: dict[str, Served] = {}
        self.fault: Callable[[Asked], Fault | None] = lambda _: None
        self.verdict: Callable[[str, int], str] = lambda _path, _block: "same"
        self.claimed: dict[str, int] = {}
        self.asked: list[Asked] = []
        self.maps_asked = 0
        self.reported: list[int] = []
        self.sent: Counter[tuple[str, int]] = Counter()
        self.sent_bytes = 0
        self.open_connections: set[socket.socket] = set()
        self.changed = threading.Condition()
        self.over = threading.Event()
        self._versions = 0

    def put(self, path: str, data: bytes, *, pending: set[int] | None = None, etag: str | None = None) -> str:
        """Serve ``data`` at ``path`` (decoded, with its slash), as a new version; returns the URL."""
        with self.changed:
            self._versions += 1
            tag = f'"{self._versions}"' if etag is None else etag
            self.files[path] = Served(data, tag, self.block_bytes, set(pending or ()))
            self.changed.notify_all()
        return self.url(path)

    def hashed(self, path: str, *blocks: int) -> None:
        """The checksums of these blocks, or of all, are known from now on."""
        with self.changed:
            pending = self.files[path].pending
            pending.difference_update(blocks or set(pending))
            self.changed.notify_all()

    def url(self, path: str) -> str:
        """URL of a path."""
        return f"http://127.0.0.1:{self.server_port}{path}"

    def blocks_sent(self, path: str) -> Counter[int]:
        """How often each block was sent whole."""
        with self.changed:
            return Counter({block: times for (of, block), times in self.sent.items() if of == path})

    def cut_all(self) -> None:
        """Reset every connection."""
        with self.changed:
            for connection in self.open_connections:
                with suppress(OSError):  # its client has gone just now
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        """Clients that go away are nothing to tell."""


@contextmanager
def stand(**options) -> Iterator[Stand]:
    """A running stand."""
    with Stand(**options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            with server.changed:
                server.changed.notify_all()
            server.shutdown()
            server.cut_all()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Stand

    def setup(self) -> None:
        super().setup()
        with self.server.changed:
            self.server.open_connections.add(self.connection)

    def finish(self) -> None:
        with self.server.changed:
            self.server.open_connections.discard(self.connection)
        super().finish()

    def log_message(self, *_) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if path.startswith("/rd/"):
            self._map(path[3:], parse_qs(parts.query))
        else:
            self._file(path)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)[3:]
        block = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["block"]
        self.server.reported.append(block)
        self._json(200, {"ok": True, "block": block, "verdict": self.server.verdict(path, block)})

    def _json(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _map(self, path: str, query: dict[str, list[str]]) -> None:
        server = self.server
        with server.changed:
            server.maps_asked += 1
        if not server.checksums:
            self.send_error(404)
            return
        after = int(query.get("after", ["-1"])[0])
        wait_s = float(query.get("wait", ["0"])[0])
        with server.changed:
            served = server.files.get(path)
            if served is None:
                self._json(404, {"ok": False, "msg": "no such file"})
                return
            if wait_s:
                server.changed.wait_for(
                    lambda: (
                        server.over.is_set() or server.files.get(path) is not served or after + 1 not in served.pending
                    ),
                    wait_s,
                )
            served = server.files[path]
            body = {
                "ok": True,
                "msg": "",
                "path": path[1:],
                "filepath": f".{path}",
                "block_size": f"{served.block_bytes}B",
                "block_bytes": served.block_bytes,
                "file_size": len(served.data),
                "block_count": len(served.digests),
                "etag": served.etag,
                "hashed_blocks": len(served.digests) - len(served.pending),
                "blocks": served.listed(after),
            }
        if path in server.claimed:
            size = server.claimed[path]
            body |= {"file_size": size, "block_bytes": size, "block_count": 1, "blocks": [[0, 0, size - 1, "pending"]]}
        self._json(200, body)

    def _file(self, path: str) -> None:
        server = self.server
        if path not in server.files:
            self.send_error(404)
            return
        match = _RANGE.fullmatch(self.headers.get("Range", "")) if server.ranges else None
        fault = self._fault(path, *((int(match[1]), int(match[2])) if match else (0, sys.maxsize)))
        served = server.files[path]  # the fault may have been another version
        size = len(served.data)
        first, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (0, size - 1)
        expected = self.headers.get("If-Match")
        if fault.status or expected not in {None, served.etag}:
            self.send_response(fault.status or 412)
            if fault.retry_after:
                self.send_header("Retry-After", fault.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if match and first >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if server.etags:
            self.send_header("ETag", served.etag)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if self.command != "HEAD":
            self._body(path, served, fault, first=first, last=last)

    def _fault(self, path: str, first: int, last: int) -> Fault:
        with self.server.changed:
            number = sum(asked.path == path for asked in self.server.asked)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(path, first, last, number, headers)
            if self.command == "GET":
                self.server.asked.append(asked)
        return self.server.fault(asked) or Fault()

    def _body(self, path: str, served: Served, fault: Fault, *, first: int, last: int) -> None:
        server, offset = self.server, first
        while offset <= last:
            done = offset - first
            if fault.cut_after is not None and done >= fault.cut_after:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault.stall_after is not None and done >= fault.stall_after:
                server.over.wait()
                return
            if fault.step_s and server.over.wait(fault.step_s):
                return
            piece = served.data[offset : min(offset + _STEP, last + 1)]
            self.wfile.write(piece if fault.corrupt is None else fault.corrupt(offset, piece))
            self._count(path, served, first, offset, offset + len(piece))
            offset += len(piece)

    def _count(self, path: str, served: Served, first: int, start: int, end: int) -> None:
        """Blocks that were sent from their first to their last byte."""
        size, step = len(served.data), served.block_bytes
        with self.server.changed:
            self.server.sent_bytes += end - start
            for block in range(start // step, -(-end // step)):
                if block * step >= first and start < min(size, (block + 1) * step) <= end:
                    self.server.sent[path, block] += 1
