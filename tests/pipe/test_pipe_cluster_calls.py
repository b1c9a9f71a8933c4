"""Calls from one gateway to a node that is connected to another one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from dataclasses import replace

import pytest
from aiohttp import ClientError, ClientSession

from gateway_core.errors import ConfigError, StartupError, Unavailable
from gateway_core.testing.services import free_port
from gateway_pipe.cluster.peers import Peers
from gateway_pipe.identity.authority import Authority, Purpose
from gateway_pipe.identity.contexts import peer_contexts
from gateway_pipe.identity.signing import new_issuer
from gateway_pipe.link.model import DeadlinePassed, Head, Incoming, LinkLost, Opening, Reset, StreamReset
from gateway_pipe.settings import PipeSettings
from tests.pipe.links import noun

pytest_plugins = ["tests.pipe.clusters"]

MIB = 1024 * 1024


async def echo(incoming: Incoming) -> None:
    await incoming.answer(Head(headers=(("X-Target", incoming.opening.target),)), incoming)


def of(node: str, **more: object) -> Opening:
    return replace(noun("cat//a"), node=node, **more)


async def pieces(data: bytes, size: int):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def two_free_ports() -> int:
    """The first of two in a row."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + 1))
            return port


async def test_a_call_reaches_a_node_of_another_gateway(two_members):
    here, there = two_members
    async with there.holding("node1", echo):
        link = await here.link_to("node1", there)
        async with link.call(of("node1"), b"hello") as answer:
            assert answer.head.header("x-target") == "cat//a"
            assert await answer.read(100) == b"hello"


async def test_bodies_stream_both_ways_at_once(two_members):
    here, there = two_members
    data = random.Random(1).randbytes(5 * MIB + 7)
    async with there.holding("node1", echo):
        link = await here.link_to("node1", there)
        async with link.call(of("node1"), pieces(data, 100_000)) as answer:
            assert await answer.read(len(data)) == data


async def test_the_node_sees_neither_its_name_nor_more_time_than_is_left(two_members):
    here, there = two_members
    seen = asyncio.get_running_loop().create_future()

    async def note(incoming: Incoming) -> None:
        seen.set_result(incoming.opening)
        await incoming.answer(Head())

    async with there.holding("node1", note):
        link = await here.link_to("node1", there)
        async with link.call(of("node1", timeout_ms=5000)):
            opening = await seen
    assert (opening.node, opening.target) == ("", "cat//a")
    assert 0 < opening.timeout_ms <= 5000


async def test_a_caller_who_leaves_stops_the_handler(two_members):
    here, there = two_members
    stopped = asyncio.Event()

    async def endless(incoming: Incoming) -> None:
        async def body():
            while True:
                yield b"x" * 1000

        try:
            await incoming.answer(Head(), body())
        finally:
            stopped.set()

    async with there.holding("node1", endless) as inner:
        link = await here.link_to("node1", there)
        async with link.call(of("node1")) as answer:
            assert await anext(aiter(answer))
        async with asyncio.timeout(10):
            await stopped.wait()
            while inner.streams:
                await asyncio.sleep(0.005)


async def test_a_deadline_that_passes_stops_the_handler(two_members):
    here, there = two_members
    stopped = asyncio.Event()

    async def never(incoming: Incoming) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with there.holding("node1", never):
        link = await here.link_to("node1", there)
        with pytest.raises(DeadlinePassed):
            async with link.call(of("node1"), timeout_s=0.1, whole=True):
                pass
        async with asyncio.timeout(10):
            await stopped.wait()


@pytest.mark.parametrize("code", [Reset.REFUSED, Reset.FORBIDDEN, Reset.GONE])
async def test_a_refusal_comes_with_its_code_and_its_time(two_members, code):
    here, there = two_members

    async def refuse(incoming: Incoming) -> None:
        await incoming.refuse(code, "not now", retry_after_s=7)

    async with there.holding("node1", refuse):
        link = await here.link_to("node1", there)
        with pytest.raises(StreamReset, match="not now") as caught:
            async with link.call(of("node1")):
                pass
    assert (caught.value.code, caught.value.retry_after_s) == (code, 7)


async def test_an_answer_that_breaks_off_in_the_middle_breaks_with_its_code(two_members):
    here, there = two_members

    async def break_off(incoming: Incoming) -> None:
        async def body():
            yield b"half"
            await incoming.read(100)  # until the caller has seen the first half
            await incoming.refuse(Reset.FORBIDDEN, "no more")
            raise ConnectionError

        await incoming.answer(Head(), body())

    async with there.holding("node1", break_off):
        link = await here.link_to("node1", there)
        seen = asyncio.Event()

        async def question():
            yield b"q"
            await seen.wait()

        async with link.call(of("node1"), question()) as answer:
            chunks = aiter(answer)
            assert await anext(chunks) == b"half"
            seen.set()
            with pytest.raises(StreamReset) as caught:
                await anext(chunks)
    assert caught.value.code is Reset.FORBIDDEN


async def test_a_node_that_is_lost_in_the_middle_never_looks_like_the_end_of_its_answer(two_members):
    here, there = two_members

    async def half(incoming: Incoming) -> None:
        async def body():
            yield b"half"
            await asyncio.Event().wait()

        await incoming.answer(Head(), body())

    async with there.holding("node1", half) as inner:
        link = await here.link_to("node1", there)
        async with link.call(of("node1")) as answer:
            chunks = aiter(answer)
            assert await anext(chunks) == b"half"
            inner.drop("cut by the test")
            with pytest.raises(StreamReset) as caught:
                await anext(chunks)
    assert caught.value.code is Reset.GONE


async def test_a_node_that_is_not_there_is_refused_so_that_the_caller_looks_again(two_members):
    here, there = two_members
    async with there.holding("node1", echo):
        link = await here.link_to("node1", there)
        with pytest.raises(StreamReset) as caught:
            async with link.call(of("node2")):
                pass
    assert (caught.value.code, caught.value.retry_after_s) == (Reset.REFUSED, None)


async def test_a_call_is_never_passed_on_to_a_third_gateway(two_members):
    here, there = two_members
    async with there.holding("node1", echo), here.holding("node2", echo):
        link = await here.link_to("node1", there)
        with pytest.raises(StreamReset) as caught:
            async with link.call(of("node2")):
                pass
    assert caught.value.code is Reset.REFUSED


async def test_callers_share_one_link_to_a_gateway(two_members):
    here, there = two_members
    async with there.holding("node1", echo), there.holding("node2", echo):
        infos = [await here.finds(name, at=there) for name in ("node1", "node2")]
        links = await asyncio.gather(*(here.directory.link_to(info) for info in infos * 10))
        assert len(set(links)) == 1


async def test_a_link_that_nobody_uses_is_closed_and_made_again(two_members):
    here, there = two_members
    async with there.holding("node1", echo):
        first = await here.link_to("node1", there)
        here.peers.outgoing.idle_s = 0.0
        async with asyncio.timeout(10):
            await first.closed()
        here.peers.outgoing.idle_s = 60.0
        second = await here.link_to("node1", there)
        async with second.call(of("node1"), b"again") as answer:
            assert await answer.read(100) == b"again"


async def test_a_gateway_that_does_not_answer_is_told_at_once(two_members):
    here, _ = two_members
    with pytest.raises(Unavailable):
        await here.peers.link_to("gone", "127.0.0.1:1")


async def test_another_gateway_under_the_address_is_not_taken_for_the_one_that_was_meant(two_members):
    here, there = two_members
    with pytest.raises(Unavailable):
        await here.peers.link_to("another:1:2", there.peers.address)


async def test_worker_processes_take_the_next_free_ports(two_members):
    gateway = two_members[0].gateway
    port = two_free_ports()
    settings = PipeSettings(peer_listen=f"127.0.0.1:{port}", peer_host="gateway.internal")
    gateway.settings = gateway.settings.model_copy(update={"workers": 2})
    issuer = new_issuer("peers")
    contexts = peer_contexts(issuer.pem, issuer.peer(gateway.instance, days=1))
    one, two, three = (Peers(gateway, settings, echo, contexts=contexts) for _ in range(3))
    async with one.listening():
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port + 1))
            taken.listen()
            with pytest.raises(StartupError, match=str(port + 1)):
                async with two.listening():
                    pass
        async with two.listening():
            addresses = [peers.address for peers in (one, two)]
            with pytest.raises(StartupError):
                async with three.listening():
                    pass
    assert addresses == [f"gateway.internal:{port}", f"gateway.internal:{port + 1}"]


async def test_an_address_that_nobody_can_dial_stops_the_start(two_members):
    gateway = two_members[0].gateway
    issuer = new_issuer("peers")
    contexts = peer_contexts(issuer.pem, issuer.peer(gateway.instance, days=1))
    peers = Peers(gateway, PipeSettings(peer_listen="0.0.0.0:0"), echo, contexts=contexts)
    with pytest.raises(ConfigError, match="PEER_HOST"):
        async with peers.listening():
            pass


async def test_strangers_cannot_connect_to_the_port_for_gateways(two_members):
    here, there = two_members
    authority = Authority(here.gateway.db, here.gateway.keyring, PipeSettings())
    issuer = await authority.issuer(Purpose.PEERS)
    stranger = new_issuer("peers")
    anonymous = ssl.create_default_context(cadata=issuer.pem)
    anonymous.check_hostname = False
    contexts = [
        anonymous,
        peer_contexts(issuer.pem, stranger.peer(here.gateway.instance, days=1)).client,
    ]
    async with ClientSession() as session:
        for context in contexts:
            with pytest.raises((ClientError, ConnectionError)):
                await session.get(f"https://{there.peers.address}/", ssl=context)


async def test_a_drain_lets_calls_from_other_gateways_end(two_members):
    here, there = two_members
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        asked.set()
        await go_on.wait()
        await incoming.answer(Head(), b"done")

    async with there.holding("node1", slow):
        link = await here.link_to("node1", there)

        async def call() -> bytes:
            async with link.call(of("node1")) as answer:
                return await answer.read(100)

        called = asyncio.create_task(call())
        await asked.wait()
        there.gateway.closing.set()
        await link.leaving()
        go_on.set()
        assert await called == b"done"


async def test_a_second_signal_cuts_what_other_gateways_still_wait_for(make_member):
    async def never(incoming: Incoming) -> None:
        await asyncio.Event().wait()

    async with make_member() as here:
        async with make_member(drain_timeout_s=3600.0) as there, there.holding("node1", never):
            link = await here.link_to("node1", there)
            call = asyncio.create_task(link.call(of("node1")).__aenter__())
            while not here.peers.outgoing._kept[there.gateway.instance].link.streams:
                await asyncio.sleep(0)
            there.gateway.cut.set()
        with pytest.raises((LinkLost, StreamReset)):
            await call
