"""What crosses on a link: cancels, resets, answers and cuts in one instant."""

from __future__ import annotations

import asyncio

import pytest

from gateway_pipe.link.frames import Type, data_header, frame, window
from gateway_pipe.link.model import (
    DeadlinePassed,
    Head,
    Hello,
    Incoming,
    Limits,
    LinkLost,
    Reset,
    StreamReset,
)
from gateway_pipe.link.session import Link
from tests.pipe.links import linked, nobody, noun
from tests.pipe.raw_link import CANCEL, HEAD, KIB, OPEN, Raw, forever, taken, until
from tests.pipe.wires import MemoryWire


async def test_a_call_that_is_opened_and_broken_off_at_once_leaves_its_place():
    async with Raw("server", serve=forever, limits=Limits(streams=4)) as raw:
        for number in (1, 3, 5, 7):
            await raw.say(frame(Type.OPEN, number, OPEN), frame(Type.RESET, number, CANCEL))
        await until(lambda: raw.link.traffic.served == 4)
        await asyncio.sleep(0)
        await raw.say(frame(Type.OPEN, 9, OPEN))
        await until(lambda: raw.link.traffic.served == 5 or raw.frames)
        assert (raw.link.traffic.served, raw.link.streams) == (5, 1)


async def test_an_answer_that_meets_the_cancelling_of_its_call_leaves_the_link_alone():
    async with Raw("server") as raw:
        call = asyncio.create_task(taken(raw.link))
        await raw.heard(Type.OPEN)
        await raw.say(frame(Type.HEAD, 2, HEAD), data_header(2, 0, fin=True))
        call.cancel()  # the head is read before the call notices
        with pytest.raises(asyncio.CancelledError):
            await call
        await raw.say(frame(Type.PING, 0, bytes(12)))
        await raw.heard(Type.PONG)
        assert raw.link.alive
        assert raw.link.streams == 0


async def test_an_answer_that_meets_the_breaking_of_the_requests_body_leaves_the_link_alone():
    broken = asyncio.Event()

    async def body():
        await broken.wait()
        raise StreamReset(Reset.CANCEL, "whoever sends it has gone")
        yield b""

    async with Raw("server") as raw:
        call = asyncio.create_task(taken(raw.link, body()))
        await raw.heard(Type.OPEN)
        broken.set()
        await raw.say(frame(Type.HEAD, 2, HEAD), data_header(2, 0, fin=True))
        with pytest.raises(StreamReset):
            await call
        await raw.say(frame(Type.PING, 0, bytes(12)))
        await raw.heard(Type.PONG)
        assert raw.link.alive


async def test_an_answer_before_the_end_of_the_request_is_read_whole_however_late():
    async def early(incoming: Incoming) -> None:
        await incoming.answer(Head(status=413, code=1), b"too much")

    async def endless():
        while True:
            yield bytes(64 * KIB)

    async with linked(node=early) as pair:
        async with pair.server.call(noun(), endless()) as answer:
            await until(lambda: not pair.server.streams)
            await asyncio.sleep(0.01)
            assert await answer.read(100) == b"too much"


async def test_nothing_more_of_a_request_is_taken_that_nobody_reads():
    took = 0

    async def early(incoming: Incoming) -> None:
        await incoming.answer(Head(), b"enough")

    async def slow():
        nonlocal took
        while True:
            await asyncio.sleep(0)
            took += 1
            yield b"x"

    async with linked(node=early) as pair:
        async with pair.server.call(noun(), slow()) as answer:
            await until(lambda: not pair.server.streams)
            before = took
            for _ in range(20):
                await asyncio.sleep(0)
            assert took <= before + 1
            assert await answer.read(100) == b"enough"


async def test_an_answer_that_came_in_time_can_be_read_later():
    async def echo(incoming: Incoming) -> None:
        await incoming.answer(Head(), b"whole")

    async with linked(node=echo) as pair:
        async with pair.server.call(noun(), timeout_s=0.05, whole=True) as answer:
            await until(lambda: answer.received)
            await asyncio.sleep(0.1)
            assert await answer.read(100) == b"whole"


async def test_a_stream_that_never_began_is_not_ended_on_the_wire():
    """The time is up before the OPEN can be sent; the body's end must not follow it."""
    gate = asyncio.Event()

    async def body():
        await gate.wait()
        return
        yield b""

    async with linked(node=forever, room=1) as pair:
        pair.server_wire.frozen = True
        first = asyncio.create_task(taken(pair.server))
        await until(lambda: pair.server._sender.sending_since is not None)
        call = pair.server.call(noun(), body(), timeout_s=60)
        entering = asyncio.create_task(call.__aenter__())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()  # both at once
        call._expire()
        with pytest.raises(DeadlinePassed):
            await entering
        pair.server_wire.frozen = False
        await until(lambda: pair.node.traffic.served == 1)
        await asyncio.sleep(0.01)
        assert pair.node.alive
        first.cancel()
        await asyncio.wait({first})


async def test_a_flush_ends_when_the_link_is_dropped_before_its_first_byte():
    async with Raw("server") as raw:
        raw.link._sender.urgent(window(1, 1))
        raw.link.drop("now")
        async with asyncio.timeout(1):
            await raw.link._sender.flush()


async def test_what_waits_behind_a_cut_is_not_begun():
    begun = []

    async def note(incoming: Incoming) -> None:
        begun.append(incoming.opening.target)

    async with Raw("server", serve=note) as raw:
        raw.wire.other.abort = lambda: raw.wire.other._shut()  # what has arrived is still read, as from sockets
        await raw.say(frame(Type.PING, 0, bytes(12)))
        await raw.say(frame(Type.OPEN, 1, OPEN))
        raw.link.drop("revoked")
        await asyncio.wait_for(raw.link.closed(), 5)
    assert not begun
    assert raw.link.traffic.served == 0


async def test_a_wire_that_fails_in_any_way_drops_the_link():
    class Bad(MemoryWire):
        async def send(self, message: bytes) -> None:
            raise RuntimeError("not a connection error")

    own, wire = Bad(8), MemoryWire(8)
    own.other, wire.other = wire, own
    link = Link(own, opens="server", serve=nobody, peer=Hello(name="node1", instance="n1"))
    run = asyncio.create_task(link.run())
    with pytest.raises(LinkLost):
        async with asyncio.timeout(5):
            await taken(link)
    await run


async def test_a_cancelled_body_fails_its_call_instead_of_leaving_it_open():
    async def body():
        yield b"half"
        raise asyncio.CancelledError

    async with linked(node=forever) as pair:
        with pytest.raises(StreamReset):
            async with asyncio.timeout(5):
                await taken(pair.server, body())
        await until(lambda: not pair.node.streams)


async def test_a_link_whose_stream_numbers_are_used_up_says_goodbye():
    async with linked() as pair:
        pair.server._streams._next = 2**32 - 2
        assert await taken(pair.server) == b""
        with pytest.raises(LinkLost) as lost:
            await taken(pair.server)
        assert not lost.value.started
        async with asyncio.timeout(5):
            await pair.node.leaving()


async def test_what_a_handler_does_at_its_end_is_not_broken_off_by_the_end_of_the_link():
    begun, tidied = asyncio.Event(), asyncio.Event()

    async def tidy(incoming: Incoming) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            tidied.set()

    async with linked(node=tidy) as pair:
        call = asyncio.create_task(taken(pair.server))
        async with asyncio.timeout(5):
            await begun.wait()
            pair.node_wire.cut()
            await pair.node.closed()
            with pytest.raises(LinkLost):
                await call
    assert tidied.is_set()
