"""The link under schedules of chance: whatever crosses, an answer is right and whole, or there is an error."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from gateway_pipe.link.model import (
    Farewell,
    Goodbye,
    Head,
    Incoming,
    Limits,
    LinkError,
    LinkLost,
    Reset,
)
from gateway_pipe.link.session import Link
from tests.pipe.links import Pair, linked, noun

KIB = 1024
CALLS = 24
_SIZES = (0, 1, 100, 20 * KIB, 70 * KIB, 300 * KIB)


class BodyBrokeError(Exception):
    """The body of a request did."""


async def idle(chance: random.Random, most: int = 12) -> None:
    """Let others have some turns of the loop."""
    for _ in range(chance.randrange(most)):
        await asyncio.sleep(0)


async def in_pieces(chance: random.Random, data: bytes, *, fault: Exception | None = None):
    """``data`` in pieces of any size; with a ``fault`` only some of it."""
    at = 0
    while at < len(data):
        await idle(chance, 4)
        if fault is not None and chance.random() < 0.3:
            raise fault
        size = chance.choice((1, 3000, 64 * KIB, 200 * KIB))
        yield data[at : at + size]
        at += size
    if fault is not None:
        raise fault


def wanted(size: int) -> bytes:
    """An answer of that size; no two pieces of it are alike, so that a lost or swapped one is seen."""
    return random.Random(size).randbytes(size)


async def serve(incoming: Incoming) -> None:
    """Does what the target says: ``<what>/<size>/<seed>``."""
    what, size, seed = incoming.opening.target.split("/")
    chance = random.Random(seed)
    await idle(chance)
    data = wanted(int(size))
    match what:
        case "echo":
            await incoming.answer(Head(), incoming)
        case "whole":
            await incoming.answer(Head(), await incoming.read(1024 * KIB))
        case "early":
            await incoming.answer(Head(), data)
        case "streamed":
            await incoming.answer(Head(), in_pieces(chance, data))
        case "broken":
            await incoming.answer(Head(), in_pieces(chance, data, fault=RuntimeError("the answer broke")))
        case "refused":
            await incoming.refuse(Reset.REFUSED, "not now")
        case "never":
            await asyncio.Event().wait()


async def one_call(link: Link, chance: random.Random) -> str:
    """What became of a call; fails where an answer is neither right nor an error."""
    what = chance.choice(("echo", "echo", "whole", "early", "streamed", "broken", "refused", "never"))
    size = chance.choice(_SIZES)
    data = wanted(size)
    body = chance.choice((data, in_pieces(chance, data), in_pieces(chance, data, fault=BodyBrokeError())))
    opening = noun(f"{what}/{size}/{chance.random()}")
    timeout_s = 0.02 if what == "never" else chance.choice((None, 0.0, 0.01, 5.0))
    await idle(chance, 40)
    try:
        async with link.call(opening, body, timeout_s=timeout_s, whole=chance.random() < 0.5) as answer:
            if chance.random() < 0.1:
                return "left"
            got = bytearray()
            async for piece in answer:
                await idle(chance, 3)
                got += piece
    except (LinkError, BodyBrokeError) as error:
        return f"{type(error).__name__}{' of a live link' if isinstance(error, LinkLost) and link.alive else ''}"
    assert what not in {"broken", "refused", "never"}
    assert bytes(got) == data
    return "answered"


async def cancelled_at_times(link: Link, chance: random.Random) -> str:
    """A call whose caller may give up."""
    call = asyncio.create_task(one_call(link, chance))
    if chance.random() < 0.25:
        await idle(chance, 60)
        call.cancel()
    await asyncio.wait({call})
    return "cancelled" if call.cancelled() else call.result()


async def trouble(pair: Pair, chance: random.Random, kind: str) -> None:
    """Something happens to the wire, sooner or later."""
    await idle(chance, 150)
    wire = chance.choice((pair.server_wire, pair.node_wire))
    match kind:
        case "cut":
            wire.cut()
        case "freeze":
            wire.frozen = True
            await asyncio.sleep(0.005)
            wire.frozen = False
        case "goodbye":
            chance.choice((pair.server, pair.node)).say_goodbye(Farewell(Goodbye.SHUTDOWN, "bye"))
        case "drop":
            chance.choice((pair.server, pair.node)).drop("for no reason")


async def run(seed: int, kind: str) -> Counter[str]:
    chance = random.Random(f"{kind}{seed}")
    before = asyncio.all_tasks()
    limits = Limits(window=chance.choice((16, 64, 256)) * KIB, streams=chance.choice((4, 64)))
    async with linked(node=serve, server=serve, limits=limits, room=chance.choice((1, 3, 64))) as pair:
        calls = [
            cancelled_at_times(chance.choice((pair.server, pair.node)), random.Random(chance.random()))
            for _ in range(CALLS)
        ]
        async with asyncio.timeout(30):
            *outcomes, _ = await asyncio.gather(*calls, trouble(pair, chance, kind))
            while any(
                link.streams or link._streams.called or link._streams._taken for link in (pair.server, pair.node)
            ):
                await asyncio.sleep(0)
        if kind in {"none", "freeze"}:
            assert pair.server.alive
            assert pair.node.alive
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    return Counter(outcomes)


@pytest.mark.parametrize("kind", ["none", "freeze", "cut", "goodbye", "drop"])
async def test_whatever_happens_an_answer_is_whole_or_an_error_and_nothing_is_left(kind, caplog):
    outcomes: Counter[str] = Counter()
    for seed in range(6):
        outcomes += await run(seed, kind)
    assert outcomes["answered"]
    assert not outcomes["LinkLost of a live link"]
    assert "never retrieved" not in caplog.text
