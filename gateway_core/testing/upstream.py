"""A real HTTP/1.1 server on loopback for tests; able to stall, cut and lie (``upstream_behaviour``).

::

    async with Upstream() as up:
        url = up.add("/a.bin", Generated(1_000_000), Cut(after=1000, times=1))
        ...
        await up.wait_idle()
        assert [request.sent_bytes for request in up.requests] == [1000, 999_000]
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, TypeVar

from multidict import CIMultiDict, CIMultiDictProxy

from gateway_core.testing.upstream_answer import Answer, Content, Framing, Generated, Resource, SeenRequest
from gateway_core.testing.upstream_behaviour import Fault, Status
from gateway_core.testing.upstream_exchange import CHUNK_BYTES, Exchange

T = TypeVar("T")


@dataclass(slots=True)
class _Route:
    """A registered resource, how often each of its faults was played, and the release of its stalls."""

    resource: Resource
    faults: tuple[Fault, ...]
    played: list[int] = field(init=False)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.played = [0] * len(self.faults)

    def next_fault(self, right: Answer) -> Fault:
        """The fault to play, counted, none where there is none; the rule is in ``upstream_behaviour``."""
        for number, fault in enumerate(self.faults):
            if fault.times is not None and self.played[number] >= fault.times:
                continue
            if fault.touches(right):
                self.played[number] += 1
                return fault
            if fault.times is not None:
                break
        return Fault()


class _Connection(asyncio.StreamReaderProtocol):
    """asyncio's stream protocol that also tells when the peer has gone, read or not."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.gone = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None
        self.number = 0
        super().__init__(asyncio.StreamReader(limit=CHUNK_BYTES), self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._upstream.connection_opened(self, reader, writer)

    def eof_received(self) -> bool | None:
        """End of what the peer sends: for the clients of these tests, its end."""
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """End of the connection."""
        self.gone.set()
        super().connection_lost(exc)
        self._upstream.connection_closed(self)


class Upstream:
    """An HTTP(S) server that serves what was added, misbehaves as told, and remembers every request.

    ``requests`` are in order of arrival. ``total_connections`` and the peaks count since the object was made. Stopping
    closes every connection and raises what went wrong inside, as an ExceptionGroup; starting again takes the same port.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, ssl: SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self.requests: list[SeenRequest] = []
        self.total_connections = 0
        self.peak_connections = 0
        self.active_requests = 0
        self.peak_requests = 0
        self._ssl = ssl
        self._routes: dict[str, _Route] = {}
        self._missing = _Route(Resource(b""), (Status(404),))
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; a port of 0 is replaced by a free one."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(lambda: _Connection(self), self.host, self.port, ssl=self._ssl)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse and close all connections, at once."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            if connection.writer is not None:
                connection.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.wait_disconnected()
        self._server = None
        if self._failures:
            raise ExceptionGroup("the upstream of the test failed", self._failures)

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        assert self.port, "start the upstream first"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}"

    def add(self, path: str, content: Content | int | Resource = b"", *faults: Fault) -> str:
        """Serve ``content`` (a size stands for generated bytes) at ``path``, replacing what was there; its URL.

        A path with a query is served for just that query, one without for any.
        """
        if isinstance(content, int):
            content = Generated(content, seed=path)
        resource = content if isinstance(content, Resource) else Resource(content)
        self._routes[path] = _Route(resource, faults)
        return self.base_url + path

    def redirect(self, path: str, location: str, status: int = 302) -> str:
        """Send whoever asks for ``path`` to ``location``, which is sent as it stands; its URL."""
        resource = Resource(b"", status=status, headers={"Location": location}, etag=None, modified=None, ranges=False)
        return self.add(path, resource)

    def content(self, path: str) -> bytes:
        """All bytes of what was added at ``path``, before any fault."""
        return self._routes[path].resource.content[:]

    def release(self, path: str) -> None:
        """Let stalls at ``path`` go on, those of now and those to come; from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._routes[path].released.set)

    def seen(self, path: str) -> list[SeenRequest]:
        """The requests for ``path``, whatever their query."""
        return [request for request in self.requests if path in (request.path, request.target)]

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    async def wait_for(self, condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
        """Until ``condition()``, looked at whenever a connection or request begins or ends or body bytes leave.

        Raises TimeoutError with what is going on.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._changed.wait()
        except TimeoutError as error:
            state = f"{self.open_connections} connections, {self.active_requests} of {len(self.requests)} requests open"
            raise TimeoutError(f"the upstream has {state} after {timeout_s} s") from error

    async def wait_idle(self, *, timeout_s: float = 10) -> None:
        """Until no request is being answered; connections may be kept alive."""
        await self.wait_for(lambda: self.active_requests == 0, timeout_s=timeout_s)

    async def wait_requests(self, count: int, *, path: str | None = None, timeout_s: float = 10) -> None:
        """Until so many requests have come, in all or for one path."""
        await self.wait_for(
            lambda: len(self.requests if path is None else self.seen(path)) >= count, timeout_s=timeout_s
        )

    async def wait_disconnected(self, *, timeout_s: float = 10) -> None:
        """Until no connection is open."""
        await self.wait_for(lambda: not self._connections, timeout_s=timeout_s)

    def sync(self, wait: Coroutine[Any, Any, T], *, timeout_s: float = 20) -> T:
        """Run one of the waits from another thread than the upstream's: ``up.sync(up.wait_idle())``."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(wait, self._loop).result(timeout_s)

    def connection_opened(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Called by the connection; starts the task that serves it."""
        self.total_connections += 1
        connection.number = self.total_connections
        self._connections.add(connection)
        self.peak_connections = max(self.peak_connections, len(self._connections))
        task = asyncio.get_running_loop().create_task(self._serve(connection, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._served)
        self._notify()

    def connection_closed(self, connection: _Connection) -> None:
        """Called by the connection."""
        self._connections.discard(connection)
        self._notify()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failures.append(error)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(connection, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the peer left, as peers do
        finally:
            writer.close()

    async def _serve_one(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request; whether the connection may carry another."""
        request = await _read_request(reader)
        request.connection = connection.number
        self.requests.append(request)
        self.active_requests += 1
        self.peak_requests = max(self.peak_requests, self.active_requests)
        self._notify()
        try:
            route = self._routes.get(request.target) or self._routes.get(request.path) or self._missing
            right = route.resource.answer(request)
            fault = route.next_fault(right)
            request.fault = None if type(fault) is Fault else type(fault).__name__
            answer = _for_version(fault.answer(right))
            exchange = Exchange(answer, writer, connection.gone, route.released, self._notify)
            await fault.play(exchange)
            request.complete = True
        finally:
            self.active_requests -= 1
            self._notify()
        return exchange.keeps_alive


def _for_version(answer: Answer) -> Answer:
    """HTTP/1.0 knows no chunks (RFC 9112 6.1)."""
    if answer.request.version == "HTTP/1.0" and answer.framing is Framing.CHUNKED:
        answer.framing = Framing.CLOSE
    return answer


async def _read_request(reader: asyncio.StreamReader) -> SeenRequest:
    """Raises IncompleteReadError at the end of the connection, ValueError for what no client of ours may send."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, version = request_line.split(" ")
    fields = (line.partition(":") for line in lines)
    headers = CIMultiDict((name, value.strip(" \t")) for name, _, value in fields)
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    return SeenRequest(method=method, target=target, version=version, headers=CIMultiDictProxy(headers), body=body)


@contextmanager
def upstream_thread(host: str = "127.0.0.1", *, ssl: SSLContext | None = None) -> Iterator[Upstream]:
    """An ``Upstream`` with a loop of its own in a thread, for tests that are not async; wait with ``sync``."""
    upstream = Upstream(host, ssl=ssl)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(upstream.start(), loop).result(10)
        yield upstream
    finally:
        try:
            asyncio.run_coroutine_threadsafe(upstream.stop(), loop).result(20)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()
