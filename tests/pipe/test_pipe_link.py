"""The link: calls both ways over one wire, with credit, deadlines and honest ends."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway_pipe.link.frames import Type, data_header, frame, parse
from gateway_pipe.link.model import (
    DeadlinePassed,
    Farewell,
    Goodbye,
    Head,
    Hello,
    Incoming,
    Limits,
    LinkLost,
    Reset,
    StreamReset,
)
from gateway_pipe.link.session import Link
from tests.pipe.links import linked, noun
from tests.pipe.wires import MemoryWire, wire_pair

MIB = 1024 * 1024


async def echo(incoming: Incoming) -> None:
    await incoming.answer(Head(headers=(("content-type", "x/y"),)), incoming)


async def pieces(data: bytes, size: int):
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_a_call_is_answered_in_both_directions():
    async with linked(node=echo, server=echo) as pair:
        for end in (pair.server, pair.node):
            async with end.call(noun("cat"), b"hello") as answer:
                assert (answer.head.status, answer.head.header("Content-Type")) == (200, "x/y")
                assert await answer.read(100) == b"hello"
        assert pair.server.streams == pair.node.streams == 0


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 256 * 1024, 256 * 1024 + 1, 5 * MIB + 3])
async def test_bodies_of_every_size_come_through_whole_both_ways(size):
    data = random.Random(size).randbytes(size)
    async with linked(node=echo) as pair:
        async with pair.server.call(noun(), data) as answer:
            assert await answer.read(size + 1) == data
        async with pair.server.call(noun(), pieces(data, 100_003)) as answer:
            assert b"".join([chunk async for chunk in answer]) == data
        assert pair.server.streams == pair.node.streams == 0


async def test_many_calls_at_once_get_their_own_answers():
    async with linked(node=echo) as pair:

        async def one(number: int) -> None:
            async with pair.server.call(noun(), b"%d" % number * 1000) as answer:
                assert await answer.read(MIB) == b"%d" % number * 1000

        await asyncio.gather(*(one(number) for number in range(200)))


async def test_a_reader_that_stalls_holds_up_nobody_else():
    async def much(incoming: Incoming) -> None:
        if incoming.opening.target == "much":
            await incoming.answer(Head(), pieces(bytes(20 * MIB), MIB))
        else:
            await incoming.answer(Head(), b"small")

    async with linked(node=much) as pair:
        async with pair.server.call(noun("much")) as answer:
            async with asyncio.timeout(10):
                for _ in range(100):
                    async with pair.server.call(noun("small")) as small:
                        assert await small.read(10) == b"small"
            received = pair.server.traffic.received_bytes
            assert received < 2 * MIB
            assert len(await answer.read(20 * MIB)) == 20 * MIB


async def test_the_answer_begins_before_the_request_has_ended():
    gate = asyncio.Event()

    async def slow():
        yield b"first"
        await gate.wait()
        yield b"last"

    async with linked(node=echo) as pair:
        async with pair.server.call(noun(), slow()) as answer:
            chunks = aiter(answer)
            assert await anext(chunks) == b"first"
            gate.set()
            assert await anext(chunks) == b"last"


async def test_leaving_a_call_early_cancels_it_on_the_other_side():
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(incoming: Incoming) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with linked(node=forever) as pair:
        with pytest.raises(DeadlinePassed):
            async with pair.server.call(noun(), timeout_s=0.05):
                pass
        async with asyncio.timeout(10):
            await begun.wait()
            await cancelled.wait()
        assert pair.server.streams == 0


async def test_a_cancelled_caller_cancels_the_handler():
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(incoming: Incoming) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def caller(link) -> None:
        async with link.call(noun()):
            pass

    async with linked(node=forever) as pair:
        task = asyncio.create_task(caller(pair.server))
        async with asyncio.timeout(10):
            await begun.wait()
            task.cancel()
            await cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_deadline_for_the_whole_answer_travels_and_cuts_its_body():
    left = asyncio.get_running_loop().create_future()

    async def drip(incoming: Incoming) -> None:
        left.set_result(incoming.time_left_s())

        async def drops():
            yield b"one"
            await asyncio.Event().wait()

        await incoming.answer(Head(), drops())

    async with linked(node=drip) as pair:
        with pytest.raises(DeadlinePassed):
            async with pair.server.call(noun(), timeout_s=0.3, whole=True) as answer:
                await answer.read(MIB)
    assert 0 < left.result() <= 0.3


async def test_a_broken_answer_is_never_taken_for_a_whole_one():
    async def broken(incoming: Incoming) -> None:
        async def body():
            yield b"half"
            raise RuntimeError("the disk broke")

        await incoming.answer(Head(), body())

    async with linked(node=broken) as pair:
        with pytest.raises(StreamReset) as failed:
            async with pair.server.call(noun()) as answer:
                await answer.read(MIB)
        assert failed.value.code is Reset.INTERNAL


async def test_a_broken_request_body_leaves_the_call_and_breaks_the_other_side():
    seen = asyncio.get_running_loop().create_future()

    async def reader(incoming: Incoming) -> None:
        try:
            await incoming.read(MIB)
        except BaseException as error:
            seen.set_result(type(error))
            raise

    async def body():
        yield b"half"
        raise KeyError("lost")

    async with linked(node=reader) as pair:
        with pytest.raises(KeyError):
            async with pair.server.call(noun(), body()):
                pass
        async with asyncio.timeout(10):
            assert await seen in {StreamReset, asyncio.CancelledError}


async def test_a_handler_that_fails_answers_with_a_reset():
    async def bad(incoming: Incoming) -> None:
        raise RuntimeError("no")

    async with linked(node=bad) as pair:
        with pytest.raises(StreamReset):
            async with pair.server.call(noun()):
                pass


async def test_a_cut_fails_what_was_sent_as_started_and_what_was_not_as_safe_to_repeat():
    begun = asyncio.Event()

    async def forever(incoming: Incoming) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with linked(node=forever) as pair:

        async def call() -> None:
            async with pair.server.call(noun()):
                pass

        task = asyncio.create_task(call())
        async with asyncio.timeout(10):
            await begun.wait()
            pair.node_wire.cut()
            with pytest.raises(LinkLost) as lost:
                await task
        assert lost.value.started
        with pytest.raises(LinkLost) as late:
            await call()
        assert not late.value.started
        async with asyncio.timeout(10):
            await pair.server.closed()
        assert pair.server.farewell is not None
        assert pair.server.farewell.code is None


async def test_a_goodbye_lets_running_calls_end_and_takes_no_new_ones():
    gate = asyncio.Event()

    async def gated(incoming: Incoming) -> None:
        await gate.wait()
        await incoming.answer(Head(), b"done")

    async with linked(node=gated) as pair:

        async def call() -> bytes:
            async with pair.server.call(noun()) as answer:
                return await answer.read(10)

        running = asyncio.create_task(call())
        async with asyncio.timeout(10):
            while not pair.node.streams:
                await asyncio.sleep(0)
            pair.server.say_goodbye(Farewell(Goodbye.SHUTDOWN, "stopping", 3))
            farewell = await pair.node.leaving()
            assert (farewell.code, farewell.retry_after_s) == (Goodbye.SHUTDOWN, 3)
            with pytest.raises(LinkLost):
                await call()
            gate.set()
            assert await running == b"done"
            await pair.node.closed()
            await pair.server.closed()


async def test_a_call_that_crosses_a_goodbye_is_refused_and_may_be_repeated():
    async with linked() as pair:

        async def call() -> None:
            async with pair.node.call(noun()):
                pass

        async with asyncio.timeout(10):
            crossing = asyncio.create_task(call())
            await asyncio.sleep(0)
            pair.server.say_goodbye(Farewell(Goodbye.SHUTDOWN, "stopping"))
            with pytest.raises(StreamReset) as refused:
                await crossing
            assert refused.value.code is Reset.REFUSED
            await pair.server.closed()


async def test_an_end_that_never_closes_after_a_goodbye_is_cut():
    async with linked() as pair:
        pair.node_wire.frozen = True
        pair.server_wire.frozen = True
        pair.server.say_goodbye(Farewell(Goodbye.SHUTDOWN, "stopping"))
        pair.server.tick(asyncio.get_running_loop().time() + 6)
        async with asyncio.timeout(10):
            await pair.server.closed()


async def test_more_calls_than_the_peer_bears_are_refused_and_may_be_repeated():
    gate = asyncio.Event()

    async def gated(incoming: Incoming) -> None:
        await gate.wait()
        await incoming.answer(Head(), b"ok")

    async with linked(node=gated, limits=Limits(streams=2)) as pair:

        async def call() -> bytes:
            async with pair.server.call(noun()) as answer:
                return await answer.read(10)

        two = [asyncio.create_task(call()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(StreamReset) as refused:
            await call()
        assert refused.value.code is Reset.REFUSED
        gate.set()
        assert await asyncio.gather(*two) == [b"ok", b"ok"]
        assert await call() == b"ok"


async def test_an_answer_without_the_rest_of_the_request_stops_its_sender():
    async def early(incoming: Incoming) -> None:
        await incoming.answer(Head(status=413, code=1), b"too much")

    async def endless():
        while True:
            yield bytes(64 * 1024)

    async with linked(node=early) as pair:
        async with asyncio.timeout(10):
            async with pair.server.call(noun(), endless()) as answer:
                assert await answer.read(100) == b"too much"
            while pair.server.streams or pair.node.streams:
                await asyncio.sleep(0)


async def test_a_silent_peer_is_dropped_after_two_and_a_half_pings():
    async with linked(ping_s=1.0) as pair:
        now = asyncio.get_running_loop().time()
        pair.server.tick(now + 2.4)
        assert pair.server.alive
        pair.server.tick(now + 2.7)
        assert not pair.server.alive
        async with asyncio.timeout(10):
            await pair.server.closed()


async def test_a_peer_that_takes_nothing_is_dropped_even_while_it_talks():
    async def much(incoming: Incoming) -> None:
        await incoming.answer(Head(), pieces(bytes(20 * MIB), MIB))

    async with linked(server=much, ping_s=1000.0) as pair:
        pair.server_wire.frozen = True

        async def call() -> None:
            async with pair.node.call(noun()):
                pass

        task = asyncio.create_task(call())
        while not pair.server.streams:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        pair.server.tick(now + 9)
        assert pair.server.alive
        pair.server.tick(now + 11)
        async with asyncio.timeout(10):
            with pytest.raises(LinkLost):
                await task


async def test_the_round_trip_is_known_at_both_ends():
    async with linked() as pair:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            pair.node.tick(loop.time() + 5)
            while pair.node.traffic.rtt_s is None and pair.node.alive:
                await asyncio.sleep(0)
                pair.node.tick(loop.time() + 5)
            while pair.server.traffic.rtt_s is None:
                pair.node.tick(loop.time() + 10)
                await asyncio.sleep(0)


HOSTILE = {
    "empty message": b"",
    "half a header": b"\x03\x00\x00",
    "unknown type": frame(Type.DATA, 2, b"x").replace(b"\x05", b"\x63", 1),
    "longer than the message": data_header(2, 1000, fin=False) + b"x",
    "data on a stream that was never opened": frame(Type.DATA, 7, b"x"),
    "an even stream opened by a node": frame(Type.OPEN, 2, b'["noun","GET","x",[],"","","",null]'),
    "stream zero opened": frame(Type.OPEN, 0, b'["noun","GET","x",[],"","","",null]'),
    "OPEN that is no JSON": frame(Type.OPEN, 1, b"{"),
    "OPEN nested too deep": frame(Type.OPEN, 1, b"[" * 60_000),
    "OPEN with a header that splits": frame(Type.OPEN, 1, b'["noun","GET","x",[["a","b\\r\\nc: d"]],"","","",null]'),
    "OPEN with a space in its target": frame(Type.OPEN, 1, b'["noun","GET","x y",[],"","","",null]'),
    "OPEN of an unknown kind": frame(Type.OPEN, 1, b'["shell","GET","x",[],"","","",null]'),
    "metadata of 65 KiB": frame(Type.OPEN, 1, b'["noun","GET","' + b"x" * 66_000 + b'",[],"","","",null]'),
    "a WINDOW without credit": frame(Type.WINDOW, 1, bytes(4)),
    "a PING of the wrong size": frame(Type.PING, 0, b"x"),
    "a second HELLO": frame(Type.HELLO, 0, b"{}"),
    "a GOAWAY with a code that is none": frame(Type.GOAWAY, 0, b'[99,"x",null]'),
    "a flood of pings": frame(Type.PING, 0, bytes(12)) * 200,
    "a flood of streams": b"".join(
        frame(Type.OPEN, 2 * n + 1, b'["noun","GET","x",[],"","","",null]') for n in range(3000)
    ),
}


async def said_to(link: Link, wire: MemoryWire, messages: list[bytes]) -> list[Type]:
    """What ``link`` answers to raw messages until it has ended: the types of its frames."""
    run = asyncio.create_task(link.run())
    answered: list[Type] = []
    try:
        async with asyncio.timeout(10):
            for message in messages:
                await wire.send(message)
            while (message := await wire.receive()) is not None:
                answered += [kind for kind, *_ in parse(message)]
            await run
    finally:
        link.drop("the test is over")
        await run
    return answered


async def forever(incoming: Incoming) -> None:
    await asyncio.Event().wait()


def raw_server(limits: Limits) -> tuple[Link, MemoryWire]:
    server_wire, node_wire = wire_pair()
    peer = Hello(name="node1", instance="n1")
    return Link(server_wire, opens="server", serve=forever, peer=peer, limits=limits), node_wire


@pytest.mark.parametrize("name", list(HOSTILE))
async def test_what_the_protocol_forbids_ends_the_link(name):
    link, wire = raw_server(Limits(streams=8))
    answered = await said_to(link, wire, [HOSTILE[name]])
    assert Type.GOAWAY in answered
    assert link.streams == 0


async def test_data_beyond_the_credit_ends_the_link():
    link, wire = raw_server(Limits())
    opened = frame(Type.OPEN, 1, b'["noun","PUT","x",[],"","","",null]')
    answered = await said_to(link, wire, [opened, *[frame(Type.DATA, 1, bytes(64 * 1024))] * 5])
    assert answered == [Type.GOAWAY]
