"""A link at work, and the other end by hand."""

from __future__ import annotations

import asyncio
from typing import Self

from gateway_pipe.link.frames import Type, parse
from gateway_pipe.link.messages import head_payload, open_payload, reset_payload
from gateway_pipe.link.model import (
    Head,
    Hello,
    Incoming,
    Limits,
    Reset,
)
from gateway_pipe.link.session import Link
from tests.pipe.links import nobody, noun
from tests.pipe.wires import wire_pair

KIB = 1024
MIB = KIB * KIB
OPEN = open_payload(noun(), None)
HEAD = head_payload(Head())
CANCEL = reset_payload(Reset.CANCEL, "", None)
_LIMITS = Limits()


class Raw:
    """A link, and the other end by hand. ``frames`` are what the link has said so far."""

    def __init__(self, opens, serve=nobody, limits=_LIMITS, window_bytes=256 * KIB) -> None:
        own, self.wire = wire_pair()
        peer = Hello(name="node1", instance="n1", window=window_bytes)
        self.link = Link(own, opens=opens, serve=serve, peer=peer, limits=limits)
        self.frames: list[tuple[Type, bool, int, bytes]] = []

    async def __aenter__(self) -> Self:
        self._run = asyncio.create_task(self.link.run())
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_) -> None:
        self.link.drop("the test is over")
        async with asyncio.timeout(10):
            await self._run
            await self._listening

    async def say(self, *frames: bytes) -> None:
        await self.wire.send(b"".join(frames))

    async def heard(self, kind: Type, count: int = 1) -> list[tuple[int, bytes]]:
        """Stream and payload of all frames of that type, when there are so many."""
        async with asyncio.timeout(10):
            while True:
                found = [(number, payload) for was, _, number, payload in self.frames if was is kind]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0)

    async def _listen(self) -> None:
        while (message := await self.wire.receive()) is not None:
            self.frames += parse(message)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def forever(incoming: Incoming) -> None:
    await asyncio.Event().wait()


async def taken(link: Link, body=b"", **options) -> bytes:
    async with link.call(noun(), body, **options) as answer:
        return await answer.read(64 * MIB)
