"""Calls of nodes: here, elsewhere, away, and on links that break."""

from __future__ import annotations

import asyncio
import re
import socket
import time

import pytest

from gateway_core.errors import NotFound, Unavailable
from gateway_pipe.handlers.statsd import Statsd
from gateway_pipe.hub.directory import LocalDirectory
from gateway_pipe.hub.hub import Hub
from gateway_pipe.hub.metrics import CALLS
from gateway_pipe.hub.waiting import WaitingCalls
from gateway_pipe.link.model import (
    DeadlinePassed,
    Farewell,
    Goodbye,
    Head,
    LinkLost,
    Reset,
    StreamReset,
)
from gateway_pipe.settings import PipeSettings
from tests.pipe.hub_stand import Directories, eventually, hub_stand, noun, saying, silent

pytest_plugins = ["tests.pipe.databases"]


@pytest.fixture
async def stand(tmp_path, pipe_sqlite_file):
    async with hub_stand(tmp_path, pipe_sqlite_file) as stood:
        yield stood


@pytest.fixture
async def both(tmp_path, pipe_sqlite_file):
    """A stand, and the hub of another gateway whose nodes it can reach."""
    sides = Directories()
    async with hub_stand(tmp_path, pipe_sqlite_file, directory=sides.one) as stood:
        other = Hub(stood.gateway, PipeSettings(), directory=sides.two)
        yield stood, other, sides
        await other.stop()


def counted(outcome: str) -> float:
    return CALLS.labels(outcome)._value.get()


async def leave(stand, node):
    node.wire.cut()
    await node.gone()
    return node


async def echo(incoming):
    await incoming.answer(Head(), await incoming.read(1 << 20))


async def test_a_call_is_answered(stand):
    await stand.connect(serve=echo)
    before = counted("answered")
    assert await stand.ask(body=b"hello") == b"hello"
    assert counted("answered") == before + 1


async def test_a_call_tells_how_long_it_waited_and_how_long_the_node_took(stand):
    await stand.connect()
    async with stand.hub.call("node1", noun()) as called:
        assert called.via == ""
        assert 0 <= called.timings["wait"] < 1000
        assert 0 < called.timings["link"] < 1000


async def test_statsd_gets_restpipes_names_for_calls(stand):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        statsd = Statsd(server.getsockname())
        hub = Hub(stand.gateway, PipeSettings(), directory=LocalDirectory(), statsd=statsd)
        await stand.connect(hub=hub)
        async with hub.call("node1", noun()):
            pass
        lines = [server.recv(100).decode() for _ in range(2)]
        statsd.close()
        await hub.stop()
    assert lines[0] == "message.send.tick:1|c"
    assert re.fullmatch(r"message\.send\.timing:\d+\.\d+\|ms", lines[1])


async def test_a_name_that_was_never_connected_is_not_found(stand):
    for name in ("nobody", "not a name", ""):
        with pytest.raises(NotFound):
            await stand.ask(name)


async def test_a_call_of_a_node_that_is_away_waits_for_it(stand):
    await leave(stand, await stand.connect())
    waiting = stand.keep(stand.ask(wait_s=9))
    await eventually(lambda: len(stand.hub.waiting) == 1)
    began = time.monotonic()
    await stand.connect(serve=saying(b"back"))
    assert await waiting == b"back"
    assert time.monotonic() - began < 0.9
    assert len(stand.hub.waiting) == 0


async def test_a_node_that_stays_away_is_unavailable_for_now(stand):
    await leave(stand, await stand.connect())
    before = counted("away")
    with pytest.raises(Unavailable) as error:
        await stand.ask(wait_s=0.05)
    assert error.value.headers["Retry-After"] == "5"
    assert counted("away") == before + 1


async def test_a_call_waits_no_longer_for_a_node_than_for_its_answer(stand):
    await leave(stand, await stand.connect())
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await stand.ask(timeout_s=0.05)
    assert time.monotonic() - began < 1


async def test_a_caller_who_goes_away_leaves_nothing(stand):
    await leave(stand, await stand.connect())
    waiting = stand.keep(stand.ask())
    await eventually(lambda: len(stand.hub.waiting) == 1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert len(stand.hub.waiting) == 0
    answering = await stand.connect(serve=silent)
    running = stand.keep(stand.ask())
    await eventually(lambda: answering.link.streams == 1)
    running.cancel()
    await eventually(lambda: answering.link.streams == 0)


async def test_time_that_was_waited_is_taken_off_the_callers_time(stand):
    await leave(stand, await stand.connect())
    seen = []

    async def tell(incoming):
        seen.append(incoming.opening.timeout_ms)
        await incoming.answer(Head())

    async def call():
        async with stand.hub.call("node1", noun(timeout_ms=5000), wait_s=5):
            pass

    waiting = stand.keep(call())
    await eventually(lambda: len(stand.hub.waiting) == 1)
    await asyncio.sleep(0.1)
    await stand.connect(serve=tell)
    await waiting
    assert 1000 < seen[0] <= 4900


async def test_only_so_many_calls_wait_for_one_node():
    waiting = WaitingCalls(most=2)
    with waiting.place("node1"), waiting.place("node1"), waiting.place("node2"):
        assert len(waiting) == 3
        with pytest.raises(Unavailable), waiting.place("node1"):
            raise AssertionError
    assert len(waiting) == 0
    with waiting.place("node1") as changed:
        waiting.wake("node2")
        assert not changed.is_set()
        waiting.wake("node1")
        assert changed.is_set()


async def test_when_the_gateway_closes_nobody_waits_for_a_node(stand):
    await leave(stand, await stand.connect())
    waiting = stand.keep(stand.ask())
    await eventually(lambda: len(stand.hub.waiting) == 1)
    began = time.monotonic()
    stand.gateway.closing.set()
    with pytest.raises(Unavailable) as error:
        await waiting
    assert time.monotonic() - began < 0.8  # of what is left until the next look
    assert error.value.headers["Retry-After"] == "1"


async def test_a_call_over_a_link_that_is_about_to_end_goes_over_the_next_one(stand):
    old = await stand.connect(serve=saying(b"old"))
    old.link.say_goodbye(Farewell(Goodbye.SHUTDOWN, "restarting"))
    await eventually(lambda: not old.entry.link.alive)
    calling = stand.keep(stand.ask(body=b"x"))
    await eventually(lambda: len(stand.hub.waiting) == 1)
    await stand.connect(serve=saying(b"new"))
    assert await calling == b"new"


async def test_a_call_that_the_node_may_have_begun_is_not_made_again(stand):
    node = await stand.connect(serve=silent)
    calling = stand.keep(stand.ask())
    await eventually(lambda: node.link.streams == 1)
    before = counted("lost")
    node.wire.cut()
    with pytest.raises(LinkLost):
        await calling
    assert counted("lost") == before + 1


async def test_a_node_with_too_many_calls_refuses_at_once(stand):
    node = await stand.connect(serve=silent, hello={"streams": 1})
    first = stand.keep(stand.ask())
    await eventually(lambda: node.link.streams == 1)
    began = time.monotonic()
    with pytest.raises(StreamReset) as error:
        await stand.ask()
    assert error.value.code is Reset.REFUSED
    assert time.monotonic() - began < 1
    first.cancel()


async def test_a_body_that_was_begun_is_not_sent_again(stand):
    old = await stand.connect()
    old.wire.other.frozen = True  # nothing of what follows reaches the node
    stuck = stand.keep(stand.ask())
    await eventually(lambda: old.entry.link.streams == 1)
    begun = asyncio.Event()

    async def body():
        begun.set()
        yield b"one"
        yield b"two"

    calling = stand.keep(stand.ask(body=body()))
    await begun.wait()
    old.wire.cut()
    await stand.connect(serve=echo)
    with pytest.raises(LinkLost) as error:
        await calling
    assert not error.value.started
    await asyncio.wait({stuck})


async def test_a_body_that_was_not_begun_goes_over_the_next_link(stand):
    old = await stand.connect()
    old.link.say_goodbye(Farewell(Goodbye.SHUTDOWN, "restarting"))
    await eventually(lambda: not old.entry.link.alive)

    async def body():
        yield b"one"
        yield b"two"

    calling = stand.keep(stand.ask(body=body()))
    await stand.connect(serve=echo)
    assert await calling == b"onetwo"


async def test_an_answer_that_does_not_begin_in_time_is_given_up(stand):
    node = await stand.connect(serve=silent)
    before = counted("deadline")
    with pytest.raises(DeadlinePassed):
        await stand.ask(timeout_s=0.05)
    assert counted("deadline") == before + 1
    await eventually(lambda: node.link.streams == 0)


async def test_an_answer_that_is_wanted_whole_must_end_in_time(stand):
    async def slow(incoming):
        async def body():
            yield b"begun"
            await asyncio.get_running_loop().create_future()

        await incoming.answer(Head(), body())

    await stand.connect(serve=slow)
    with pytest.raises(DeadlinePassed):
        await stand.ask(timeout_s=0.1, whole=True)


async def test_a_caller_who_fails_is_no_failure_of_the_node(stand):
    await stand.connect()
    before = counted("left")
    with pytest.raises(ZeroDivisionError):
        async with stand.hub.call("node1", noun()):
            raise ZeroDivisionError
    assert counted("left") == before + 1


async def passing_on(stand, other, sides):
    """Let calls for the other hub's nodes reach it as between gateways; what it answers names the node."""

    async def serve(incoming):
        node = other.node(incoming.opening.node)
        if node is None:
            await incoming.refuse(Reset.REFUSED, "not here")
            return
        async with node.link.call(incoming.opening, incoming) as answer:
            await incoming.answer(answer.head, answer)

    between = await stand.connect("between", serve)
    sides.one.link = between.entry.link
    return between


async def test_a_node_of_another_gateway_is_called_by_name_over_the_link_to_there(both):
    stand, other, sides = both
    await passing_on(stand, other, sides)
    await stand.connect(hub=other, serve=saying(b"from there"))
    async with stand.hub.call("node1", noun()) as called:
        assert called.answer.head.header("X-Node") == "node1"
        assert await called.answer.read(100) == b"from there"
        assert called.via == stand.gateway.instance


async def test_who_waits_is_woken_when_the_node_connects_to_another_gateway(both):
    stand, other, sides = both
    await passing_on(stand, other, sides)
    await leave(stand, await stand.connect())
    waiting = stand.keep(stand.ask())
    await eventually(lambda: len(stand.hub.waiting) == 1)
    began = time.monotonic()
    await stand.connect(hub=other, serve=saying(b"there"))
    assert await waiting == b"there"
    assert time.monotonic() - began < 0.9


async def test_a_gateway_that_has_lost_the_node_sends_the_call_back(both):
    stand, other, sides = both
    await passing_on(stand, other, sides)
    lost = await stand.connect(hub=other)
    there = dict(sides.two.held)
    lost.wire.cut()
    await lost.gone()
    sides.two.held.update(there)  # it has not been heard yet
    waiting = stand.keep(stand.ask())
    await eventually(lambda: len(stand.hub.waiting) == 1)
    await stand.connect(serve=saying(b"here now"))
    assert await waiting == b"here now"


async def test_a_broken_link_between_gateways_is_made_anew(both):
    stand, other, sides = both
    broken = await passing_on(stand, other, sides)
    await stand.connect(hub=other, serve=saying(b"from there"))
    broken.wire.cut()
    await broken.gone()

    class Redialling:
        """The dead link, and from the second time on a new one."""

        def __init__(self):
            self.asked = 0

        async def __call__(self, info):
            self.asked += 1
            if self.asked == 2:
                await passing_on(stand, other, sides)
            return sides.one.link

    sides.one.link_to = Redialling()
    assert await stand.ask() == b"from there"


async def test_a_gateway_that_cannot_be_reached_is_as_if_the_node_were_away(both):
    stand, other, sides = both
    await stand.connect(hub=other)

    async def unreachable(info):
        raise Unavailable(info.gateway)

    sides.one.link_to = unreachable
    with pytest.raises(Unavailable) as error:
        await stand.ask(wait_s=0.05)
    assert error.value.headers["Retry-After"] == "5"


async def test_a_node_that_comes_while_its_old_gateway_is_dialled_is_called_here(both):
    stand, other, sides = both
    await stand.connect(hub=other, serve=saying(b"there"))

    async def slow(info):
        await stand.connect(serve=saying(b"here"))
        return (await stand.connect("between")).entry.link

    sides.one.link_to = slow
    assert await stand.ask() == b"here"
