"""Messages and descriptors between a worker and its boxes."""

import asyncio
import os
import socket

import pytest

from gateway_transform.box import wire
from gateway_transform.work.channel import Channel


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


async def test_a_message_and_its_descriptors_arrive(pair):
    channel, theirs = pair
    read, write = os.pipe()
    await channel.send({"type": "job", "n": 1}, [write])
    message, fds = await asyncio.to_thread(wire.receive, theirs)
    assert message == {"type": "job", "n": 1}
    os.write(fds[0], b"through")
    assert os.read(read, 100) == b"through"
    for fd in (read, write, *fds):
        os.close(fd)


async def test_messages_sent_in_one_go_come_one_by_one(pair):
    channel, theirs = pair
    theirs.sendall(wire.encode({"type": "a"}) + wire.encode({"type": "b"}) + wire.encode({"type": "c"})[:5])
    assert [(await channel.receive())["type"] for _ in range(2)] == ["a", "b"]
    theirs.sendall(wire.encode({"type": "c"})[5:])
    assert (await channel.receive())["type"] == "c"


async def test_a_cancelled_receive_loses_nothing(pair):
    channel, theirs = pair
    data = wire.encode({"type": "late", "text": "x" * 1000})
    theirs.sendall(data[:500])
    receiving = asyncio.create_task(channel.receive())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait([receiving])
    theirs.sendall(data[500:])
    assert (await channel.receive())["text"] == "x" * 1000


async def test_the_end_is_none(pair):
    channel, theirs = pair
    theirs.close()
    assert await channel.receive() is None


async def test_an_end_in_the_middle_is_an_error(pair):
    channel, theirs = pair
    theirs.sendall(wire.encode({"type": "cut"})[:-1])
    theirs.close()
    with pytest.raises(wire.WireError):
        await channel.receive()


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\2{}", b"\0\0\0\1{", b'\0\0\0\x0a{"type":1}'],
    ids=["too-long", "a-list", "no-type", "broken", "type-is-a-number"],
)
async def test_nonsense_is_an_error(pair, data):
    channel, theirs = pair
    theirs.sendall(data)
    theirs.close()
    with pytest.raises(wire.WireError):
        await channel.receive()


async def test_more_than_a_socket_holds_is_sent(pair):
    channel, theirs = pair
    message = {"type": "big", "text": "x" * 900_000}
    sending = asyncio.create_task(channel.send(message, [theirs.fileno()]))
    received, fds = await asyncio.to_thread(wire.receive, theirs)
    await sending
    assert received == message
    for fd in fds:
        os.close(fd)


async def test_a_peer_that_is_gone_is_an_error(pair):
    channel, theirs = pair
    theirs.close()
    with pytest.raises(OSError):
        await channel.send({"type": "x"})


async def test_who_sends_without_an_end_leaves_others_their_turns(pair):
    channel, theirs = pair
    theirs.sendall(b"".join(wire.encode({"type": "x"}) for _ in range(1000)))
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    for _ in range(1000):
        await channel.receive()
    beside.cancel()
    assert turns >= 900
