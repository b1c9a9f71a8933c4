"""Nodes that come and go: the newest connection counts, and everybody is told."""

from __future__ import annotations

import asyncio
import time
from itertools import count, pairwise

import pytest

from gateway_core.errors import Conflict, NotFound, Unavailable
from gateway_pipe.hub.admission import Admission
from gateway_pipe.hub.hub import Hub
from gateway_pipe.hub.nodes import Match
from gateway_pipe.hub.presence import Presence
from gateway_pipe.hub.ticker import Ticker
from gateway_pipe.link.model import Goodbye, Head, LinkLost
from gateway_pipe.settings import PipeSettings
from tests.pipe.hub_stand import Directories, eventually, hub_stand, noun, saying, silent

pytest_plugins = ["tests.pipe.databases"]
_NUMBERS = count()


@pytest.fixture
async def stand(tmp_path, pipe_sqlite_file):
    async with hub_stand(tmp_path, pipe_sqlite_file) as stood:
        yield stood


async def test_calls_go_to_the_newest_connection_of_a_node(stand):
    await stand.connect(serve=saying(b"old"))
    await stand.connect(serve=saying(b"new"))
    assert await stand.ask() == b"new"


async def test_a_replaced_connection_is_told_and_cut_after_a_second(stand):
    old = await stand.connect(serve=silent)
    running = stand.keep(stand.ask())
    await eventually(lambda: old.link.streams == 1)
    began = time.monotonic()
    new = await stand.connect()
    assert (await old.farewell()).code is Goodbye.REPLACED
    with pytest.raises(LinkLost):
        await running
    await old.gone()
    assert 0.8 < time.monotonic() - began < 3
    assert stand.hub.node("node1") is new.entry


async def test_a_connection_with_an_older_number_loses(stand):
    first, second = [await stand.hub.next_epoch("node1", "1.0") for _ in range(2)]
    await stand.connect(serve=saying(b"second"), epoch=second)
    with pytest.raises(Conflict):
        await stand.connect(serve=saying(b"first"), epoch=first)
    assert await stand.ask() == b"second"


async def test_the_end_of_an_old_connection_does_not_remove_the_new_one(stand):
    old = await stand.connect()
    new = await stand.connect()
    old.wire.cut()
    await old.gone()
    assert stand.hub.node("node1") is new.entry


async def test_a_connection_that_breaks_is_removed(stand):
    node = await stand.connect()
    node.wire.cut()
    await node.gone()
    assert stand.hub.node("node1") is None
    assert await stand.hub.nodes() == []


async def test_a_node_that_falls_silent_is_removed_after_three_heartbeats(tmp_path, pipe_sqlite_file):
    async with hub_stand(tmp_path, pipe_sqlite_file, ping_s=0.2) as stand:
        node = await stand.connect()
        began = time.monotonic()
        await node.entry.link.closed()  # nobody ticks the node's end, so it never pings
        assert time.monotonic() - began < 2.0
        await eventually(lambda: stand.hub.node("node1") is None)


async def test_handlers_hear_of_connections_in_order(stand):
    one = await stand.connect()
    await stand.connect("node2")
    await stand.connect()
    one.wire.cut()
    await one.gone()
    assert stand.told == [
        ("connection_added", "node1", 1),
        ("connection_added", "node2", 2),
        ("connection_removed", "node1", 1),
        ("connection_added", "node1", 2),
    ]


async def test_observers_of_events_hear_why_a_node_has_gone(stand):
    node = await stand.connect()
    await stand.connect()
    stand.hub.drop("node1", Goodbye.REVOKED)
    broken = await stand.connect("node2")
    broken.wire.cut()
    await broken.gone()
    await node.gone()
    told = [(event.name, event.data["node"]) for event in stand.events if event.name.startswith("pipe.")]
    assert told == [
        ("pipe.node.connected", "node1"),
        ("pipe.node.replaced", "node1"),
        ("pipe.node.connected", "node1"),
        ("pipe.node.revoked", "node1"),
        ("pipe.node.connected", "node2"),
        ("pipe.node.gone", "node2"),
    ]


async def test_a_handler_hears_each_minute_that_nobody_is_connected(stand):
    told = []
    presence = Presence(stand.gateway, lambda *arguments: told.append(arguments))
    stand.keep(presence.run(every_s=0.02))
    await eventually(lambda: len(told) >= 2)
    (hook, since, seconds), (_, later_since, more) = told[:2]
    assert (hook, later_since) == ("idle", since)
    assert 0.02 <= seconds < more
    node = await stand.connect()
    presence.came(node.entry, 1)
    told.clear()
    await asyncio.sleep(0.1)
    assert told == []


async def test_an_observer_that_fails_keeps_no_node_from_coming(stand):
    seen = []
    stand.hub.on_attach(lambda node: seen.append(1 / 0))
    stand.hub.on_attach(lambda node: seen.append(node.name))
    stand.hub.on_detach(lambda node: seen.append(stand.hub.node(node.name)))
    node = await stand.connect()
    node.wire.cut()
    await node.gone()
    assert seen == ["node1", None]


async def test_nodes_are_listed_with_what_they_said(stand):
    node = await stand.connect(hello={"tags": ("web",), "apps": ("shop",), "nouns": ("time",)}, address="192.0.2.7")
    node.entry.link.traffic.rtt_s = 0.0125
    (info,) = await stand.hub.nodes()
    assert info.described() == {
        "name": "node1",
        "since": node.entry.since,
        "nouns": ["time"],
        "apps": ["shop"],
        "tags": ["web"],
        "rtt_ms": 12.5,
        "version": "1.0",
        "via": "certificate",
        "address": "192.0.2.7",
        "gateway": stand.gateway.instance,
    }


async def test_a_group_is_a_tag_or_a_pattern_with_those_that_are_away(stand):
    for name, tags in (("web1", ("blue",)), ("web2", ()), ("db1", ("blue",))):
        await stand.connect(name, hello={"tags": tags})
    away = await stand.connect("web3", hello={"tags": ("blue",)})
    away.wire.cut()
    await away.gone()
    here, gone = True, False
    assert await stand.hub.matching("blue") == [Match("db1", here), Match("web1", here)]
    assert await stand.hub.matching("web*") == [Match("web1", here), Match("web2", here), Match("web3", gone)]
    assert await stand.hub.matching("web[13]") == [Match("web1", here), Match("web3", gone)]
    assert await stand.hub.matching("web3") == [Match("web3", gone)]
    assert await stand.hub.matching("nobody") == []


async def test_a_node_that_connects_to_another_gateway_leaves_this_one(tmp_path, pipe_sqlite_file):
    both = Directories()
    async with hub_stand(tmp_path, pipe_sqlite_file, directory=both.one) as stand:
        other = Hub(stand.gateway, PipeSettings(), directory=both.two)
        old = await stand.connect()
        await stand.connect(hub=other)
        assert (await old.farewell()).code is Goodbye.REPLACED
        assert stand.hub.node("node1") is None
        assert [info.epoch for info in await stand.hub.nodes()] == [2]
        await other.stop()


async def test_other_gateways_hear_of_round_trips_in_turns(tmp_path, pipe_sqlite_file):
    both = Directories()
    async with hub_stand(tmp_path, pipe_sqlite_file, directory=both.one) as stand:
        nodes = [await stand.connect(f"node{number}") for number in range(40)]
        for node in nodes:
            node.entry.link.traffic.rtt_s = 0.001
        told = [sum(info.rtt_ms is not None for info in both.one.held.values())]
        for turn in range(30):
            stand.hub.announce_again(turn)
            told.append(sum(info.rtt_ms is not None for info in both.one.held.values()))
        assert told[0] == 0
        assert told[-1] == 40
        assert max(after - before for before, after in pairwise(told)) == 2


async def test_while_draining_no_node_is_taken(stand):
    stand.gateway.draining.set()
    with pytest.raises(Unavailable) as refused:
        async with stand.hub.admitted("node1"):
            raise AssertionError
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 5
    with pytest.raises(Unavailable):
        await stand.connect()


async def test_when_the_gateway_closes_nodes_go_at_different_times_and_running_calls_end(stand):
    may_answer = asyncio.Event()

    async def slow(incoming):
        await may_answer.wait()
        await incoming.answer(Head(), b"late")

    nodes = [await stand.connect(f"node{number}", slow) for number in range(1, 30)]
    running = stand.keep(stand.ask())
    await eventually(lambda: nodes[0].link.streams == 1)
    stand.gateway.draining.set()
    stand.gateway.closing.set()
    farewells = [await node.farewell() for node in nodes]
    assert {farewell.code for farewell in farewells} == {Goodbye.SHUTDOWN}
    assert len({farewell.retry_after_s for farewell in farewells}) > 20
    assert stand.hub.connected() == []
    may_answer.set()
    assert await running == b"late"
    await nodes[0].gone()


async def test_a_second_signal_cuts_running_calls(stand):
    await stand.connect(serve=silent)
    running = stand.keep(stand.ask())
    await eventually(lambda: stand.hub.node("node1").link.streams == 1)
    stand.gateway.closing.set()
    stand.gateway.cut.set()
    with pytest.raises(LinkLost):
        await running


async def test_only_so_many_nodes_shake_hands_at_once():
    admission, inside, leave = Admission(2), 0, asyncio.Event()

    async def enter():
        nonlocal inside
        async with admission.admitted(f"node{next(_NUMBERS)}"):
            inside += 1
            await leave.wait()

    tasks = [asyncio.create_task(enter()) for _ in range(6)]
    await asyncio.wait(tasks, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
    refused = [task for task in tasks if task.done()]
    assert (inside, len(refused)) == (2, 2)
    leave.set()
    await asyncio.wait(tasks)
    assert inside == 4
    assert all(isinstance(task.exception(), Unavailable) for task in refused)


async def test_the_more_are_refused_the_later_they_are_told_to_come_again():
    admission = Admission(1)

    async def told() -> int:
        with pytest.raises(Unavailable) as refused:
            async with admission.admitted(f"node{next(_NUMBERS)}"):
                raise AssertionError
        return int(refused.value.headers["Retry-After"])

    async with admission.admitted(f"node{next(_NUMBERS)}"):
        queued = asyncio.create_task(_pass(admission))
        await asyncio.sleep(0)
        first = await told()
        waits = [await told() for _ in range(300)]
    await queued
    assert first <= 2
    assert set(waits[100:]) == set(range(1, 11))


async def _pass(admission):
    async with admission.admitted(f"node{next(_NUMBERS)}"):
        pass


async def test_a_place_is_free_again_when_a_handshake_is_given_up():
    admission = Admission(1)
    leave = asyncio.Event()

    async def enter():
        async with admission.admitted(f"node{next(_NUMBERS)}"):
            await leave.wait()

    inside, queued = asyncio.create_task(enter()), asyncio.create_task(enter())
    await asyncio.sleep(0)
    inside.cancel()
    queued.cancel()
    await asyncio.wait({inside, queued})
    async with asyncio.timeout(1):
        await _pass(admission)


class Ticked:
    """Counts its ticks; a ``bad`` one fails at each."""

    def __init__(self, *, bad: bool) -> None:
        self.bad, self.ticks = bad, 0

    def tick(self, now: float) -> None:
        self.ticks += 1
        if self.bad:
            raise OverflowError(now)


async def test_a_link_that_cannot_be_ticked_stops_no_other():
    ticker, links = Ticker(0.01), [Ticked(bad=number == 3) for number in range(1200)]
    for link in links:
        ticker.add(link)
    task = asyncio.create_task(ticker.run())
    await eventually(lambda: all(link.ticks >= 2 for link in links))
    ticker.discard(links[0])
    before = links[0].ticks
    await eventually(lambda: links[1].ticks > before + 2)
    assert links[0].ticks == before
    task.cancel()
    await asyncio.wait({task})


async def test_nobody_is_found_before_anybody_came(stand):
    with pytest.raises(NotFound):
        async with stand.hub.call("node1", noun()):
            raise AssertionError
