"""Nodes that mean no good, at a real gateway: each is refused or dropped, and another node's callers notice nothing."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from statistics import median

import pytest
import pytest_asyncio
from aiohttp import ClientError, ClientSession

from gateway_core.testing.process import ServeProcess, serve_process
from gateway_pipe.identity.enrolment import enrol
from gateway_pipe.link.frames import Type, frame, ping, window
from gateway_pipe.link.model import MAX_MESSAGE_BYTES
from tests.pipe.node_process import MODULES, NodeProcess, node_process
from tests.pipe.raw_peer import (
    BINARY,
    CONTINUATION,
    PATIENCE_S,
    PING,
    TEXT,
    RawPeer,
    Turned,
    answer,
    handshake,
    opening,
    raw_peer,
    websocket_frame,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PING_S = 1.2
GROWTH_BYTES = 64 * 1024 * 1024
SLOWEST_S = 2.0
KIB = 1024


class Stand:
    """A gateway, a good node that is called all the time, and the secret that lets a bad one in."""

    def __init__(self, server: ServeProcess, node: NodeProcess, session: ClientSession, secret: str, port: int) -> None:
        self.server = server
        self.node = node
        self.session = session
        self.headers = {"Authorization": secret}
        self.nodes_url = f"https://127.0.0.1:{port}"
        self.memory_at_first = self.memory()

    def peer(self, name: str, **options):
        return raw_peer(self.server.url, name, self.headers, **options)

    @asynccontextmanager
    async def hostile(self, name: str = "evil", **options) -> AsyncIterator[RawPeer]:
        """A connected bad node. In the end it must be gone, and the good one's callers have noticed nothing."""
        async with self.unaffected():
            async with self.peer(name, **options) as peer:
                await peer.greet(name)
                yield peer
            await self.gone(name)

    @asynccontextmanager
    async def unaffected(self) -> AsyncIterator[None]:
        """The good node answers every call of the block in time, and the gateway's memory stays in bounds."""
        before = self.memory()
        took, most = [], before
        ended = asyncio.Event()

        async def call_on() -> None:
            nonlocal most
            while not ended.is_set() or not took:
                began = time.monotonic()
                async with self.session.get("/client/good/who", headers=self.headers) as told:
                    assert (await told.json())["who"] == "good"
                took.append(time.monotonic() - began)
                most = max(most, self.memory())
                await asyncio.sleep(0.01)

        calling = asyncio.create_task(call_on())
        try:
            yield
        finally:
            ended.set()
            await asyncio.wait({calling})
        calling.result()
        assert max(took) < SLOWEST_S
        assert median(took) < SLOWEST_S / 8
        assert most - before < GROWTH_BYTES

    async def gone(self, name: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.session.get("/pipe/nodes", headers=self.headers) as told:
                    if name not in {node["name"] for node in await told.json()}:
                        return

    def memory(self) -> int:
        """Resident bytes of the gateway's process."""
        return int(Path(f"/proc/{self.server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """One for all: nobody here may leave anything behind."""
    folder = tmp_path_factory.mktemp("hostile")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    env = {
        "GATEWAY_PLUGINS": "pipe",
        "GATEWAY_KEEPALIVE_TIMEOUT_S": "5",
        "GATEWAY_PIPE__PING": str(PING_S),
        "GATEWAY_PIPE__LISTEN": f"127.0.0.1:{port}",
        "GATEWAY_PIPE__HANDLERS": "hostile_handlers:Handlers",
        "PYTHONPATH": str(MODULES),
    }
    async with serve_process(data_dir=folder / "gateway", env=env) as server, server.session() as session:
        secret = await server.secret("pipe:connect:*", "pipe:call:*", "admin")
        arguments = ("--name", "good", "--secret", secret, "--local", "off", "--handlers", "who_handlers:Handlers")
        async with node_process(server.url, *arguments, env={"WHO": "good", "XDG_STATE_HOME": str(folder)}) as node:
            await node.wait_log("connected")
            yield Stand(server, node, session, secret, port)


@pytest_asyncio.fixture(loop_scope="module", scope="module", autouse=True)
async def holding(stand: Stand) -> AsyncIterator[asyncio.Task[dict[str, float]]]:
    """Those who only hold on do so while all other tests run: it takes them longest."""
    task = asyncio.create_task(hold_on(stand))
    yield task
    task.cancel()
    await asyncio.wait({task})


async def suffered(peer: RawPeer, flood: Callable[[RawPeer], Awaitable[None]]) -> str:
    """Flood until the gateway has enough, within 15 s; the reason that it gives."""
    ending, flooding = asyncio.create_task(peer.ended()), asyncio.create_task(flood(peer))
    try:
        await asyncio.wait({ending})
    finally:
        flooding.cancel()
        await asyncio.wait({flooding})
    return ending.result()


def binary(*frames: bytes) -> bytes:
    return websocket_frame(BINARY, b"".join(frames))


UNWANTED = {
    "a message too long": (binary(bytes(MAX_MESSAGE_BYTES + 1)), ""),
    "a message of many gigabytes": (websocket_frame(BINARY, b"x", size=2**40), ""),
    "a text": (websocket_frame(TEXT, b"hello"), "text"),
    "bytes that are no text": (websocket_frame(TEXT, b"\xff\xfe"), ""),
    "an unknown opcode": (websocket_frame(3), ""),
    "a reserved bit": (b"\xc2\x80\0\0\0\0", ""),
    "a long ping": (websocket_frame(PING, bytes(126)), ""),
    "a ping in pieces": (websocket_frame(PING, b"x", fin=False), ""),
    "an empty message": (binary(), "a message of 0 bytes"),
    "half a header": (binary(b"\5\0\0"), "cut"),
    "a frame longer than its message": (binary(struct.pack("!BBHII", 5, 0, 0, 1, 99)), "not a frame"),
    "an unknown type": (binary(struct.pack("!BBHII", 99, 0, 0, 1, 0)), "not a frame"),
    "unknown flags": (binary(struct.pack("!BBHII", 5, 2, 0, 1, 0)), "not a frame"),
    "a second HELLO": (binary(frame(Type.HELLO, 0, b"{}")), "second HELLO"),
    "an OPEN that is no JSON": (binary(frame(Type.OPEN, 1, b"\xff{")), "JSON"),
    "an OPEN of deep JSON": (binary(frame(Type.OPEN, 1, b"[" * 60_000)), "JSON"),
    "an OPEN of long digits": (binary(frame(Type.OPEN, 1, b"[" + b"9" * 60_000 + b"]")), "JSON"),
    "an OPEN of much metadata": (binary(opening(1, headers=[["a", "b" * 70_000]])), "metadata"),
    "an OPEN of a strange header": (binary(opening(1, headers=[["a\r\nb", "c"]])), "header"),
    "an OPEN of a strange method": (binary(opening(1, method="GET /x HTTP/1.1")), "OPEN"),
    "an OPEN of a strange time": (binary(opening(1, timeout_ms=-1)), "OPEN"),
    "the server's stream": (binary(opening(2)), "cannot be opened"),
    "stream 0": (binary(opening(0)), "cannot be opened"),
    "a stream twice": (binary(opening(1), opening(1)), "cannot be opened"),
    "an older stream": (binary(opening(5), opening(3)), "cannot be opened"),
    "data of no stream": (binary(frame(Type.DATA, 1, b"x")), "never opened"),
    "data after the end": (binary(opening(1), frame(Type.DATA, 1, fin=True), frame(Type.DATA, 1, b"x")), "its end"),
    "empty data": (binary(opening(1), frame(Type.DATA, 1)), "its end"),
    "a HEAD that nobody asked for": (binary(*answer(2, b"x")), "never opened"),
    "a HEAD on its own stream": (binary(opening(1), *answer(1, b"x")), "nobody asked"),
    "no credit": (binary(opening(1), frame(Type.WINDOW, 1, bytes(4))), "without credit"),
    "half a credit": (binary(opening(1), frame(Type.WINDOW, 1, b"\1")), "wrong size"),
    "too much credit": (binary(opening(1), window(1, 2**32 - 1)), "too much credit"),
    "more than its credit": (
        b"".join(map(binary, (opening(1), *[frame(Type.DATA, 1, bytes(200 * KIB))] * 2))),
        "beyond its credit",
    ),
    "a PING of no size": (binary(frame(Type.PING, 0, b"x")), "wrong size"),
    "a RESET of no code": (binary(opening(1), frame(Type.RESET, 1, b'[99,"",null]')), "RESET"),
    "a GOAWAY of no time": (binary(frame(Type.GOAWAY, 0, b'[1,"",1e999]')), "GOAWAY"),
}


@pytest.mark.parametrize("what", UNWANTED)
async def test_what_no_node_says_ends_its_link(stand: Stand, what: str) -> None:
    data, reason = UNWANTED[what]
    async with stand.hostile() as peer:
        await peer.raw(data)
        assert reason in await peer.ended()


async def flood_of_pings(peer: RawPeer) -> None:
    while True:
        await peer.raw(websocket_frame(PING, b"x") * 100)


async def flood_of_own_pings(peer: RawPeer) -> None:
    while True:
        await peer.send(*[ping(Type.PING, 1, 1)] * 100)


async def flood_of_pieces(peer: RawPeer) -> None:
    await peer.raw(websocket_frame(BINARY, b"x", fin=False))
    while True:
        await peer.raw(websocket_frame(CONTINUATION, b"x", fin=False) * 1000)


async def flood_of_streams(peer: RawPeer) -> None:
    for first in range(1, 200_001, 1000):
        await peer.send(*(opening(number) for number in range(first, first + 1000, 2)))


async def flood_of_streams_broken_off(peer: RawPeer) -> None:
    reset = b'[1,"",null]'
    for first in range(1, 200_001, 1000):
        numbers = range(first, first + 1000, 2)
        await peer.send(*(part for n in numbers for part in (opening(n), frame(Type.RESET, n, reset))))


FLOODS = {
    "WebSocket pings": (flood_of_pings, "flood of WebSocket pings"),
    "pings": (flood_of_own_pings, "flood of pings"),
    "a message in 100,000 pieces": (flood_of_pieces, ""),
    "100,000 streams": (flood_of_streams, "flood of streams"),
    "100,000 streams broken off": (flood_of_streams_broken_off, "flood of streams"),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_floods_end_the_link(stand: Stand, what: str) -> None:
    flood, reason = FLOODS[what]
    async with stand.hostile() as peer:
        assert reason in await suffered(peer, flood)


async def say_nothing(stand: Stand) -> None:
    """No HELLO."""
    async with stand.peer("mute") as peer:
        await peer.ended()


async def spell(stand: Stand) -> None:
    """A HELLO, byte for byte."""
    async with stand.peer("stammering") as peer:

        async def drip(peer: RawPeer) -> None:
            for byte in binary(bytes(1000)):
                await peer.raw(bytes([byte]))
                await asyncio.sleep(0.2)

        await suffered(peer, drip)


async def spell_the_handshake(stand: Stand) -> None:
    """A request's head that never ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stand.server.url.rpartition(":")[2]))

    async def drip() -> None:
        for byte in handshake("x", "slow", {**stand.headers, "X-Long": "x" * 1000}):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert b" 101 " not in await reader.read()
    except ConnectionError:
        pass
    finally:
        dripping.cancel()
        await asyncio.wait({dripping})
        writer.transport.abort()


async def fall_silent(stand: Stand) -> None:
    """A node whose machine was cut off."""
    async with stand.peer("silent") as peer:
        await peer.greet("silent")
        await peer.ended()


async def send_empty_pieces(stand: Stand) -> None:
    """A message that never ends, and never grows."""
    async with stand.peer("empty") as peer:
        await peer.greet("empty")

        async def flood(peer: RawPeer) -> None:
            await peer.raw(websocket_frame(BINARY, b"x", fin=False))
            while True:
                await peer.raw(websocket_frame(CONTINUATION, fin=False) * 100)
                await asyncio.sleep(0.01)

        await suffered(peer, flood)


async def not_close(stand: Stand) -> None:
    """A node that was told to go, and stays."""
    async with stand.peer("staying") as peer:
        await peer.greet("staying")
        await peer.send(b"?")
        await peer.ended(cut=True)


async def large_body() -> AsyncIterator[bytes]:
    for _ in range(1000):
        yield bytes(256 * KIB)


async def never_read(stand: Stand) -> None:
    """A node that is sent a large body, takes nothing of it, and says that it is well."""
    async with stand.peer("deaf", receive_bytes=4096) as peer:
        await peer.greet("deaf", credit=16 * KIB * KIB)
        request = stand.session.post("/client/deaf/x", data=large_body(), headers=stand.headers)
        calling = asyncio.create_task(broken(request))
        while not calling.done():
            with suppress(ConnectionError):
                await peer.send(ping(Type.PING, 1, 1))
            await asyncio.wait({calling}, timeout=PING_S / 2)
        assert calling.result()


async def test_who_says_another_name_than_its_address_is_refused(stand: Stand) -> None:
    async with stand.unaffected(), stand.peer("evil") as peer:
        await peer.say_hello("good")
        assert "calls itself 'good'" in await peer.ended()
        assert Type.WELCOME not in peer.kinds


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[" * 60_000,
        b'{"protocol":1,"name":"evil","instance":"x","window":65536,"streams":8,"nouns":["x' + b'","x' * 5000 + b'"]}',
        b'{"protocol":1,"name":"evil","instance":"x","window":1099511627776,"streams":1}',
        b'{"protocol":1,"name":"evil","instance":"x","window":65536,"streams":-1}',
        b'{"protocol":1,"name":"../evil","instance":"x","window":65536,"streams":1}',
        b" " * 100_000 + b"{}",
    ],
)
async def test_a_hello_that_is_none_is_refused(stand: Stand, payload: bytes) -> None:
    async with stand.unaffected(), stand.peer("evil") as peer:
        await peer.send(frame(Type.HELLO, 0, payload))
        await peer.ended()
        assert Type.WELCOME not in peer.kinds


async def broken(request) -> bool:
    """Whether the caller sees that it has not got an answer, or not a whole one."""
    try:
        async with request as told:
            await told.read()
            return told.status >= 500
    except ClientError:
        return True


@pytest.mark.parametrize("said", ["3", "300000", "9" * 18], ids=["longer than said", "shorter than said", "absurd"])
@pytest.mark.parametrize("path", ["client/evil/x", "node/evil/app/x"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_an_answer_that_is_not_as_long_as_it_says_is_a_broken_one(
    stand: Stand, said: str, path: str, *, at_once: bool
) -> None:
    async with stand.hostile() as peer:
        calling = asyncio.create_task(
            broken(stand.session.get(f"/{path}", headers={**stand.headers, "X-Pipe-Status": "strict"}))
        )
        number = await peer.opened()
        head, data = answer(number, b"hello", ("Content-Length", said))
        if at_once:
            await peer.send(head, data)
        else:
            await peer.send(head)
            await asyncio.wait({calling}, timeout=0.05)
            await peer.send(data)
        async with asyncio.timeout(PATIENCE_S):
            assert await calling


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://{host}:1", "https://{here}", "http://{here}.evil.example", "http://{here}"],
)
async def test_no_page_may_connect_whatever_its_origin(stand: Stand, origin: str) -> None:
    here = stand.server.url.removeprefix("http://")
    origin = origin.format(here=here, host=here.partition(":")[0])
    assert await refused(raw_peer(stand.server.url, "page", {**stand.headers, "Origin": origin})) == 403


async def test_a_certificate_is_for_its_name_and_until_it_is_revoked(stand: Stand, tmp_path: Path) -> None:
    assert (await stand.server.command("pipe", "ca", "init")).code == 0
    invited = await stand.server.command("pipe", "invite", "safe", "--json")
    context = (await enrol(stand.nodes_url, json.loads(invited.out)["token"], tmp_path / "safe")).context()

    def connected(address: str = "safe"):
        return raw_peer(stand.nodes_url, address, {}, context=context)

    assert await refused(connected("good")) == 403
    async with connected() as peer:
        await peer.say_hello("good")
        assert "calls itself 'good'" in await peer.ended()
    async with connected() as peer:
        await peer.greet("safe")
        ending = asyncio.create_task(peer.ended())
        assert (await stand.server.command("pipe", "revoke", "safe")).code == 0
        async with asyncio.timeout(1):
            assert "revoked" in await ending
    assert await refused(connected()) == 401


async def refused(connecting: AbstractAsyncContextManager[RawPeer]) -> int:
    """The status with which the gateway refuses the handshake."""
    with pytest.raises(Turned) as turned:
        async with connecting:
            pass
    return turned.value.status


WAYS = [say_nothing, spell, spell_the_handshake, fall_silent, send_empty_pieces, not_close, never_read]


async def hold_on(stand: Stand) -> dict[str, float]:
    """All these ways at once; how long each could."""

    async def took(way: Callable[[Stand], Awaitable[None]]) -> float:
        began = time.monotonic()
        await way(stand)
        return time.monotonic() - began

    return dict(zip([way.__name__ for way in WAYS], await asyncio.gather(*map(took, WAYS)), strict=True))


async def test_who_only_holds_on_is_dropped_within_15_seconds(
    stand: Stand, holding: asyncio.Task[dict[str, float]]
) -> None:
    async with stand.unaffected():
        seconds = await holding
        for name in ("mute", "stammering", "slow", "silent", "empty", "staying", "deaf"):
            await stand.gone(name)
    assert {way: s for way, s in seconds.items() if s > PATIENCE_S} == {}
    assert stand.memory() - stand.memory_at_first < GROWTH_BYTES
