"""What a ticket's owner sees of it, nobody else does, and how it is ended."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import ClientPayloadError, ClientResponse

from gateway_archive import owning
from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.ledger.layouts import Layouts
from gateway_archive.ledger.responses import Response, Responses
from gateway_archive.owning import Speed
from gateway_archive.report import Failure
from gateway_archive.tables import layouts, losses, responses, segments
from gateway_archive.turns import Place, Turns
from gateway_core.testing.upstream_behaviour import Endless, Stall
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, Answer, Stand, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

END = ("", None)
OWNED = [("GET", "status"), ("GET", "events"), ("DELETE", "")]


def at(ticket: str, what: str) -> str:
    return f"/ticket/{ticket}/{what}".rstrip("/")


async def asked(stand: Stand, ticket: str, what: str = "status", *, method: str = "GET", secret: str = "") -> Answer:
    return await stand.call(method, at(ticket, what), headers={"Authorization": secret or stand.secret})


async def response(stand: Stand, ticket: str, **known: Any) -> Response:
    """A row as some process writes it."""
    made = Response(uuid.uuid4().hex, ticket, "e", "another", **known)
    await Responses(stand.gateway.core).save(made)
    return made


class Events:
    """Server-sent events of one answer."""

    def __init__(self, answer: ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, Any]:
        """Name and data of the next one, END after the last; comments are passed over."""
        async with asyncio.timeout(20):
            while True:
                text = (await self._answer.content.readuntil(b"\n\n")).decode()
                if not text:
                    return END
                if not text.startswith(":"):
                    fields = dict(line.partition(": ")[::2] for line in text.strip().splitlines())
                    return fields["event"], json.loads(fields["data"])

    async def until(self, name: str, **wanted: Any) -> Any:
        """Data of the next one of that name whose first download is as ``wanted``."""
        while True:
            event, data = await self.next()
            shown = (data.get("downloads") or [{}])[0]
            if event == name and all(shown.get(key) == value for key, value in wanted.items()):
                return data


@asynccontextmanager
async def events(stand: Stand, ticket: str) -> AsyncIterator[Events]:
    async with stand.http.get(at(ticket, "events"), headers={"Authorization": stand.secret}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        yield Events(answer)


async def read_to_the_end(download: ClientResponse) -> None:
    while await download.content.read(MIB):
        pass


# Whose it is


@pytest.mark.parametrize(("method", "what"), OWNED)
async def test_ticket_of_another_client_is_404(stand: Stand, method: str, what: str):
    ticket = await stand.ticket(stand.add("/a", 1))
    foreign = await stand.gateway.secret()
    answers = [
        await asked(stand, ticket, what, method=method, secret=foreign),
        await asked(stand, "nope", what, method=method, secret=foreign),
    ]
    assert [(answer.status, answer.errors) for answer in answers] == [(404, {"id": "Ticket not found"})] * 2
    assert (await asked(stand, ticket)).status == 200


@pytest.mark.parametrize(("method", "what"), OWNED)
async def test_without_a_secret_it_is_401(stand: Stand, method: str, what: str):
    assert (await stand.call(method, at(await stand.ticket(stand.add("/a", 1)), what))).status == 401


async def test_operator_sees_every_ticket(stand: Stand):
    operator = await stand.gateway.secret("admin", "archive:ticket")
    assert (await asked(stand, await stand.ticket(stand.add("/a", 1)), secret=operator)).status == 200


# Status


async def test_status_of_a_fresh_ticket_has_nothing_to_tell(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1), expires_in=60)
    shown = (await asked(stand, ticket)).json
    created, expires = (datetime.fromisoformat(shown.pop(name)) for name in ("created", "expires"))
    assert 59 <= (expires - created).total_seconds() <= 61
    assert shown == {"id": ticket, "type": "zip", "downloads": [], "failures": [], "queue": None}


async def test_status_tells_of_downloads_in_all_processes(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1))
    ended = await response(stand, ticket, state="completed", sent=10, total=10, failures=2)
    running = await response(stand, ticket, sent=7, total=10, entry="a.txt")
    shown = {one["id"]: one for one in (await asked(stand, ticket)).json["downloads"]}
    told = ("state", "sent", "total", "entry", "failures")
    assert [shown[ended.id][name] for name in told] == ["completed", 10, 10, "", 2]
    assert [shown[running.id][name] for name in told] == ["running", 7, 10, "a.txt", 0]
    assert shown[ended.id]["speed"] == 0


async def test_status_names_what_is_missing_once(stand: Stand):
    ticket, store = await stand.ticket(stand.add("/a", 1)), Layouts(stand.gateway.core)
    left_out = Failure("b", "http://user:pw@h/b?token=1", "gone", "gone: status 404")
    lost = Failure("c", "http://h/c", "failed", "failed: broke off")
    frozen = Frozen([FrozenEntry(0, "a", 1)], created=0, failures=[(1, left_out)])
    for format_name in ("zip", "tar"):
        assert await store.store(ticket, format_name, etag=f"e{format_name}", frozen=frozen, after=None)
    await store.lose(ticket, "ezip", entry=0, failure=lost)
    assert (await asked(stand, ticket)).json["failures"] == [
        {"name": "b", "url": "http://h/b", "reason": "gone: status 404"},
        {"name": "c", "url": "http://h/c", "reason": "failed: broke off"},
    ]


async def test_status_tells_the_place_in_the_queue(make_stand: MakeStand):
    async with make_stand({"queue": True, "max_active_downloads": 1, "stall_timeout_s": 30}) as stand:
        tickets = [await stand.ticket(stand.add(f"/{n}", 10, Stall())) for n in range(3)]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(stand.download(tickets[0]))
            await stand.upstream.wait_requests(1)
            assert [(await stand.download(ticket)).status for ticket in tickets[1:]] == [403, 403]
            shown = [(await asked(stand, ticket)).json["queue"] for ticket in tickets]
            stand.upstream.release("/0")
        assert running.result().status == 200
        assert shown == [
            {"position": 0, "available": True},
            {"position": 0, "available": False},
            {"position": 1, "available": False},
        ]
        assert (await asked(stand, await stand.ticket(stand.add("/a", 1)))).json["queue"] is None


async def test_looking_at_the_queue_says_what_waiting_would(stand: Stand):
    turns = Turns(stand.gateway.core, limit=1)
    first, second, third = "turn-1", "turn-2", "turn-3"
    assert await turns.place(first) is None
    begun = await turns.begin(first)
    assert isinstance(begun, str)
    assert await turns.wait(second, "w2") == await turns.place(second) == Place(0, available=False)
    assert await turns.wait(third, "w3") == await turns.place(third) == Place(1, available=False)
    await turns.end(begun)
    assert await turns.place(second) == Place(0, available=True)
    assert await turns.place(third) == Place(0, available=False)
    assert await turns.wait(second, "w2") == Place(0, available=True)


async def test_download_shows_in_the_status(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1000), type="stream")
    await stand.download(ticket)

    async def shown() -> bool:
        (one,) = (await asked(stand, ticket)).json["downloads"]
        return (one["state"], one["sent"], one["total"]) == ("completed", 1000, 1000)

    await until(shown)


async def test_speed_is_of_the_last_seconds():
    began = Response("r", "t", "e", "i", began=100.0, updated=100.0)
    speed = Speed(began)
    rates = [speed.now(replace(began, updated=100.0 + s, sent=1000 * min(s, 10))) for s in range(21)]
    assert rates[0] == 0
    assert rates[1:11] == [1000] * 10
    assert rates[13] == 400
    assert rates[15:] == [0] * 6
    assert speed.now(replace(began, updated=121.0, sent=20_000, state="completed")) == 0


# Events


async def test_events_begin_with_the_status_and_tell_each_change(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1))
    async with events(stand, ticket) as told:
        assert await told.next() == ("status", (await asked(stand, ticket)).json)
        made = await response(stand, ticket, sent=5)
        assert (await told.next())[1]["downloads"][0]["sent"] == 5
        await Responses(stand.gateway.core).save(replace(made, sent=9, state="completed"))
        assert (await told.next())[1]["downloads"][0]["state"] == "completed"


async def test_events_show_a_download_on_its_way(make_stand: MakeStand):
    async with make_stand({"stall_timeout_s": 30}) as stand:
        ticket = await stand.ticket(stand.add("/a", 3 * MIB, Stall(2 * MIB)))
        async with events(stand, ticket) as told, stand.downloading(ticket) as download:
            await download.content.readexactly(MIB)
            shown = (await told.until("status", state="running", entry="a"))["downloads"][0]
            assert shown["sent"] >= MIB
            stand.upstream.release("/a")
            await download.content.read()
            await told.until("status", state="completed")


async def test_events_end_when_the_ticket_is_deleted(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1))
    async with events(stand, ticket) as told:
        await told.next()
        await asked(stand, ticket, "", method="DELETE")
        assert await told.next() == ("gone", {"id": ticket})
        assert await told.next() == END


async def test_events_end_when_the_ticket_expires(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 1), expires_in=0.5)
    async with events(stand, ticket) as told:
        await told.next()
        assert await told.next() == ("gone", {"id": ticket})


async def test_events_end_with_the_gateway(make_stand: MakeStand):
    async with make_stand({}) as stand:
        async with events(stand, await stand.ticket(stand.add("/a", 1))) as told:
            await told.next()
            await stand.gateway.drain()
            assert await told.next() == END


async def test_events_have_a_bound(stand: Stand, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(owning, "MOST_WATCHERS", 1)
    ticket = await stand.ticket(stand.add("/a", 1))
    async with events(stand, ticket) as told:
        await told.next()
        answer = await asked(stand, ticket, "events")
        assert (answer.status, "Retry-After" in answer.headers) == (429, True)


# The end


async def test_deleted_ticket_is_gone_with_all_that_hangs_on_it(stand: Stand):
    ticket, other = await stand.ticket(stand.add("/a", 1)), await stand.ticket(stand.add("/a", 1))
    store = Layouts(stand.gateway.core)
    for known in (ticket, other):
        await response(stand, known)
        await store.store(known, "zip", etag="e", frozen=Frozen([], created=0), after=None)
        await store.lose(known, "e", entry=0, failure=Failure("a", "http://h/a", "gone", "gone: status 404"))
    assert (await asked(stand, ticket, "", method="DELETE")).status == 204
    answers = [
        await stand.download(ticket),
        await asked(stand, ticket),
        await asked(stand, ticket, "", method="DELETE"),
    ]
    assert [answer.status for answer in answers] == [404] * 3
    async with stand.gateway.core.db.read() as tx:
        for table in (responses, layouts, losses, segments):
            left = await tx.rows(sa.select(table.c.ticket_id).where(table.c.ticket_id.in_([ticket, other])))
            assert {row.ticket_id for row in left} <= {other}
            assert left or table is segments


@pytest.mark.parametrize("kind", ["zip", "stream"])
async def test_downloads_of_a_deleted_ticket_are_cut(stand: Stand, kind: str):
    ticket = await stand.ticket(stand.add("/endless", 1, Endless()), type=kind)
    async with stand.downloading(ticket) as download:
        await download.content.readexactly(1000)
        assert (await asked(stand, ticket, "", method="DELETE")).status == 204
        async with asyncio.timeout(20):
            with pytest.raises(ClientPayloadError):
                await read_to_the_end(download)
    await stand.upstream.wait_idle()


async def test_delete_takes_no_other_word_of_the_path(stand: Stand):
    for word in ("generate", "check"):
        assert (await asked(stand, word, "", method="DELETE")).status in {404, 405}
