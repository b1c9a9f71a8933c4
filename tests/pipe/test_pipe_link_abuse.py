"""An end of a link that means no good: what it can say costs little, and floods end it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway_core.errors import Unavailable
from gateway_pipe.hub.admission import Admission
from gateway_pipe.link.frames import Type, data_header, frame
from gateway_pipe.link.model import (
    MAX_MESSAGE_BYTES,
    DeadlinePassed,
    Head,
    Hello,
    Incoming,
    Limits,
    LinkLost,
    ProtocolViolation,
    StreamReset,
    Traffic,
)
from gateway_pipe.link.sender import Sender
from gateway_pipe.link.session import Link
from gateway_pipe.link.stream import Stream
from gateway_pipe.wires.websocket import WebSocketWire
from tests.pipe.links import nobody
from tests.pipe.raw_link import CANCEL, KIB, MIB, OPEN, Raw, forever, taken, until
from tests.pipe.wires import MemoryWire, wire_pair


async def test_an_answer_without_a_head_is_a_violation_and_no_call_hangs():
    async with Raw("server") as raw:
        call = asyncio.create_task(taken(raw.link))
        await raw.heard(Type.OPEN)
        await raw.say(data_header(2, 0, fin=True))
        with pytest.raises(LinkLost):
            async with asyncio.timeout(5):
                await call


async def test_answers_that_nobody_takes_count_as_calls_of_the_end_that_made_them():
    async def big(incoming: Incoming) -> None:
        await incoming.answer(Head(), bytes(MIB))

    limits = Limits(streams=3)
    async with Raw("server", serve=big, limits=limits, window_bytes=16 * KIB) as raw:
        for number in range(1, 13, 2):
            await raw.say(frame(Type.OPEN, number, OPEN, fin=True))
            await asyncio.sleep(0.005)
        refused = await raw.heard(Type.RESET, 3)
        assert [number for number, _ in refused] == [7, 9, 11]
        assert raw.link.streams == 3


async def test_streams_of_the_other_end_are_not_counted_as_calls_from_here():
    async def big(incoming: Incoming) -> None:
        await incoming.answer(Head(), bytes(MIB))

    own, wire = wire_pair()
    peer = Hello(name="node1", instance="n1", window=16 * KIB, streams=1)
    link = Link(own, opens="server", serve=big, peer=peer)
    run = asyncio.create_task(link.run())
    await wire.send(frame(Type.OPEN, 1, OPEN, fin=True))
    await until(lambda: link.streams == 1)
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlinePassed):
        await taken(link, timeout_s=0.01)
    link.drop("the test is over")
    await run


async def test_a_body_in_single_bytes_costs_little_more_than_in_one_piece():
    async with Raw("server", serve=forever) as raw:
        await raw.say(frame(Type.OPEN, 1, OPEN))
        for _ in range(4):
            await raw.say(frame(Type.DATA, 1, b"x") * (16 * KIB))
        await until(lambda: raw.link.traffic.received_bytes > 4 * 16 * KIB * 13)
        stream = raw.link._streams.get(1)
        kept = sum(map(sys.getsizeof, stream._chunks))
        assert kept < 128 * KIB


@pytest.mark.parametrize(
    "flood",
    [frame(Type.PONG, 0, bytes(12)), frame(Type.WINDOW, 1, b"\0\0\0\1"), frame(Type.RESET, 1, CANCEL)],
    ids=["PONG", "WINDOW of nothing", "RESET of nothing"],
)
async def test_a_flood_of_frames_that_mean_nothing_ends_the_link(flood):
    async with Raw("server") as raw:
        await raw.say(frame(Type.OPEN, 1, OPEN, fin=True))
        await until(lambda: not raw.link.streams)
        message = flood * (128 * KIB // len(flood))
        for _ in range(50):
            if not raw.link.alive:
                break
            try:
                await raw.say(message)
            except ConnectionError:
                break
        async with asyncio.timeout(10):
            await raw.link.closed()
        assert raw.link.farewell is not None
        assert "flood" in raw.link.farewell.reason


async def test_other_tasks_run_while_a_peer_floods():
    own, wire = wire_pair(room=100)
    link = Link(own, opens="server", serve=nobody, peer=Hello(name="node1", instance="n1"))
    await wire.send(frame(Type.OPEN, 1, OPEN, fin=True))
    for _ in range(40):
        await wire.send(frame(Type.WINDOW, 1, b"\0\0\0\1") * 500)
    turns = 0
    run = asyncio.create_task(link.run())
    while wire.other._arrived and link.alive:
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10
    link.drop("the test is over")
    await run


async def test_reasons_of_the_other_end_have_no_control_characters():
    async with Raw("server") as raw:
        call = asyncio.create_task(taken(raw.link))
        await raw.heard(Type.OPEN)
        await raw.say(frame(Type.RESET, 2, b'[5,"a\\nb\\u001b[2J\\ud800",null]'))
        with pytest.raises(StreamReset) as broken:
            await call
        assert broken.value.detail.isprintable()
        await raw.say(frame(Type.GOAWAY, 0, b'[1,"a\\nb\\ud800",null]'))
        assert (await raw.link.leaving()).reason.isprintable()


async def test_thousands_of_headers_are_refused():
    headers = ",".join(['["a",""]'] * 5000)
    async with Raw("server", serve=forever) as raw:
        await raw.say(frame(Type.OPEN, 1, f'["noun","GET","x",[{headers}],"","","",null]'.encode()))
        async with asyncio.timeout(5):
            farewell = await raw.link.leaving()
        assert farewell.reason.startswith("protocol violated")


async def test_many_ends_in_one_message_fit_into_it():
    """What hardly has any data is counted too, so that no message is longer than the other end takes."""

    class Wire(MemoryWire):
        async def send(self, message: bytes) -> None:
            sizes.append(len(message))

    sizes: list[int] = []
    broken: list[str] = []
    sender = Sender(Wire(1), Traffic(), broken.append)
    for number in range(2, 50_000, 2):
        Stream(sender, number, credit=1, window_bytes=1).put(b"")
    await sender.flush()
    assert sum(sizes) == 12 * 24_999
    assert max(sizes) < MAX_MESSAGE_BYTES / 2
    assert not broken


async def test_calls_of_a_link_that_was_violated_fail_at_once_and_none_begins():
    async with Raw("server") as raw:
        call = asyncio.create_task(taken(raw.link))
        await raw.heard(Type.OPEN)
        raw.wire.other.frozen = True  # the goodbye takes its time
        await raw.say(frame(Type.HELLO))
        async with asyncio.timeout(2):
            with pytest.raises(LinkLost):
                await call
            with pytest.raises(LinkLost) as late:
                await taken(raw.link)
        assert not late.value.started


async def test_one_node_cannot_take_all_places_for_handshakes():
    admission = Admission(8)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(admission.admitted("greedy"))
        with pytest.raises(Unavailable):
            await stack.enter_async_context(admission.admitted("greedy"))
        await stack.enter_async_context(admission.admitted("other"))
    async with admission.admitted("greedy"):
        pass


async def test_pings_among_messages_are_a_flood_too():
    """Each message forgives one ping, so that those of a proxy never add up."""
    ended = asyncio.get_running_loop().create_future()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        wire = WebSocketWire(socket, request.transport)
        read = 0
        try:
            while await wire.receive() is not None:
                read += 1
            ended.set_result((read, None))
        except ProtocolViolation as error:
            ended.set_result((read, error))
        wire.abort()
        return socket

    async with TestServer(_application(serve)) as server, TestClient(server) as client:
        socket = await client.ws_connect("/", autoping=False)
        for _ in range(300):
            await socket.ping()
            await socket.send_bytes(b"x")
        for _ in range(150):
            await socket.ping()
            await socket.ping()
            await socket.send_bytes(b"x")
        async with asyncio.timeout(10):
            read, error = await ended
        assert 300 < read < 450
        assert error is not None


def _application(handler) -> web.Application:
    application = web.Application()
    application.router.add_get("/", handler)
    return application
