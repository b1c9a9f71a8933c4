"""``/rd/`` as clients ask it: rd, and ours with its longer breath."""

from __future__ import annotations

import gzip
import http.client
import json
import time
from types import TracebackType
from typing import Any, Self

PAUSE_S = 0.02
"""rd waits a second when nothing new has come; that would be the resolution of what is measured."""


class RdConnection:
    """A connection that is kept, as rd keeps it."""

    def __init__(self, port: int, *, timeout_s: float = 120) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self.wire_bytes = 0
        self.answer_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(self, name: str, query: str = "") -> bytes:
        """The answer about a file, unpacked; raises SystemExit where it is none.

        ``wire_bytes`` and ``answer_s`` are what it took until it was here, packed.
        """
        clock = time.perf_counter()
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        self._connection.request("GET", f"/rd/{name}{query}", headers=headers)
        answer = self._connection.getresponse()
        body = answer.read()
        self.answer_s = time.perf_counter() - clock
        self.wire_bytes = len(body)
        if answer.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if answer.status != 200 or b'"blocks"' not in body:
            raise SystemExit(f"/rd/{name}: {answer.status} {body[:200]!r}")
        return body

    def until_known(self, name: str, *, timeout_s: float = 120) -> list[str]:
        """Ask as rd does, again at once when new blocks came; SHA-1 of all blocks in the end."""
        deadline, last = time.monotonic() + timeout_s, -1
        while pending := (body := self.ask(name)).count(b'"pending"'):
            if time.monotonic() > deadline:
                raise SystemExit(f"/rd/{name}: {pending} blocks are still pending after {timeout_s:g} s")
            if pending == last:
                time.sleep(PAUSE_S)
            last = pending
        return [block[3] for block in _decoded(name, body)["blocks"]]

    def until_known_waiting(self, name: str) -> list[str]:
        """Ask as ``gateway get`` does: for what comes after the blocks that are known, and wait for it."""
        found: list[str] = []
        query, count = "", 1
        while len(found) < count:
            told = _decoded(name, self.ask(name, query))
            count = told["block_count"]
            for *_, digest in told["blocks"]:
                if digest == "pending":
                    break
                found.append(digest)
            query = f"?after={len(found) - 1}&wait=20"
        return found


def _decoded(name: str, body: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(body)
    if not told["ok"]:
        raise SystemExit(f"/rd/{name}: {told['msg']}")
    return told
