"""What lasts of archives, on both databases: layouts, losses, CRC-32s, responses, what was learned, and its end."""

from __future__ import annotations

import asyncio
import json
import uuid
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from gateway_archive import tables
from gateway_archive.delivery.tracker import Stores, Tracker
from gateway_archive.layout.frozen import VERSION, Frozen, FrozenEntry
from gateway_archive.layout.model import Segment
from gateway_archive.ledger.journal import Journal, journaled_tickets
from gateway_archive.ledger.layouts import Layouts, Stamp
from gateway_archive.ledger.learned import Learned
from gateway_archive.ledger.responses import ABORTED, RUNNING, Response, Responses
from gateway_archive.ledger.segments import SegmentStore
from gateway_archive.ledger.sweeping import FOLDER, sweep_ledger, sweep_machine, sweep_orphans
from gateway_archive.report import Failure
from gateway_archive.store import TicketStore
from gateway_archive.tickets import Item, Options, Order, TicketType
from gateway_core import Gateway
from gateway_core.app.compose import compose
from gateway_core.auth.keyring import Keyring
from gateway_core.errors import DatabaseError
from gateway_core.gateway import Role
from gateway_core.settings import Inputs
from gateway_core.testing.services import private_postgres, require

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY_S = 86_400.0
ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32
LOST = Failure("x.bin", "https://files.example/x?token=hunter2", "http-500", "http-500: it broke")
FROZEN = Frozen([FrozenEntry(0, "x.bin", 5, validator='"v1"'), FrozenEntry(1, "empty/", 0)], created=1)
OTHER = Frozen([FrozenEntry(0, "x.bin", 6, validator='"v2"')], created=1, failures=[(1, LOST)])


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    options = {"data_dir": folder, "plugins": "archive", **settings}
    gateway = compose(Inputs(options=options), role=Role.CLI).gateway
    gateway.make_data_dir()
    async with gateway.opened():
        await gateway.ensure_schema()
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """A gateway that serves nobody, for all tests of the module: each has tickets and keys of its own."""
    folder = tmp_path_factory.mktemp("ledger")
    if request.param == "sqlite":
        async with opened(folder) as made:
            yield made
        return
    require("postgres")
    with private_postgres() as server:
        async with opened(folder, db_url=server.create("ledger"), secret_key="k" * 32, auto_migrate=True) as made:
            yield made


@pytest.fixture
def ticket() -> str:
    """The id of a ticket that the database does not have."""
    return str(uuid.uuid4())


async def stored_ticket(gateway: Gateway) -> str:
    order = Order(TicketType.ZIP, (Item("https://files.example/x"),), Options())
    return (await TicketStore(gateway, ttl_s=DAY_S).create(order, "somebody")).id


async def age(gateway: Gateway, column: sa.Column[float], key: sa.ColumnElement[bool], by_s: float) -> None:
    async with gateway.db.write() as tx:
        assert await tx.count(sa.update(column.table).where(key).values({column: column - by_s}))


async def column_of(gateway: Gateway, column: sa.Column[Any], key: sa.ColumnElement[bool]) -> Any:
    async with gateway.db.read() as tx:
        return await tx.scalar(sa.select(column).where(key))


async def test_a_stored_layout_comes_back_as_it_was(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    assert await layouts.load(ticket, "zip") is None
    stamp = await layouts.store(ticket, "zip", etag=ONE, frozen=OTHER, after=None)
    loaded = await layouts.load(ticket, "zip")
    assert loaded is not None
    assert loaded[0] == stamp == await layouts.stamp(ticket, "zip") == Stamp(ONE, 1)
    assert list(loaded[1].encode()) == list(OTHER.encode())
    assert await layouts.stamp(ticket, "tar") is None


async def test_a_layout_of_thousands_of_files_comes_back_as_it_was(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    names = (f"{uuid.uuid4()}.bin" for _ in range(3000))
    large = Frozen((FrozenEntry(item, name, item) for item, name in enumerate(names)), created=1)
    await layouts.store(ticket, "zip", etag=ONE, frozen=large, after=None)
    loaded = await layouts.load(ticket, "zip")
    assert loaded is not None
    assert list(loaded[1].encode()) == list(large.encode())


async def test_nothing_of_a_layout_is_stored_in_plain(gateway: Gateway, ticket: str):
    await Layouts(gateway).store(ticket, "zip", etag=ONE, frozen=OTHER, after=None)
    sealed = await column_of(gateway, tables.layouts.c.frozen, tables.layouts.c.ticket_id == ticket)
    plain = zlib.decompress(gateway.keyring.decrypt(sealed))
    assert b"hunter2" in plain
    assert b"hunter2" not in sealed


async def test_of_two_first_layouts_at_once_one_is_stored(gateway: Gateway, ticket: str):
    one, two = Layouts(gateway), Layouts(gateway)
    stamps = await asyncio.gather(
        one.store(ticket, "zip", etag=ONE, frozen=FROZEN, after=None),
        two.store(ticket, "zip", etag=TWO, frozen=OTHER, after=None),
    )
    (winner,) = [stamp for stamp in stamps if stamp is not None]
    assert await one.stamp(ticket, "zip") == winner


async def test_of_two_next_layouts_at_once_one_is_stored(gateway: Gateway, ticket: str):
    one, two = Layouts(gateway), Layouts(gateway)
    first = await one.store(ticket, "zip", etag=ONE, frozen=FROZEN, after=None)
    stamps = await asyncio.gather(
        one.store(ticket, "zip", etag=TWO, frozen=FROZEN, after=first),
        two.store(ticket, "zip", etag=THREE, frozen=OTHER, after=first),
    )
    (winner,) = [stamp for stamp in stamps if stamp is not None]
    assert winner.generation == 2
    assert await one.stamp(ticket, "zip") == winner


async def test_a_layout_with_the_same_etag_is_of_the_same_generation(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    first = await layouts.store(ticket, "zip", etag=ONE, frozen=FROZEN, after=None)
    await layouts.mark_stale(ticket, "zip", ONE, items=[0])
    assert await layouts.store(ticket, "zip", etag=ONE, frozen=FROZEN, after=first) == Stamp(ONE, 1)
    assert await layouts.stamp(ticket, "zip") == Stamp(ONE, 1)


async def test_items_marked_stale_at_once_are_all_stale(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    await layouts.store(ticket, "zip", etag=ONE, frozen=FROZEN, after=None)
    await asyncio.gather(*(layouts.mark_stale(ticket, "zip", ONE, items=[item, item + 1]) for item in range(5)))
    assert await layouts.stamp(ticket, "zip") == Stamp(ONE, 1, frozenset(range(6)))


async def test_items_of_an_older_layout_are_not_marked_stale(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    await layouts.store(ticket, "zip", etag=TWO, frozen=FROZEN, after=None)
    await layouts.mark_stale(ticket, "zip", ONE, items=[0])
    assert await layouts.stamp(ticket, "zip") == Stamp(TWO, 1)


async def test_a_layout_of_another_version_can_only_be_replaced(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    await layouts.store(ticket, "zip", etag=ONE, frozen=FROZEN, after=None)
    sealed = gateway.keyring.encrypt(zlib.compress(json.dumps({"version": VERSION + 1}).encode()))
    async with gateway.db.write() as tx:
        await tx.execute(sa.update(tables.layouts).where(tables.layouts.c.ticket_id == ticket).values(frozen=sealed))
    assert await layouts.load(ticket, "zip") is None
    after = await layouts.stamp(ticket, "zip")
    assert await layouts.store(ticket, "zip", etag=TWO, frozen=FROZEN, after=after) == Stamp(TWO, 2)


async def test_the_first_loss_of_an_entry_counts(gateway: Gateway, ticket: str):
    layouts = Layouts(gateway)
    await layouts.lose(ticket, ONE, entry=7, failure=LOST)
    await layouts.lose(ticket, ONE, entry=7, failure=replace(LOST, word="later"))
    await layouts.lose(ticket, ONE, entry=3, failure=replace(LOST, name="y.bin"))
    assert await layouts.losses(ticket, ONE) == {3: replace(LOST, name="y.bin"), 7: LOST}
    assert await layouts.losses(ticket, TWO) == {}


async def test_nothing_of_a_loss_is_stored_in_plain(gateway: Gateway, ticket: str):
    await Layouts(gateway).lose(ticket, ONE, entry=0, failure=LOST)
    sealed = await column_of(gateway, tables.losses.c.failure, tables.losses.c.ticket_id == ticket)
    assert b"hunter2" in gateway.keyring.decrypt(sealed)
    assert b"hunter2" not in sealed


async def test_a_loss_that_cannot_be_read_is_one_all_the_same(gateway: Gateway, ticket: str):
    sealed = Keyring(["another key " * 3]).encrypt(b"{}")
    async with gateway.db.write() as tx:
        await tx.execute(sa.insert(tables.losses).values(ticket_id=ticket, etag=ONE, entry=3, failure=sealed))
    assert (await Layouts(gateway).losses(ticket, ONE)).keys() == {3}


async def test_segments_come_back_from_all_rows_of_a_layout(gateway: Gateway, ticket: str):
    store = SegmentStore(gateway)
    few, many = [Segment(0, 0, 1 << 40, 0xFFFFFFFF)], [Segment(entry, 5, 10, entry) for entry in range(2000)]
    await store.save(uuid.uuid4().hex, ticket, ONE, segments=few)
    await store.save(uuid.uuid4().hex, ticket, ONE, segments=many)
    await store.save(uuid.uuid4().hex, ticket, TWO, segments=[Segment(9, 9, 9, 9)])
    found, _ = await store.load(ticket, ONE)
    assert sorted(found) == sorted(few + many)


async def test_a_row_saved_again_holds_only_the_newest(gateway: Gateway, ticket: str):
    store, pack_id = SegmentStore(gateway), uuid.uuid4().hex
    await store.save(pack_id, ticket, ONE, segments=[Segment(0, 0, 1, 1)])
    await store.save(pack_id, ticket, ONE, segments=[Segment(0, 0, 2, 2)])
    assert [*(await store.load(ticket, ONE))[0]] == [Segment(0, 0, 2, 2)]


async def test_only_rows_that_changed_come_again(gateway: Gateway, ticket: str):
    store, old = SegmentStore(gateway), uuid.uuid4().hex
    await store.save(old, ticket, ONE, segments=[Segment(0, 0, 1, 1)])
    await age(gateway, tables.segments.c.updated, tables.segments.c.id == old, 60)
    await store.save(uuid.uuid4().hex, ticket, ONE, segments=[Segment(1, 0, 1, 1)])
    both, since = await store.load(ticket, ONE)
    later, same = await store.load(ticket, ONE, since=since)
    assert (len([*both]), [*later]) == (2, [Segment(1, 0, 1, 1)])
    assert same == since


class OnceBroken(SegmentStore):
    """Cannot be written to the first time."""

    broken = True

    async def save(self, pack_id: str, ticket_id: str, etag: str, *, segments: Sequence[Segment]) -> None:
        if self.broken:
            self.broken = False
            raise DatabaseError
        await super().save(pack_id, ticket_id, etag, segments=segments)


async def test_segments_that_could_not_be_saved_are_saved_the_next_time(gateway: Gateway):
    tickets, sums = TicketStore(gateway, ttl_s=DAY_S), OnceBroken(gateway)
    ticket = await tickets.get(await stored_ticket(gateway))
    tracker = Tracker(ticket, "here", Stores(tickets, Responses(gateway), sums, Learned(gateway, DAY_S)))
    many = [Segment(entry, 0, 10, entry) for entry in range(3000)]
    for segment in many:
        tracker.keep(segment)
    with pytest.raises(DatabaseError):
        await tracker.save_sums()
    await tracker.save_sums()
    tracker.keep(Segment(0, 0, 5, 5))
    await tracker.save_sums()
    assert sorted((await sums.load(ticket.id, ""))[0]) == sorted([*many, Segment(0, 0, 5, 5)])


async def test_a_response_keeps_its_begin_and_shows_how_it_stands(gateway: Gateway, ticket: str):
    responses = Responses(gateway)
    begun = Response(uuid.uuid4().hex, ticket, ONE, "here", total=100, entry="a b.txt")
    await responses.save(begun)
    (first,) = await responses.of(ticket)
    await responses.save(replace(begun, spans=((0, 50), (70, 100)), sent=80, state="complete", failures=1))
    (last,) = await responses.of(ticket)
    assert (first.state, first.spans, first.entry, first.total) == (RUNNING, (), "a b.txt", 100)
    assert (last.state, last.spans, last.sent, last.failures) == ("complete", ((0, 50), (70, 100)), 80, 1)
    assert last.began == first.began <= first.updated <= last.updated


async def test_responses_are_listed_newest_first_up_to_the_limit(gateway: Gateway, ticket: str):
    responses = Responses(gateway)
    ids = [uuid.uuid4().hex for _ in range(3)]
    for order, response_id in enumerate(ids):
        await responses.save(Response(response_id, ticket, ONE, "here"))
        await age(gateway, tables.responses.c.began, tables.responses.c.id == response_id, 10.0 - order)
    assert [response.id for response in await responses.of(ticket, limit=2)] == [ids[2], ids[1]]


@pytest.mark.parametrize(("state", "silent_s", "read"), [(RUNNING, 20, ABORTED), (RUNNING, 5, RUNNING), ("c", 20, "c")])
async def test_a_response_that_fell_silent_reads_as_aborted(gateway, ticket, state, silent_s, read):
    responses = Responses(gateway)
    await responses.save(Response(uuid.uuid4().hex, ticket, ONE, "here", state=state))
    await age(gateway, tables.responses.c.updated, tables.responses.c.ticket_id == ticket, silent_s)
    assert [response.state for response in await responses.of(ticket)] == [read]


async def test_what_all_responses_sent_is_covered(gateway: Gateway, ticket: str):
    responses = Responses(gateway)
    for etag, spans in ((ONE, ((10, 20), (30, 40))), (ONE, ((0, 10), (15, 25), (50, 50))), (TWO, ((90, 99),))):
        await responses.save(Response(uuid.uuid4().hex, ticket, etag, "here", spans=spans))
    assert await responses.covered(ticket, ONE) == [(0, 25), (30, 40)]


async def test_what_was_sent_stays_covered_when_the_responses_are_swept(gateway: Gateway, ticket: str):
    responses = Responses(gateway)
    for round_of_sweeps in range(3):
        for etag, first in ((ONE, 10), (ONE, 50), (TWO, 90), ("", 0)):
            begin = first + 5 * round_of_sweeps
            sent = Response(uuid.uuid4().hex, ticket, etag, "here", spans=((begin, begin + 5),))
            await responses.save(sent)
        await age(gateway, tables.responses.c.updated, tables.responses.c.ticket_id == ticket, 3700)
        await responses.sweep()
    assert await responses.of(ticket) == []
    assert await responses.covered(ticket, ONE) == [(10, 25), (50, 65)]
    assert await responses.covered(ticket, TWO) == [(90, 105)]
    assert await column_of(gateway, sa.func.count(), tables.responses.c.ticket_id == ticket) == 2


async def test_learned_checksums_are_found_until_forgotten(gateway: Gateway):
    learned = Learned(gateway, DAY_S)
    crc32s = {uuid.uuid4().hex * 2: (1 << 32) - 1 - number for number in range(1500)}
    await learned.learn(crc32s)
    assert await learned.find([*crc32s, "f" * 64]) == crc32s
    first, *rest = crc32s
    await learned.learn({first: 7})
    await learned.forget(rest)
    assert await learned.find(crc32s) == {first: 7}


async def test_learned_checksums_are_touched_once_a_day(gateway: Gateway):
    learned, key = Learned(gateway, 30 * DAY_S), uuid.uuid4().hex * 2
    mine = tables.learned.c.key == key
    await learned.learn({key: 1})
    fresh = await column_of(gateway, tables.learned.c.used, mine)
    await learned.find([key])
    assert await column_of(gateway, tables.learned.c.used, mine) == fresh
    await age(gateway, tables.learned.c.used, mine, 2 * DAY_S)
    await learned.find([key])
    assert await column_of(gateway, tables.learned.c.used, mine) >= fresh


async def test_nothing_is_learned_where_nothing_is_kept(gateway: Gateway):
    key = uuid.uuid4().hex * 2
    await Learned(gateway, 0).learn({key: 1})
    assert await Learned(gateway, DAY_S).find([key]) == {}


async def fill(gateway: Gateway, ticket: str) -> None:
    await Layouts(gateway).store(ticket, "zip", etag=ONE, frozen=FROZEN, after=None)
    await Layouts(gateway).lose(ticket, ONE, entry=0, failure=LOST)
    await SegmentStore(gateway).save(uuid.uuid4().hex, ticket, ONE, segments=[Segment(0, 0, 1, 1)])
    await Responses(gateway).save(Response(uuid.uuid4().hex, ticket, ONE, "here"))


async def rows_of(gateway: Gateway, ticket: str) -> list[int]:
    counts = []
    for table in (tables.layouts, tables.losses, tables.segments, tables.responses):
        counts.append(await column_of(gateway, sa.func.count(), table.c.ticket_id == ticket))
    return counts


async def test_rows_go_with_their_ticket(gateway: Gateway, ticket: str):
    living = await stored_ticket(gateway)
    await fill(gateway, living)
    await fill(gateway, ticket)
    assert await sweep_orphans(gateway.db) >= 4
    assert await rows_of(gateway, ticket) == [0, 0, 0, 0]
    assert await rows_of(gateway, living) == [1, 1, 1, 1]


async def test_more_rows_than_a_batch_go_with_their_ticket(gateway: Gateway, ticket: str):
    rows = [{"ticket_id": ticket, "etag": ONE, "entry": entry, "failure": b""} for entry in range(1200)]
    async with gateway.db.write() as tx:
        await tx.execute(sa.insert(tables.losses), rows)
    assert await sweep_orphans(gateway.db) >= 1200
    assert await rows_of(gateway, ticket) == [0, 0, 0, 0]


async def test_old_responses_and_what_was_learned_long_ago_are_swept(gateway: Gateway):
    living, old, new = await stored_ticket(gateway), uuid.uuid4().hex, uuid.uuid4().hex
    learned, responses = Learned(gateway, DAY_S), Responses(gateway)
    for name in (old, new):
        await responses.save(Response(name, living, ONE, "here", state="complete"))
        await learned.learn({name * 2: 1})
    await age(gateway, tables.responses.c.updated, tables.responses.c.id == old, 3700)
    await age(gateway, tables.learned.c.used, tables.learned.c.key == old * 2, 2 * DAY_S)
    await sweep_ledger(gateway, DAY_S)
    assert [response.id for response in await responses.of(living)] == [new]
    assert await Learned(gateway, 30 * DAY_S).find([old * 2, new * 2]) == {new * 2: 1}


async def test_journals_go_with_their_ticket(gateway: Gateway, ticket: str):
    folder, living = gateway.settings.data_dir / FOLDER, await stored_ticket(gateway)
    for ticket_id in (ticket, living):
        journal = Journal(folder, ticket_id, ONE)
        journal.write((), Segment(0, 0, 1, 1))
        journal.close()
        (folder / ticket_id / f"{ONE}-{uuid.uuid4().hex}.seg").write_bytes(b"of the dead")
    assert await sweep_machine(gateway) == 1
    assert journaled_tickets(folder) == [living]
