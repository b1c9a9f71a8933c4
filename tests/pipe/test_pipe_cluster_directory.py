"""Who holds which node: Redis says it again, whatever happens to it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from sqlalchemy import insert

from gateway_core import Degraded
from gateway_core.db.clock import now
from gateway_pipe.cluster.registry import PREFIX
from gateway_pipe.hub.directory import NodeInfo
from gateway_pipe.tables import nodes
from tests.pipe.links import nobody
from tests.pipe.members import NEVER_S, QUICK

pytest_plugins = ["tests.pipe.clusters"]

SILENT = replace(QUICK, beat_s=NEVER_S, compare_s=NEVER_S)
"""Says once what it holds, and then nothing any more."""
NEVER_COMPARES = replace(QUICK, compare_s=NEVER_S)
ONLY_WHEN_CONNECTED = replace(SILENT, life_s=NEVER_S)
"""Says what it holds again after the connection to Redis was lost, and at no other time."""


async def test_a_node_of_another_gateway_is_found_as_it_described_itself(two_members):
    here, there = two_members
    async with there.holding("node1", nobody, epoch=7, nouns=("time", "cat"), tags=("blue",), rtt_ms=1.5) as _:
        info = await here.finds("node1", at=there)
        expected = NodeInfo(
            name="node1",
            epoch=7,
            since=1.0,
            nouns=("time", "cat"),
            tags=("blue",),
            rtt_ms=1.5,
            gateway=there.gateway.instance,
        )
        assert info == expected
        assert await here.directory.everywhere() == [expected]


async def test_a_gateway_does_not_find_its_own_nodes_elsewhere(two_members):
    here, there = two_members
    async with there.holding("node1", nobody):
        await here.finds("node1", at=there)
        assert await there.directory.where("node1") is None
        assert await there.directory.everywhere() == []


async def test_others_hear_who_comes_and_goes(two_members):
    here, there = two_members
    async with there.holding("node1", nobody, epoch=3):
        await here.hears("node1", 3)
    await here.hears("node1", 0)
    assert await here.directory.where("node1") is None
    assert there.changes == set()


async def test_the_newest_connection_wins(make_member):
    async with make_member(pace=NEVER_COMPARES) as here, make_member(pace=NEVER_COMPARES) as there:
        here.directory.announce(NodeInfo(name="node1", epoch=1, since=1.0))
        await there.finds("node1", at=here)
        there.directory.announce(NodeInfo(name="node1", epoch=2, since=1.0))
        await here.hears("node1", 2)
        assert (await here.finds("node1", at=there)).epoch == 2


async def test_an_old_connection_is_never_put_in_the_place_of_a_newer_one(make_member):
    async with make_member(pace=NEVER_COMPARES) as here, make_member(pace=NEVER_COMPARES) as there:
        there.directory.announce(NodeInfo(name="node1", epoch=2, since=1.0))
        await here.hears("node1", 2)
        here.changes.clear()
        here.directory.announce(NodeInfo(name="node1", epoch=1, since=1.0))
        await here.hears("node1", 2)  # told once more, as it seems not to know
        assert (await here.directory.where("node1")).epoch == 2
        assert await there.directory.where("node1") is None


async def test_the_end_of_an_old_connection_does_not_take_out_the_new_one(two_members):
    here, there = two_members
    async with here.holding("node1", nobody, epoch=1):
        await there.finds("node1", at=here)
        there.directory.announce(NodeInfo(name="node1", epoch=2, since=1.0))
        await here.finds("node1", at=there)
    here.directory.announce(NodeInfo(name="marker", epoch=1, since=1.0))
    await there.hears("marker", 1)
    assert (await here.directory.where("node1")).epoch == 2


async def test_a_late_withdrawal_leaves_a_newer_connection_to_the_same_gateway(two_members):
    here, there = two_members
    there.directory.announce(NodeInfo(name="node1", epoch=1, since=1.0))
    there.directory.announce(NodeInfo(name="node1", epoch=2, since=1.0))
    there.directory.withdraw("node1", 1)
    await here.hears("node1", 2)
    assert (await here.directory.where("node1")).epoch == 2


async def test_a_message_that_got_lost_is_made_up_for_by_the_database(two_members):
    here, _ = two_members
    async with here.holding("node1", nobody, epoch=1):
        row = {"name": "node1", "epoch": 5, "version": "", "first_seen": now(), "last_seen": now()}
        async with here.gateway.db.write() as tx:
            await tx.execute(insert(nodes).values(**row))
        await here.hears("node1", 5)


async def test_nodes_of_a_gateway_that_fell_silent_vanish(make_member):
    async with make_member() as here, make_member(pace=SILENT) as silent, silent.holding("node1", nobody):
        await here.finds("node1", at=silent)
        await here.finds("node1", at=None)
        assert await here.directory.everywhere() == []


async def test_nodes_of_a_gateway_that_leaves_are_gone_at_once(make_member):
    async with make_member(pace=replace(QUICK, life_s=NEVER_S)) as here:
        async with make_member() as leaving:
            leaving.directory.announce(NodeInfo(name="node1", epoch=1, since=1.0))
            await here.finds("node1", at=leaving)
        assert await here.directory.where("node1") is None


async def test_a_node_of_a_dead_gateway_connects_to_another_with_any_epoch(make_member):
    async with make_member() as here, make_member() as there, make_member(pace=SILENT) as silent:
        silent.directory.announce(NodeInfo(name="node1", epoch=9, since=1.0))
        await here.finds("node1", at=silent)
        there.directory.announce(NodeInfo(name="node1", epoch=8, since=1.0))
        await here.finds("node1", at=there)


async def test_thousands_of_nodes_are_told_and_found(two_members):
    here, there = two_members
    names = [f"node{number}" for number in range(1201)]
    for name in names:
        there.directory.announce(NodeInfo(name=name, epoch=1, since=1.0))
    for name in names:
        await here.hears(name, 1)
    async with asyncio.timeout(20):  # a loaded machine may miss a beat of half a second, which hides them all a while
        while None in await asyncio.gather(*map(here.directory.where, names)):
            await asyncio.sleep(0.1)
        while {info.name for info in await here.directory.everywhere()} != set(names):
            await asyncio.sleep(0.1)


async def test_everything_is_told_again_when_redis_was_emptied(make_member):
    async with (
        make_member() as here,
        make_member(pace=NEVER_COMPARES) as there,
        there.holding("node1", nobody, epoch=4),
    ):
        await here.finds("node1", at=there)
        here.changes.clear()
        await here.directory._redis.client.flushall()
        await here.hears("node1", 4)  # so that calls which wait for it go on
        assert await here.finds("node1", at=there)


async def test_a_key_that_redis_lost_is_put_back(two_members):
    here, there = two_members
    async with there.holding("node1", nobody):
        await here.finds("node1", at=there)
        client = here.directory._redis.client
        await client.delete(f"{PREFIX}node:node1")
        await here.finds("node1", at=there)
        await client.hdel(f"{PREFIX}at:{there.gateway.instance}", "node1")
        await here.finds("node1", at=there)


async def test_all_is_well_again_after_redis_was_killed(two_members, cluster_redis):
    here, there = two_members
    async with there.holding("node1", nobody, epoch=1):
        await here.finds("node1", at=there)
        assert await here.directory.check() == "other gateway processes: 1"
        cluster_redis.kill()
        try:
            await here.finds("node1", at=None)
            began = time.monotonic()
            assert await here.directory.where("node1") is None
            assert await here.directory.everywhere() == []
            assert time.monotonic() - began < 0.5
            with pytest.raises(Degraded):
                await here.directory.check()
            there.directory.announce(NodeInfo(name="node2", epoch=1, since=1.0))
            there.directory.withdraw("node2", 1)
            there.directory.announce(NodeInfo(name="node3", epoch=1, since=1.0))
        finally:
            cluster_redis.start()
        await here.finds("node1", at=there)
        await here.hears("node3", 1)
        assert await here.directory.where("node2") is None


async def test_everything_is_told_as_soon_as_redis_is_back(make_member, cluster_redis):
    async with make_member() as here, make_member(pace=ONLY_WHEN_CONNECTED) as there, there.holding("node1", nobody):
        await here.finds("node1", at=there)
        cluster_redis.kill()
        cluster_redis.start()
        await here.finds("node1", at=there)


async def test_what_was_missed_while_redis_was_away_is_heard_afterwards(make_member):
    async with make_member(pace=ONLY_WHEN_CONNECTED) as here, make_member() as there:
        there.directory.announce(NodeInfo(name="node1", epoch=1, since=1.0))
        await here.hears("node1", 1)
        here.changes.clear()
        here.directory._on_connected()  # as after a connection that was lost while the others kept theirs
        await here.hears("node1", 1)


async def test_a_redis_that_does_not_answer_holds_nobody_up_for_long(make_member, cluster_redis):
    async with make_member(pace=replace(QUICK, answer_s=0.2)) as here:
        cluster_redis.pause()
        try:
            began = time.monotonic()
            assert await here.directory.where("node1") is None
            assert time.monotonic() - began < 2
        finally:
            cluster_redis.resume()


async def test_installations_on_two_databases_of_one_redis_do_not_hear_each_other(make_member, cluster_redis):
    other_url = cluster_redis.url.removesuffix("/0") + "/1"
    async with make_member() as here, make_member(redis_url=other_url) as stranger, make_member() as there:
        stranger.directory.announce(NodeInfo(name="node1", epoch=9, since=1.0))
        there.directory.announce(NodeInfo(name="node1", epoch=1, since=1.0))
        await here.finds("node1", at=there)
        assert ("node1", 9) not in here.changes
