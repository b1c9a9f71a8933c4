"""Tickets: read from what clients send, kept for as long as they live, unreadable in the database, then gone."""

from __future__ import annotations

import base64
import json
import re
import uuid
import zlib
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_archive import upkeep
from gateway_archive.settings import ArchiveSettings
from gateway_archive.store import TicketStore
from gateway_archive.tables import tickets
from gateway_archive.tickets import OnError, Order, Orders, TicketType
from gateway_core import Invalid, NotFound, TooLarge
from gateway_core.testing.plugin import Run
from tests.archive.conftest import MakeStand
from tests.archive.stand import Stand, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "http://files.example/a.txt"
PLANTED = "PLANTED-IN-A-TICKET"
ALONE = {"GATEWAY_PLUGINS": "archive"}


def read(body: Any, **options: Any) -> Order:
    return Orders(ArchiveSettings()).read(body, **options)


def store(stand: Stand) -> TicketStore:
    return stand.downloads.store


async def let_expire(stand: Stand, *ids: str) -> None:
    db = stand.gateway.core.db
    async with db.write() as tx:
        await tx.execute(sa.update(tickets).where(tickets.c.id.in_(ids)).values(expires=db.now() - 0.001))


# Reading


async def test_ticket_needs_no_more_than_items():
    order = read({"items": [URL]})
    assert (order.type, order.warnings) == (TicketType.ZIP, ())
    assert [(item.url, item.name, item.path) for item in order.items] == [(URL, None, None)]
    options = order.options
    assert (options.filename, options.expires_in, options.once, options.on_error) == (None, None, False, OnError.REPORT)


@pytest.mark.parametrize("breaks", ["\n", "\r\n", " ", "\n\n\t"])
async def test_base64_may_have_any_white_space(breaks: str):
    encoded = base64.b64encode(json.dumps([URL]).encode()).decode()
    assert read({"items": breaks.join(re.findall(".{1,7}", encoded))}).items[0].url == URL


@pytest.mark.parametrize("value", [[], {}, 7, None, True, "ZIP", "tar"])
async def test_type_is_one_of_two(value: object):
    with pytest.raises(Invalid) as refused:
        read({"items": [URL], "type": value})
    assert refused.value.errors.keys() == {"type"}


@pytest.mark.parametrize("item", [{"path": "a/"}, {"name": "a/"}, {"url": "", "path": "a/", "name": "b/"}])
async def test_item_without_url_that_ends_with_a_slash_is_a_folder(item: dict):
    assert read({"items": [item]}).items[0].is_folder


@pytest.mark.parametrize("item", [{}, {"url": ""}, {"url": "", "path": "a"}, {"name": "a"}])
async def test_item_without_url_is_no_folder_otherwise(item: dict):
    with pytest.raises(Invalid, match="item 0: url is missing"):
        read({"items": [item]})


async def test_bad_item_is_named_by_its_place():
    with pytest.raises(Invalid, match="item 2: neither"):
        read({"items": [URL, URL, None]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "url": st.just(URL) | JSON,
        "name": st.text(max_size=30) | JSON,
        "path": st.text(max_size=30) | JSON,
        "headers": st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3) | JSON,
        "size": st.integers() | JSON,
        "other": JSON,
    },
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "filename": st.text(max_size=30) | JSON,
        "expires_in": st.floats(0, 1e6) | JSON,
        "once": st.booleans() | JSON,
        "on_error": st.sampled_from(["report", "skip", "abort"]) | JSON,
        "other": JSON,
    },
)
PRINTABLE = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=8)
GOOD_ITEM = st.fixed_dictionaries(
    {"url": st.just(URL)},
    optional={
        "name": st.text(max_size=30),
        "path": st.text(max_size=30),
        "headers": st.dictionaries(st.sampled_from(["X-A", "authorization", "~"]), PRINTABLE),
        "size": st.integers(0, (1 << 63) - 1),
        "other": JSON,
    },
)
GOOD_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "filename": st.text(max_size=30),
        "expires_in": st.floats(60, 604_800),
        "once": st.booleans(),
        "on_error": st.sampled_from(["report", "skip", "abort"]),
        "other": JSON,
    },
)
GOOD_ITEMS = st.lists(GOOD_ITEM, min_size=1, max_size=4)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "items": GOOD_ITEMS | st.lists(ITEM | JSON, max_size=4) | JSON,
        "options": GOOD_OPTIONS | OPTIONS | JSON,
        "type": st.sampled_from(["zip", "stream"]) | JSON,
        "other": JSON,
    },
)
FAIR = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FAIR
@given(BODY | JSON, st.booleans())
async def test_any_json_is_an_order_or_is_told_what_is_wrong(body: Any, strict: bool):
    try:
        order = read(body, strict=strict)
    except (Invalid, TooLarge):
        return
    assert 1 <= len(order.items) <= 10_000
    assert not (strict and order.warnings)


@FAIR
@given(st.binary(max_size=60) | st.text(max_size=60))
async def test_any_text_of_items_is_an_order_or_is_told_what_is_wrong(data: bytes | str):
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    with pytest.raises(Invalid) as refused:
        read({"items": text})
    assert refused.value.errors.keys() == {"items"}


# Keeping


@settings(FAIR, max_examples=30)
@given(GOOD_ITEMS, GOOD_OPTIONS)
async def test_ticket_is_found_as_it_was_made(stand: Stand, items: list, options: dict):
    order = read({"items": items, "options": options})
    made = await store(stand).create(order, "c" * 32)
    found = await store(stand).get(made.id)
    assert (tuple(found.items), found.type, found.client_id) == (order.items, order.type, "c" * 32)
    known = ("filename", "expires_in", "once", "on_error")
    assert [getattr(found.options, name) for name in known] == [getattr(order.options, name) for name in known]


async def test_large_ticket_is_found_as_it_was_made(stand: Stand):
    order = read({"items": [{"url": f"{URL}?{n}", "name": str(uuid.uuid4())} for n in range(10_000)]})
    made = await store(stand).create(order, "c" * 32)
    assert tuple((await store(stand).get(made.id)).items) == order.items


async def test_items_of_a_large_ticket_are_found_one_by_one(stand: Stand):
    order = read({"items": [f"{URL}?{n}" for n in range(1234)]})
    found = (await store(stand).get((await store(stand).create(order, "c" * 32)).id)).items
    places = [(n * 577) % 1234 for n in range(1234)]
    assert [found[n] for n in places] == [order.items[n] for n in places]
    assert (found[-1], found[190:410:20]) == (order.items[-1], list(order.items[190:410:20]))
    with pytest.raises(IndexError):
        _ = found[1234]


async def test_ticket_of_an_earlier_version_is_found(stand: Stand):
    order = read({"items": [{"url": URL, "name": f"{n}", "headers": {"X-N": f"{n}"}} for n in range(1000)]})
    made = await store(stand).create(read({"items": [URL]}), "c" * 32)
    plain = json.dumps([{"url": item.url, "name": item.name, "headers": item.headers} for item in order.items])
    sealed = stand.gateway.core.keyring.encrypt(zlib.compress(plain.encode())).decode()
    async with stand.gateway.core.db.write() as tx:
        await tx.execute(sa.update(tickets).where(tickets.c.id == made.id).values({"items": sealed}))
    found = (await store(stand).get(made.id)).items
    assert (tuple(found), found[999]) == (order.items, order.items[999])


async def test_life_is_that_of_the_settings_or_of_the_order(stand: Stand):
    for options, life_s in (({}, 86_400), ({"expires_in": 60}, 60)):
        made = await store(stand).create(read({"items": [URL], "options": options}), "c" * 32)
        found = await store(stand).get(made.id)
        assert found.expires - found.created == pytest.approx(life_s, abs=1)


async def test_expired_ticket_is_404_before_it_is_swept(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1))
    await let_expire(stand, ticket)
    for path in (f"/ticket/{ticket}/download", f"/ticket/{ticket}/wait"):
        assert (await stand.get(path)).status == 404
    assert (await stand.call("HEAD", f"/ticket/{ticket}/download")).status == 404


async def test_expired_ticket_is_not_listed(stand: Stand):
    secret = await stand.gateway.secret()
    made = [await stand.post("/ticket/generate", {"items": [stand.add("/a", 1)]}, Authorization=secret) for _ in "ab"]
    await let_expire(stand, made[0].json["id"])
    answer = await stand.get("/ticket/", Authorization=secret)
    assert answer.json["count"] == 1
    assert [ticket["id"] for ticket in answer.json["tickets"]] == [made[1].json["id"]]


async def test_sweep_removes_the_rows_of_expired_tickets(stand: Stand):
    url = stand.add("/a", 1)
    old, young = [await stand.ticket(url) for _ in range(3)], await stand.ticket(url)
    await let_expire(stand, *old)
    await upkeep.sweeper(stand.gateway.core)()
    async with stand.gateway.core.db.read() as tx:
        left = [row.id for row in await tx.rows(sa.select(tickets.c.id).where(tickets.c.id.in_([*old, young])))]
    assert left == [young]


async def test_expired_tickets_are_swept_by_themselves(make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upkeep, "SWEEP_EVERY_S", 0.1)
    async with make_stand({"ticket_ttl": 0.01}) as stand:
        await stand.ticket(stand.add("/a", 1))

        async def swept() -> bool:
            async with stand.gateway.core.db.read() as tx:
                return await tx.scalar(sa.select(sa.func.count()).select_from(tickets)) == 0

        await until(swept)


async def test_download_that_has_begun_outlives_its_ticket(stand: Stand):
    ticket = await stand.ticket(stand.add("/big", 32 << 20))
    async with stand.downloading(ticket) as answer:
        await answer.content.readexactly(1000)
        await store(stand).drop(ticket)
        assert len(await answer.content.read()) > 31 << 20


async def test_drop_all_leaves_none(make_stand: MakeStand):
    async with make_stand({}) as stand:
        made = [await stand.ticket(stand.add("/a", 1)) for _ in range(3)]
        assert (await store(stand).drop_all(), await store(stand).everything()) == (3, [])
        with pytest.raises(NotFound):
            await store(stand).get(made[0])


# At rest


async def test_urls_and_headers_are_encrypted_at_rest(make_stand: MakeStand, tmp_path: Path):
    async with make_stand({}) as stand:
        item = {"url": stand.add("/a", b"a") + f"?{PLANTED}", "headers": {"Authorization": PLANTED}, "name": PLANTED}
        ticket = await stand.ticket(item, {**item, "path": PLANTED}, unknown=PLANTED)
        database = tmp_path / "gateway" / "gateway.db"
        with closing(connect(database)) as opened:
            ((sealed,),) = opened.execute("SELECT items FROM archive_tickets WHERE id = ?", [ticket])
        assert len(sealed) > 100
        for file in (path for path in (tmp_path / "gateway").rglob("*") if path.is_file()):
            assert PLANTED.encode() not in file.read_bytes(), file
        assert len((await stand.download(ticket)).entries) == 2


async def test_equal_tickets_look_different_at_rest(stand: Stand):
    made = [await store(stand).create(read({"items": [URL]}), "c" * 32) for _ in range(2)]
    async with stand.gateway.core.db.read() as tx:
        query = sa.select(tickets.c["items"]).where(tickets.c.id.in_([ticket.id for ticket in made]))
        sealed = [row[0] for row in await tx.rows(query)]
    assert sealed[0] != sealed[1]


async def test_tickets_survive_a_restart(make_stand: MakeStand):
    async with make_stand({}) as stand:
        ticket = await stand.ticket({"url": stand.add("/a", b"a"), "name": "kept.txt"}, filename="kept.zip")
    async with make_stand({}) as again:
        head = await again.call("HEAD", f"/ticket/{ticket}/download")
        assert "kept.zip" in head.headers["Content-Disposition"]
        answer = await again.download(ticket)
        assert answer.errors["items"][0]["name"] == "kept.txt"  # its upstream is gone


async def test_tickets_of_an_old_key_are_read_with_both(make_stand: MakeStand):
    async with make_stand({}, secret_key=["the old key, long enough"]) as stand:
        ticket = await stand.ticket({"url": stand.add("/a", b"a"), "name": "kept.txt"})
    async with make_stand({}, secret_key=["the new key, long enough", "the old key, long enough"]) as again:
        assert (await again.download(ticket)).errors["items"][0]["name"] == "kept.txt"


# Commands


async def test_operators_list_and_drop_tickets(make_stand: MakeStand, run_gateway: Run):
    async with make_stand({}) as stand:
        client, secret = await stand.gateway.add_client()
        order = {"items": [stand.add("/a", 1)]}
        made = [await stand.post("/ticket/generate", order, Authorization=secret) for _ in range(3)]
        ids = [answer.json["id"] for answer in made]
        listed = await run_gateway("ticket", "list", env=ALONE)
        assert [line.split("  ")[0] for line in listed.out.splitlines()] == ids
        assert all(line.split("  ")[1::3] == ["zip", client.name] for line in listed.out.splitlines())
        dropped = await run_gateway("ticket", "drop", ids[0], env=ALONE)
        assert (dropped.code, dropped.out) == (0, f"Ticket dropped: {ids[0]}\n")
        assert (await stand.download(ids[0])).status == 404
        again = await run_gateway("ticket", "drop", ids[0], env=ALONE)
        assert (again.code, ids[0] in again.err) == (1, True)
        everything = await run_gateway("ticket", "drop", "--all", env=ALONE)
        assert (everything.code, everything.out) == (0, "2 tickets dropped\n")


@pytest.mark.parametrize("arguments", [(), ("--all", "x")])
async def test_drop_wants_an_id_or_all(run_gateway: Run, arguments: tuple[str, ...]):
    assert (await run_gateway("ticket", "drop", *arguments, env=ALONE)).code == 2
