"""Handlers behind a real link: a server's end that calls, a node's end that answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway_pipe.handlers.load import Handlers
from gateway_pipe.handlers.runner import MAX_BODY_BYTES, Metrics, Runner
from gateway_pipe.link.model import Body, Head, Headers, Incoming, Kind, Opening
from tests.pipe.links import Pair, linked


@dataclass
class Got:
    """An answer, whole."""

    head: Head
    body: bytes

    @property
    def code(self) -> int:
        return self.head.code

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def json(self) -> Any:
        assert self.head.header("Content-Type") == "application/json"
        return json.loads(self.body)

    @property
    def exception(self) -> dict[str, str]:
        assert self.code == 251
        return self.json["exception"]


@dataclass
class Handling:
    """Handlers that can be asked."""

    pair: Pair
    runner: Runner

    async def ask(self, target: str, method: str = "GET", body: Body = b"", *, kind: str = "", **more: Any) -> Got:
        """``kind`` is the Content-Type, ``more`` goes into the opening."""
        async with self.pair.server.call(opening(target, method, kind, **more), body, timeout_s=10) as answer:
            return Got(answer.head, await answer.read(100_000_000))


def opening(target: str, method: str = "GET", kind: str = "", *, headers: Headers = (), **more: Any) -> Opening:
    typed = (("Content-Type", kind),) if kind else ()
    return Opening(kind=Kind.NOUN, method=method, target=target, headers=(*headers, *typed), **more)


@asynccontextmanager
async def handling(
    *handlers: object, slots: int = 8, metrics: Metrics | None = None, max_body_bytes: int = MAX_BODY_BYTES
) -> AsyncIterator[Handling]:
    runner = Runner(Handlers.of(handlers), slots=slots, metrics=metrics, max_body_bytes=max_body_bytes)

    async def serve(incoming: Incoming) -> None:
        await runner.serve(incoming, peer="gateway")

    await runner.start()
    try:
        async with linked(node=serve) as pair:
            yield Handling(pair, runner)
    finally:
        await runner.stop()
