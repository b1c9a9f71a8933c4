"""Connections whose right is gone are ended."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from gateway_core.auth.store import TOPIC, NewClient
from gateway_core.db.engine import Database
from gateway_core.errors import Forbidden
from gateway_pipe.hub.nodes import Via
from gateway_pipe.link.model import Goodbye, LinkLost
from gateway_pipe.tables import revocations
from tests.pipe.hub_stand import eventually, hub_stand, silent

pytest_plugins = ["tests.pipe.databases"]


@pytest.fixture
async def stand(tmp_path, pipe_sqlite_file):
    async with hub_stand(tmp_path, pipe_sqlite_file) as stood:
        yield stood


async def revoke(url, name, **values):
    """As another process does that tells nobody."""
    database = Database(url)
    async with database.write() as tx:
        await tx.execute(sa.delete(revocations))
        await tx.execute(sa.insert(revocations).values({"name": name, "revoked": database.now(), **values}))
    await database.close()


async def test_a_revoked_node_is_cut_at_once_whoever_revoked_it(stand):
    node = await stand.connect(serve=silent)
    other = await stand.connect("node2")
    running = stand.keep(stand.ask())
    await eventually(lambda: node.link.streams == 1)
    await revoke(stand.gateway.settings.database_url, "node1")
    began = time.monotonic()
    assert (await node.farewell()).code is Goodbye.REVOKED
    with pytest.raises(LinkLost):
        await running
    await node.gone()
    assert time.monotonic() - began < 1.5
    assert stand.hub.node("node2") is other.entry
    with pytest.raises(Forbidden):
        await stand.connect()


async def test_a_node_that_was_revoked_long_ago_does_not_slip_in(stand):
    await revoke(stand.gateway.settings.database_url, "node1", revoked=time.time() - 1000)
    node = await stand.connect(epoch=1)  # without the look that comes with a number
    assert (await node.farewell()).code is Goodbye.REVOKED


async def test_a_node_that_was_invited_again_may_stay(stand):
    old = await stand.connect()
    await asyncio.sleep(0.01)  # the two connections are on both sides of a moment
    await revoke(stand.gateway.settings.database_url, "node1", lifted=stand.gateway.db.now())
    assert (await old.farewell()).code is Goodbye.REVOKED
    new = await stand.connect()
    await asyncio.wait({stand.keep(new.farewell())}, timeout=0.8)  # longer than from one look to the next
    assert stand.hub.node("node1") is new.entry


async def test_a_certificate_whose_time_is_over_ends_its_connection(stand):
    now = time.time()
    late = await stand.connect("late", not_after=now + 0.1)
    good = await stand.connect("good", not_after=now + 1000)
    assert (await late.farewell()).code is Goodbye.EXPIRED
    assert stand.hub.connected() == [good.entry]


async def by_secret(stand, name, *scopes, expires=None):
    client, _ = await stand.gateway.clients.add(NewClient(f"client of {name}", frozenset(scopes), expires=expires))
    return client, await stand.connect(name, via=Via.SECRET, client_id=client.id)


async def test_a_revoked_client_takes_its_nodes_with_it(stand):
    client, node = await by_secret(stand, "node1", "pipe:connect:node1")
    _, other = await by_secret(stand, "node2", "pipe:connect:*")
    await stand.gateway.clients.revoke(client.name)
    assert (await node.farewell()).code is Goodbye.REVOKED
    assert stand.hub.connected() == [other.entry]


async def test_a_client_without_the_scope_any_more_loses_its_node(stand):
    _, good = await by_secret(stand, "node1", "pipe:*")
    _, bad = await by_secret(stand, "node2", "pipe:connect:node1")
    stand.gateway.wakeups.publish(TOPIC)
    assert (await bad.farewell()).code is Goodbye.REVOKED
    assert stand.hub.connected() == [good.entry]
