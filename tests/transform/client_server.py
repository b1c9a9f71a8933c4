"""A server that answers as a test says, and a client that talks to it in a thread."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trustme
from aiohttp import web

from gateway_core.cli import Remote
from gateway_transform.client.line import Body
from gateway_transform.client.talk import Talk

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Told:
    """An Observer that remembers."""

    lines: list[str] = field(default_factory=list)
    stages: list[tuple[str, str]] = field(default_factory=list)

    def show(self, stage: str, detail: str = "") -> None:
        self.stages.append((stage, detail))

    def tell(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class Server:
    """``answers`` are given one by one, the last for ever."""

    url: str
    answers: list[Handler]
    told: Told = field(default_factory=Told)

    def talk(self, *, patience_s: float = 20.0) -> Talk:
        return Talk(Remote(self.url, "s3cret"), self.told, patience_s=patience_s)

    async def says(self, work: Callable[[Talk], T], *, patience_s: float = 20.0) -> T:
        """What ``work`` returns for a talk with this server."""
        async with asyncio.timeout(30):
            return await asyncio.to_thread(work, self.talk(patience_s=patience_s))


@asynccontextmanager
async def serving(answers: Iterable[Handler], *, tls: trustme.LeafCert | None = None) -> AsyncIterator[Server]:
    server = Server("", list(answers))

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        return await answer(request)

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.configure_cert(context)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def body_of(data: bytes, told: list[int] | None = None) -> Body:
    return Body(io.BytesIO(data), len(data), (told if told is not None else []).append)
