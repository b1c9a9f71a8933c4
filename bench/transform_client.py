"""A client of jobs, the same for all sides; each request has a connection of its own, as Circe's own client does it."""

from __future__ import annotations

import hmac
import http.client
import io
import json
import socket
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TIMEOUT_S = 120
POLL_S = 0.005
JOB = json.dumps({"transformations": [{"name": "noop", "options": {}}], "notify_hook": None}).encode()
TRACE = b"nothing was to be done"
"""What the step writes into ``out.log``."""


def noop_archive() -> bytes:
    """A job of one step and one small file."""
    packed = io.BytesIO()
    write_archive(packed, {"job.json": (len(JOB), io.BytesIO(JOB)), "a.txt": (7, io.BytesIO(b"a file\n"))})
    return packed.getvalue()


def write_archive(out: BinaryIO, files: dict[str, tuple[int, BinaryIO]]) -> None:
    """A tar.gz of ``files``, each of so many bytes, packed as little as gzip can: nothing here is to be measured."""
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=0) as archive:
        for name, (size_bytes, content) in files.items():
            member = tarfile.TarInfo(name)
            member.size = size_bytes
            archive.addfile(member, content)


def prove(result: bytes) -> None:
    """Raise SystemExit unless the step ran in that job."""
    with tarfile.open(fileobj=io.BytesIO(result), mode="r:gz") as archive:
        log = archive.extractfile("out.log")
        text = log.read() if log else b""
    if TRACE not in text:
        raise SystemExit(f"the step did not run: {text.decode(errors='replace')}")


@dataclass(frozen=True)
class JobClient:
    """Signs with the credentials that ``circe make-api-access --out`` and ``gateway client add --out`` write."""

    port: int
    name: str
    secret: bytes

    @classmethod
    def of(cls, port: int, credentials: Path) -> JobClient:
        known = json.loads(credentials.read_text())
        return cls(port, known["uuid"], known["secret"].encode())

    def signature(self, chunks: Iterable[bytes]) -> str:
        """Of the body, in pieces, or of the id."""
        mac = hmac.new(self.secret, digestmod="sha256")
        for chunk in chunks:
            mac.update(chunk)
        return f"{self.name} {mac.hexdigest()}"

    def job(self, archive: bytes) -> bytes:
        """The result of a job that is waited for in its request."""
        return self._wanted(self._exchange("POST", "/job/?block=1", self.signature([archive]), archive))

    def polled_job(self, archive: bytes) -> bytes:
        """The result of a job that is asked for until it is there, 5 ms after each answer."""
        job_id = self._wanted(self._exchange("POST", "/job/", self.signature([archive]), archive)).decode()
        signature, deadline = self.signature([job_id.encode()]), time.monotonic() + TIMEOUT_S
        while True:
            status, body = self._exchange("GET", f"/job/{job_id}", signature)
            if status != 202:
                return self._wanted((status, body))
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.port}: no result of {job_id} within {TIMEOUT_S} s")
            time.sleep(POLL_S)

    def connection(self) -> http.client.HTTPConnection:
        """For what is too large to be in memory."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S, blocksize=1 << 20)

    def _wanted(self, answer: tuple[int, bytes]) -> bytes:
        status, body = answer
        if status != 200:
            raise SystemExit(f"{self.port}: {status} {body[:500]!r}")
        return body

    def _exchange(self, method: str, target: str, signature: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. http.client would cost more than many a server."""
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: {signature}\r\n"
        head += f"Content-Length: {len(body)}\r\n" if body else ""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        told, end, content = received.partition(b"\r\n\r\n")
        if not end or f"content-length: {len(content)}".encode() not in told.lower().split(b"\r\n"):
            raise SystemExit(f"{self.port}: not a whole answer: {received[:500]!r}")
        return int(told.split(b" ", 2)[1]), content
