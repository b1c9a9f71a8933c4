"""A real server around one handler, and raw clients that can be slow, silent or rude."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.parser import BytesParser

from aiohttp import web

from gateway_core.errors import GatewayError
from gateway_core.http.gone import ClientGone

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Answer:
    """A status, headers by lower-case name, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def parts(self) -> list[tuple[str, str, bytes]]:
        """Content-Range, Content-Type and bytes of each part of a multipart body."""
        boundary = self.headers["content-type"].removeprefix("multipart/byteranges; boundary=").encode()
        first, *parts, last = (b"\r\n" + self.body).split(b"\r\n--" + boundary)
        assert (first, last) == (b"", b"--\r\n")
        found = []
        for part in parts:
            head, _, data = part.partition(b"\r\n\r\n")
            headers = BytesParser().parsebytes(head.lstrip(b"\r\n"))
            found.append((headers["Content-Range"], headers["Content-Type"], data))
        return found


def parsed(raw: bytes) -> Answer:
    """A whole answer, or a head alone; no field may come twice."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert len(headers) == len(fields)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body)


@dataclass
class Serving:
    """``port`` on 127.0.0.1, and how each request ended: None for an answer, else what the handler raised."""

    port: int = 0
    ends: asyncio.Queue[BaseException | None] = field(default_factory=asyncio.Queue)

    async def end(self) -> BaseException | None:
        """How the next request ended."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.ends.get()

    async def exchange(self, *parts: bytes) -> bytes:
        """Send ``parts``, and all that comes back until the server closes."""
        async with self.connection() as (reader, writer):
            for part in parts:
                writer.write(part)
            return await read_all(reader)

    @asynccontextmanager
    async def connection(self, **options) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that takes what comes; cut on leaving. ``options`` are those of ``asyncio.open_connection``."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    @asynccontextmanager
    async def idle(self, request: bytes, *, receive_buffer: int = 4096) -> AsyncIterator[socket.socket]:
        """A connection that has sent ``request`` and takes nothing but what its small kernel buffer holds."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", self.port))
            await loop.sock_sendall(client, request)
            yield client
        finally:
            client.close()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Everything until the end of the stream; raises ConnectionResetError when it was reset."""
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read()


@asynccontextmanager
async def serving(handler: Handler, *, ssl_context=None, unix_path=None) -> AsyncIterator[Serving]:
    """Serve every method and path with ``handler``; errors of the tree become their status, as in the gateway."""
    server = Serving()

    async def run(request: web.Request) -> web.StreamResponse:
        try:
            response = await handler(request)
        except ClientGone as error:
            server.ends.put_nowait(error)
            return web.Response(status=error.status)
        except GatewayError as error:
            server.ends.put_nowait(error)
            return web.json_response(error.problem(), status=error.status, headers=error.headers)
        except BaseException as error:
            server.ends.put_nowait(error)
            raise
        server.ends.put_nowait(None)
        return response

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", run)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, lingering_time=0.2)
    await runner.setup()
    try:
        if unix_path is not None:
            await web.UnixSite(runner, unix_path).start()
        else:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
            server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()
