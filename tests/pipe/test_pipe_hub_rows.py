"""Epochs and known names, on both databases."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from gateway_core.db.engine import AsyncTransaction, Database
from gateway_core.errors import DatabaseError, Forbidden
from gateway_pipe.hub.rows import NodeRows
from gateway_pipe.tables import nodes, revocations

pytest_plugins = ["tests.pipe.databases"]


class CountingDatabase(Database):
    """Counts its writing transactions."""

    writes = 0

    def write(self) -> AsyncTransaction:
        self.writes += 1
        return super().write()


async def test_each_connection_of_a_node_gets_a_higher_epoch(pipe_db):
    rows = NodeRows(pipe_db)
    assert [await rows.next_epoch("node1", "1.0") for _ in range(3)] == [1, 2, 3]
    assert await rows.next_epoch("node2", "1.0") == 1


async def test_connections_of_one_node_to_two_gateways_at_once_get_different_epochs(pipe_db):
    one, two = NodeRows(pipe_db), NodeRows(pipe_db)
    numbers = await asyncio.gather(*(rows.next_epoch("node1", "1.0") for rows in (one, two) for _ in range(5)))
    assert sorted(numbers) == list(range(1, 11))


async def test_two_thousand_nodes_at_once_take_a_few_transactions(pipe_url, pipe_db):
    del pipe_db  # which has emptied the tables
    database = CountingDatabase(pipe_url)
    rows = NodeRows(database)
    names = [f"node{number}" for number in range(2000)]
    numbers = await asyncio.gather(*(rows.next_epoch(name, "1.0") for name in names))
    assert set(numbers) == {1}
    assert database.writes <= 5
    await database.close()


async def test_gateways_that_number_the_same_nodes_in_another_order_do_not_block_each_other(pipe_db):
    one, two = NodeRows(pipe_db), NodeRows(pipe_db)
    names = [f"node{number}" for number in range(400)]
    for turn in range(3):
        asked = [one.next_epoch(name, "1") for name in names] + [two.next_epoch(name, "1") for name in reversed(names)]
        assert sorted(await asyncio.gather(*asked)) == [2 * turn + 1] * 400 + [2 * turn + 2] * 400


async def test_a_revoked_name_gets_no_epoch_and_others_of_its_transaction_do(pipe_db):
    async with pipe_db.write() as tx:
        await tx.execute(sa.insert(revocations).values(name="bad", revoked=1.0))
        await tx.execute(sa.insert(revocations).values(name="lifted", revoked=1.0, lifted=2.0))
    rows = NodeRows(pipe_db)
    bad, good, lifted = await asyncio.gather(
        *(rows.next_epoch(name, "1") for name in ("bad", "good", "lifted")), return_exceptions=True
    )
    assert isinstance(bad, Forbidden)
    assert (good, lifted) == (1, 1)


async def test_who_stops_waiting_for_an_epoch_does_not_disturb_others(pipe_db):
    rows = NodeRows(pipe_db)
    asked = [asyncio.ensure_future(rows.next_epoch(name, "1")) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    asked[1].cancel()
    assert await asked[0] == await asked[2] == 1
    assert await rows.next_epoch("d", "1") == 1


async def test_when_a_connection_ended_is_kept_with_the_version(pipe_db):
    rows = NodeRows(pipe_db)
    await rows.next_epoch("node1", "v" * 100)
    async with pipe_db.write() as tx:
        await tx.execute(sa.update(nodes).values(last_seen=0))
    rows.seen(["node1", "never-there"])
    await rows.close()
    async with pipe_db.read() as tx:
        row = await tx.first(sa.select(nodes))
        moment = await tx.scalar(sa.select(pipe_db.now()))
    assert row.version == "v" * 64
    assert moment - 10 < row.last_seen <= moment + 0.1


async def test_a_name_is_known_once_it_was_connected(pipe_db):
    rows = NodeRows(pipe_db)
    assert not await rows.known("node1")
    await NodeRows(pipe_db).next_epoch("node1", "1")  # by another gateway
    rows.note("node1")  # which said so
    assert await rows.known("node1")
    assert await NodeRows(pipe_db).known("node1")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 200, "\ud800"])
async def test_what_cannot_be_a_name_is_not_known(pipe_db, name):
    assert not await NodeRows(pipe_db).known(name)


async def test_names_are_found_by_what_they_begin_with(pipe_db):
    rows = NodeRows(pipe_db)
    for name in ("web_1", "web-1", "web", "db1"):
        await rows.next_epoch(name, "1")
    assert await rows.names("web_", whole=False) == ["web_1"]
    assert await rows.names("web", whole=False) == ["web", "web-1", "web_1"]
    assert await rows.names("web", whole=True) == ["web"]


async def test_without_a_database_everybody_who_waits_hears_it(pipe_db):
    rows = NodeRows(pipe_db)
    await pipe_db.close()
    told = await asyncio.gather(*(rows.next_epoch(name, "1") for name in "abc"), return_exceptions=True)
    assert all(isinstance(error, DatabaseError) for error in told)
    assert len({id(error) for error in told}) == 3
    rows.seen(["a"])
    await rows.close()
