"""What most archive tests stand on: a running gateway, an upstream to fetch from, and a client of both."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, ClientSession
from multidict import CIMultiDictProxy

from gateway_archive.downloads import DOWNLOADS_KEY, Downloads
from gateway_core.testing import RunningGateway, Upstream, running_gateway

REPORT = "_DOWNLOAD-REPORT.txt"
MIB = 1 << 20

Item = str | Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def errors(self) -> Any:
        """What stands under ``errors``, where FPX clients look."""
        return self.json["errors"]

    @property
    def entries(self) -> dict[str, bytes]:
        """Files of the ZIP in its order; fails where a CRC-32 does not hold."""
        assert self.status == 200, self.body
        return entries_of(self.body)


def entries_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def reasons(report: bytes) -> dict[str, str]:
    """What a report says: reason by entry name."""
    _, *items = report.decode().removesuffix("\r\n").split("\r\n\r\n")
    lines = [item.split("\r\n    ") for item in items]
    assert all(len(three) == 3 and three[1].startswith("from ") for three in lines), report
    return {name: reason for name, _, reason in lines}


@dataclass(frozen=True)
class Stand:
    """``http`` speaks to the gateway without a secret; ``post`` and ``ticket`` send the one of a client."""

    gateway: RunningGateway
    upstream: Upstream
    http: ClientSession
    secret: str

    @property
    def downloads(self) -> Downloads:
        """The live part of the plugin."""
        return self.gateway.core.state[DOWNLOADS_KEY]

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.http.request(method, path, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, headers=headers)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """``body`` as JSON, or as it is when it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.call("POST", path, data=data, headers={"Authorization": self.secret, **headers})

    async def ticket(self, *items: Item, type: str = "zip", **options: Any) -> str:  # noqa: A002 - FPX's name
        """Id of a new ticket."""
        made = await self.post("/ticket/generate", {"items": items, "type": type, "options": options})
        assert made.status == 200, made.body
        return made.json["id"]

    async def download(self, ticket: str, **headers: str) -> Answer:
        return await self.get(f"/ticket/{ticket}/download", **headers)

    async def fetch(self, *items: Item, **options: Any) -> Answer:
        """Make a ticket and download it."""
        return await self.download(await self.ticket(*items, **options))

    @asynccontextmanager
    async def downloading(self, ticket: str, agent: str = "a browser") -> AsyncIterator[ClientResponse]:
        """A download of which the head has come; leaving closes the connection."""
        answer = await self.http.get(f"/ticket/{ticket}/download", headers={"User-Agent": agent})
        try:
            yield answer
        finally:
            answer.close()

    def add(self, path: str, *args: Any) -> str:
        """See ``Upstream.add``."""
        return self.upstream.add(path, *args)


@asynccontextmanager
async def standing(data_dir: Path, settings: Mapping[str, Any], *, templates: Path) -> AsyncIterator[Stand]:
    async with Upstream() as upstream, running_gateway(data_dir, settings=settings, templates=templates) as gateway:
        async with gateway.session() as http:
            yield Stand(gateway, upstream, http, await gateway.secret())


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 10) -> None:
    """Wait for what only asking can tell; raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.01)
