"""The real ``gateway archive`` as a process in a folder of its own, and a server that only plays a gateway."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
import uuid
import zipfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Framing, Resource, SeenRequest
from gateway_core.testing.upstream_behaviour import Fault
from tests.core.raw_servers import listening

TIMEOUT_S = 60
REPORT = "_DOWNLOAD-REPORT.txt"


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, what it wrote to standard output, and what to standard error."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class ArchiveCommand:
    """``await archive(url, "-o", "x")``; ``here`` is the folder it runs in, ``server`` the gateway it asks."""

    here: Path
    server: str
    secret: str = "s3cret"

    async def __call__(self, *arguments: str, piped: bytes = b"") -> Ended:
        async with self.running(*arguments, stdin=PIPE) as process:
            return await ended(process, piped)

    @asynccontextmanager
    async def running(self, *arguments: str, stdin: int = DEVNULL) -> AsyncIterator[Process]:
        """The process, killed at the end of the block if it lives on."""
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.here), "LC_ALL": "C.UTF-8"}
        env |= {"GATEWAY_URL": self.server, "GATEWAY_SECRET": self.secret, "http_proxy": "http://127.0.0.1:9"}
        command = (sys.executable, "-P", "-m", "gateway_core", "archive", *arguments)
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self.here, env=env, stdin=stdin, stdout=PIPE, stderr=PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()

    def names(self) -> list[str]:
        """All files in the folder, sorted."""
        return sorted(path.name for path in self.here.iterdir())


async def ended(process: Process, piped: bytes | None = None) -> Ended:
    """Wait for its end; raises TimeoutError after a minute."""
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate(piped)
    return Ended(await process.wait(), out, err.decode())


@dataclass
class Played:
    """A server with one ticket, whose archive breaks in the ways of ``Fault``."""

    upstream: Upstream
    ticket: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def path(self) -> str:
        return f"/ticket/{self.ticket}/download"

    @property
    def downloads(self) -> list[SeenRequest]:
        return self.upstream.seen(self.path)

    @property
    def ranges(self) -> list[str | None]:
        """What was asked for, request by request."""
        return [request.headers.get("Range") for request in self.downloads]

    def gives(self, content: bytes, *faults: Fault, kind: str = "application/zip", **how: Any) -> bytes:
        """``POST`` makes the ticket, ``GET`` gives ``content``."""
        made = json.dumps({"id": self.ticket, "type": "zip", "created": "2026-11-22T00:00:00"}).encode()
        self.upstream.add("/ticket/generate", Resource(made, media_type="application/json", ranges=False))
        told = {"Content-Disposition": 'attachment; filename="collection.zip"', **how.pop("headers", {})}
        self.upstream.add(self.path, Resource(content, media_type=kind, headers=told, **how), *faults)
        return content

    def gives_chunks(self, content: bytes, *faults: Fault) -> bytes:
        """The same without length, validator and ranges."""
        return self.gives(content, *faults, framing=Framing.CHUNKED, etag=None, modified=None, ranges=False)


@dataclass
class Cutting:
    """Passes connections on to a server; ``heads`` are those of the requests, in order."""

    url: str = ""
    heads: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def cutting(server_url: str, *limits: int) -> AsyncIterator[Cutting]:
    """Cut the first GETs after so many bytes of their answers; each connection is good for one request."""
    cut, left = Cutting(), list(limits)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = server_url.removeprefix("http://").split(":")
        below, above = await asyncio.open_connection(host, int(port))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            cut.heads.append(head)
            length = re.search(rb"\r\nContent-Length: (\d+)", head)
            above.write(head + await reader.readexactly(int(length[1]) if length else 0))
            allowed = left.pop(0) if left and head.startswith(b"GET") else 1 << 60
            while allowed and (piece := await below.read(min(allowed, 1 << 16))):
                allowed -= len(piece)
                writer.write(piece)
                await writer.drain()
        finally:
            above.transport.abort()

    async with listening(serve) as port:
        cut.url = f"http://127.0.0.1:{port}"
        yield cut


def zip_of(files: dict[str, bytes]) -> bytes:
    """A ZIP whose entries are stored."""
    told = io.BytesIO()
    with zipfile.ZipFile(told, "w") as archive:
        archive.comment = b"Written by content-gateway"
        for name, data in files.items():
            archive.writestr(name, data)
    return told.getvalue()
