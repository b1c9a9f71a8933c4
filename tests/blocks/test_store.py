"""Checksums in the database, on both kinds of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa

from gateway_blocks.files.identity import Identity
from gateway_blocks.plugin import gateway_migrations
from gateway_blocks.sums.layout import BlockLayout
from gateway_blocks.sums.store import Change, FileKey, Place, SumStore, Whole, overlaid
from gateway_blocks.sums.table import BlockTable
from gateway_blocks.tables import files, segments
from gateway_core.db.engine import Database
from gateway_core.db.migrate import CORE, run_migrations
from gateway_core.testing.services import private_postgres, require

BLOCK = 4096
PLACE = Place("host", "/srv/files", BLOCK)
WHOLE = Whole(bytes(20), bytes(32))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_url(request, tmp_path_factory) -> Iterator[str]:
    def migrated(url: str) -> str:
        asyncio.run(run_migrations(url, [CORE, gateway_migrations()]))
        return url

    if request.param == "sqlite":
        yield migrated(f"sqlite:///{tmp_path_factory.mktemp('db') / 'gateway.db'}")
        return
    require("postgres")
    with private_postgres() as server:
        yield migrated(server.create("blocks"))


@pytest.fixture
async def store(database_url) -> AsyncIterator[SumStore]:
    database = Database(database_url)
    async with database.write() as tx:
        await tx.execute(sa.delete(segments))
        await tx.execute(sa.delete(files))
    yield SumStore(database, PLACE)
    await database.close()


def key(name: str = "a.bin", *, version: int = 1, blocks: int = 1000) -> FileKey:
    return PLACE.of(("folder", name), Identity(1, 2**63, blocks * BLOCK, version, version))


def found(indices: range, blocks: int = 1000) -> tuple[dict[int, bytes], list[tuple[int, bytes, bytes]]]:
    digests = {index: os.urandom(20) for index in indices}
    return digests, overlaid(BlockTable(BlockLayout(blocks * BLOCK, BLOCK)), digests)


def table_of(stored_segments, blocks: int = 1000) -> dict[int, bytes]:
    table = BlockTable(BlockLayout(blocks * BLOCK, BLOCK))
    for segment in stored_segments:
        table.load(*segment)
    return {index: digest for index in range(blocks) if (digest := table.get(index)) is not None}


async def count(store: SumStore, table: sa.Table) -> int:
    async with store._db.read() as tx:
        return await tx.scalar(sa.select(sa.func.count()).select_from(table))


async def test_what_was_saved_is_loaded(store):
    digests, rows = found(range(500, 600))
    await store.save([Change(key(), rows, WHOLE)])
    stored = await store.load(key())
    assert table_of(stored.segments) == digests
    assert stored.whole == WHOLE
    assert await store.load(key("b.bin")) is None


async def test_what_comes_later_is_added(store):
    table = BlockTable(BlockLayout(1000 * BLOCK, BLOCK))
    first, second = ({index: os.urandom(20) for index in indices} for indices in (range(10), range(10, 700)))
    await store.save([Change(key(), overlaid(table, first))])
    for index, digest in first.items():
        table.set(index, digest)
    await store.save([Change(key(), overlaid(table, second))])
    stored = await store.load(key())
    assert table_of(stored.segments) == first | second
    assert stored.whole is None


async def test_a_new_version_takes_the_place_of_the_old_one(store):
    _, rows = found(range(1000))
    await store.save([Change(key(version=1), rows), Change(key("other"), rows)])
    digests, rows = found(range(3))
    await store.save([Change(key(version=2), rows)])
    assert await store.load(key(version=1)) is None
    assert table_of((await store.load(key(version=2))).segments) == digests
    assert await store.load(key("other")) is not None
    assert await count(store, files) == 2
    assert await count(store, segments) == 3


async def test_other_places_have_keys_of_their_own(store):
    identity = Identity(1, 2, 3, 4, 5)
    places = [
        PLACE,
        Place("other", "/srv/files", BLOCK),
        Place("host", "/srv", BLOCK),
        Place("host", "/srv/files", 8192),
    ]
    assert len({place.of(("a",), identity).id for place in places}) == 4
    assert len({place.of(("a",), identity).spot for place in places}) == 4
    assert PLACE.of(("a", "b"), identity) != PLACE.of(("a\\", "b"), identity)


async def test_names_that_are_no_utf8_are_kept(store):
    odd = PLACE.of(("\udcff\udc80",), Identity(1, 2, BLOCK, 4, 5))
    _, rows = found(range(1), blocks=1)
    await store.save([Change(odd, rows)])
    assert (await store.load(odd)) is not None


async def test_what_is_forgotten_is_gone(store):
    _, rows = found(range(1000))
    await store.save([Change(key(), rows)])
    await store.forget(key().id)
    assert await store.load(key()) is None
    assert await count(store, segments) == 0


async def test_what_nobody_asked_for_in_a_long_time_is_swept(store):
    _, rows = found(range(1000))
    await store.save([Change(key("old"), rows), Change(key("new"), rows)])
    async with store._db.write() as tx:
        await tx.execute(sa.update(files).where(files.c.id == key("old").id).values(used=store._db.now() - 90_000))
    assert await store.sweep(100_000) == 0
    assert await store.sweep(80_000) == 1
    assert await store.load(key("old")) is None
    assert await store.load(key("new")) is not None
    assert await count(store, segments) == 2


async def test_loading_counts_as_use(store):
    _, rows = found(range(1))
    await store.save([Change(key(), rows)])
    async with store._db.write() as tx:
        await tx.execute(sa.update(files).values(used=store._db.now() - 90_000))
    await store.load(key())
    assert await store.sweep(80_000) == 0


async def test_savers_of_one_file_do_not_stand_in_each_others_way(store):
    digests, rows = found(range(1000))
    await asyncio.gather(*(store.save([Change(key(), rows)]) for _ in range(8)))
    assert table_of((await store.load(key())).segments) == digests
