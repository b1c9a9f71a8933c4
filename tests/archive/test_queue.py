"""Whose turn it is: positions, websockets that wait, turns that are taken up, given back and lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
import sqlalchemy as sa
from aiohttp import ClientWebSocketResponse, WSMsgType

from gateway_archive.tables import turns
from gateway_archive.turns import ACTIVE, GRANTED, HOLD_S, WAITING
from gateway_core.testing.upstream_behaviour import Stall
from tests.archive.conftest import MakeStand
from tests.archive.stand import Stand, until

ONE = {"queue": True, "max_active_downloads": 1, "stall_timeout_s": 30}
MINE = {"position": 0, "available": True}


def waiting(position: int) -> dict[str, Any]:
    return {"position": position, "available": False}


async def rows(stand: Stand) -> list[tuple[str, str]]:
    """Ticket and state of everything in the queue."""
    async with stand.gateway.core.db.read() as tx:
        found = await tx.rows(sa.select(turns.c.ticket_id, turns.c.state).order_by(turns.c.number))
    return [(row.ticket_id, row.state) for row in found]


async def nobody_left(stand: Stand) -> None:
    """Wait until the queue is empty: a turn ends after its client has the last byte."""

    async def empty() -> bool:
        return await rows(stand) == []

    await until(empty)


async def let_expire(stand: Stand, ticket: str) -> None:
    """What happens when nobody renews or takes up a turn for long enough."""
    db = stand.gateway.core.db
    async with db.write() as tx:
        await tx.execute(sa.update(turns).where(turns.c.ticket_id == ticket).values(until=db.now() - 1))


async def left_s(stand: Stand, ticket: str) -> float:
    """How long its place or turn is kept from now on."""
    db = stand.gateway.core.db
    async with db.read() as tx:
        return await tx.scalar(sa.select(turns.c.until - db.now()).where(turns.c.ticket_id == ticket))


@asynccontextmanager
async def occupied(stand: Stand, name: str = "slow") -> AsyncIterator[str]:
    """Somebody downloads until the end of the block; the ticket."""
    stand.add(f"/{name}", 100_000, Stall(1000))
    ticket = await stand.ticket(f"{stand.upstream.base_url}/{name}", type="stream")
    async with asyncio.TaskGroup() as group:
        downloading = group.create_task(stand.download(ticket))
        await stand.upstream.wait_requests(1, path=f"/{name}")
        yield ticket
        stand.upstream.release(f"/{name}")
    assert downloading.result().status == 200

    async def over() -> bool:
        return (ticket, ACTIVE) not in await rows(stand)

    await until(over)


@asynccontextmanager
async def waits(stand: Stand, ticket: str, **headers: str) -> AsyncIterator[ClientWebSocketResponse]:
    async with stand.http.ws_connect(f"/ticket/{ticket}/wait", headers=headers) as socket:
        yield socket


async def told(socket: ClientWebSocketResponse) -> Mapping[str, Any]:
    return await socket.receive_json(timeout=10)


async def closed(socket: ClientWebSocketResponse) -> tuple[int, str | None]:
    end = await socket.receive(timeout=10)
    assert end.type is WSMsgType.CLOSE
    return end.data, end.extra


async def test_free_place_is_taken_without_waiting(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        assert (await stand.fetch(stand.add("/a", b"a"))).entries == {"a": b"a"}
        await nobody_left(stand)


async def test_queued_download_is_403_until_it_is_its_turn(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        ticket = await stand.ticket(stand.add("/a", b"a"))
        async with occupied(stand):
            answer = await stand.download(ticket)
            assert answer.status == 403
            assert answer.errors == {"access": "You must wait until the download is available: position 0"}
            assert answer.headers["Retry-After"] == "5"
        assert (await stand.download(ticket)).entries == {"a": b"a"}


async def test_waiter_is_told_its_zero_based_position_and_its_turn(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        first, second = [await stand.ticket(stand.add("/a", b"a")) for _ in range(2)]
        async with occupied(stand), waits(stand, first) as one, waits(stand, second) as two:
            assert await told(one) == waiting(0)
            assert await told(two) == waiting(1)
            stand.upstream.release("/slow")
            assert await told(one) == MINE
            assert await closed(one) == (1000, "available")
            assert await told(two) == waiting(0)
            assert (await stand.download(first)).status == 200
            assert await told(two) == MINE
            assert await closed(two) == (1000, "available")
        assert (await stand.download(second)).status == 200


async def test_page_of_another_origin_may_wait(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        ticket = await stand.ticket(stand.add("/a", 1))
        async with occupied(stand), waits(stand, ticket, Origin="https://ckan.example") as socket:
            assert await told(socket) == waiting(0)


async def test_second_waiter_of_a_ticket_is_told_so(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        ticket = await stand.ticket(stand.add("/a", 1))
        async with occupied(stand), waits(stand, ticket) as one:
            assert await told(one) == waiting(0)
            async with waits(stand, ticket) as two:
                assert await told(two) == {"error": "Already waiting"}
                assert (await closed(two))[0] == 1000
            stand.upstream.release("/slow")
            assert await told(one) == MINE


async def test_waiter_that_leaves_lets_others_move_up(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        first, second = [await stand.ticket(stand.add("/a", 1)) for _ in range(2)]
        async with occupied(stand), waits(stand, first) as one:
            assert await told(one) == waiting(0)
            async with waits(stand, second) as two:
                assert await told(two) == waiting(1)
                await one.close()
                assert await told(two) == waiting(0)


async def test_download_that_was_refused_holds_a_place_for_the_waiter(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        first, second = [await stand.ticket(stand.add("/a", 1)) for _ in range(2)]
        async with occupied(stand):
            assert (await stand.download(first)).status == 403
            async with waits(stand, second) as two, waits(stand, first) as one:
                assert (await told(two), await told(one)) == (waiting(1), waiting(0))


async def test_turn_belongs_to_the_ticket_that_waited(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        patient, hasty = [await stand.ticket(stand.add("/a", 1)) for _ in range(2)]
        async with occupied(stand), waits(stand, patient) as socket:
            assert await told(socket) == waiting(0)
            stand.upstream.release("/slow")
            assert await told(socket) == MINE
            assert (await stand.download(hasty)).status == 403
            assert (await stand.download(patient)).status == 200


async def test_turn_that_is_not_taken_up_goes_to_the_next(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        absent, next_one = [await stand.ticket(stand.add("/a", 1)) for _ in range(2)]
        async with occupied(stand), waits(stand, absent) as socket:
            await told(socket)
            stand.upstream.release("/slow")
            assert await told(socket) == MINE
        assert await rows(stand) == [(absent, GRANTED)]
        assert (await stand.download(next_one)).status == 403
        await let_expire(stand, absent)
        assert (await stand.download(next_one)).status == 200


async def test_turn_of_who_does_not_ask_again_is_kept_no_longer_than_the_place(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        absent, next_one = [await stand.ticket(stand.add("/a", 1)) for _ in range(2)]
        async with occupied(stand):
            assert (await stand.download(absent)).status == 403
        assert (await stand.download(next_one)).status == 403
        assert await rows(stand) == [(absent, GRANTED), (next_one, WAITING)]
        assert await left_s(stand, absent) <= HOLD_S


async def test_turn_of_a_process_that_died_is_free_again(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        dead, alive = [await stand.ticket(stand.add("/a", 1)) for _ in range(2)]
        async with stand.gateway.core.db.write() as tx:
            held = {"state": ACTIVE, "holder": "a process that is gone", "until": time.time() + 60}
            row = {"id": "0" * 32, "ticket_id": dead, "number": 1, **held}
            await tx.execute(sa.insert(turns).values(row))
        assert (await stand.download(alive)).status == 403
        await let_expire(stand, dead)
        assert (await stand.download(alive)).status == 200


async def test_download_under_way_keeps_its_turn(make_stand: MakeStand):
    async with make_stand(ONE) as stand, occupied(stand) as ticket:
        db = stand.gateway.core.db
        async with db.write() as tx:
            await tx.execute(sa.update(turns).values(until=db.now() + 1))
        await stand.downloads.turns.renew()
        assert await left_s(stand, ticket) > HOLD_S - 5


async def test_turn_of_a_request_that_was_cancelled_is_not_kept(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        queue = stand.downloads.turns
        cancelled = 0
        for step in range(60):  # somewhere among them is the moment between the commit and the news of it
            taking = asyncio.create_task(queue.begin("a ticket"))
            await asyncio.wait({taking}, timeout=step / 4000)
            taking.cancel()
            (outcome,) = await asyncio.gather(taking, return_exceptions=True)
            assert isinstance(outcome, str | asyncio.CancelledError)
            if isinstance(outcome, str):
                await queue.end(outcome)
            else:
                cancelled += 1
            await let_expire(stand, "a ticket")
            await queue.renew()
            other = await queue.begin("another")
            assert isinstance(other, str), f"cancelled after {step / 4} ms"
            await queue.end(other)
        assert cancelled


async def test_download_that_breaks_off_gives_its_turn_back(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        ticket = await stand.ticket(stand.add("/a", 16 << 20))
        async with stand.downloading(ticket) as answer:
            await answer.content.readexactly(1000)

        await nobody_left(stand)


async def test_one_ticket_takes_as_many_turns_as_it_has_downloads(make_stand: MakeStand):
    async with make_stand({**ONE, "max_active_downloads": 2}) as stand:
        async with occupied(stand) as ticket, occupied(stand, "other"):
            assert (await stand.download(ticket)).status == 403


async def test_signed_link_keeps_its_place(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        client, secret = await stand.gateway.add_client()
        token = jwt.encode({"url": stand.add("/a", b"a")}, secret, algorithm="HS256")
        link = f"/stream/url/{token}?client={client.name}"
        async with occupied(stand) as ticket:
            assert [(await stand.get(link)).status for _ in range(3)] == [403, 403, 403]
            assert [state for _, state in await rows(stand)] == [ACTIVE, WAITING]
            assert (await rows(stand))[0][0] == ticket
        assert (await stand.get(link)).body == b"a"


async def test_two_gateways_share_one_queue(make_stand: MakeStand):
    async with make_stand(ONE) as stand, make_stand(ONE) as other:
        ticket = await other.ticket(other.add("/a", 1))
        async with occupied(stand):
            assert (await other.download(ticket)).status == 403
            async with waits(other, ticket) as socket:
                assert await told(socket) == waiting(0)
                stand.upstream.release("/slow")
                assert await told(socket) == MINE
        assert (await other.download(ticket)).status == 200


async def test_waiters_are_sent_away_when_the_gateway_stops(make_stand: MakeStand):
    async with make_stand(ONE) as stand:
        ticket = await stand.ticket(stand.add("/a", 1))
        async with occupied(stand), waits(stand, ticket) as socket:
            await told(socket)
            stand.gateway.core.closing.set()
            assert (await closed(socket))[0] == 1001
            stand.upstream.release("/slow")
