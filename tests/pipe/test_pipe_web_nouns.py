"""``/client/<node>/<noun>``: RestPipe's contract first, then what it never could."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError, ClientSession, ServerDisconnectedError
from structlog.testing import capture_logs

from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_core.testing.plugin import MakeGateway
from gateway_pipe.link.model import Head, Incoming, Reset
from tests.pipe.web_nodes import PATIENCE_S, answering, answering_nothing, exchange, gone, node

pytestmark = pytest.mark.asyncio(loop_scope="module")
BIG = bytes(range(256)) * 4096


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    """One for all; every test has nodes of its own."""
    settings = {"plugins": "pipe", "pipe": {"wait_for_node": 0.2, "connecting": 8}}
    async with running_gateway(
        tmp_path_factory.mktemp("nouns"), settings=settings, templates=gateway_templates
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secret(gateway: RunningGateway) -> str:
    """Of a client as any new one is."""
    return await gateway.secret()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(gateway: RunningGateway, secret: str) -> AsyncIterator[ClientSession]:
    async with gateway.session(headers={"Authorization": secret}) as http:
        yield http


async def seen(session: ClientSession, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """What the node was asked."""
    async with session.get(path, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


# RestPipe's contract


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_verb_and_a_noun_become_a_call_and_its_answer(
    gateway: RunningGateway, session: ClientSession, method: str
) -> None:
    async with node(gateway, "verbs"):
        async with session.request(method, "/client/verbs/time") as answer:
            told = await answer.json()
            assert (answer.status, answer.headers["X-Event-Return-Code"]) == (200, "0")
            assert answer.headers["Content-Type"] == "application/json"
    assert (told["kind"], told["method"], told["target"]) == ("noun", method, "time")


@pytest.mark.parametrize(
    "target",
    [
        "time/utc",
        "cat//hello%20/world",
        "cat//a%2Fb",
        "cat%2F%2Fx",
        "cat//",
        "cat//a//b",
        "//time",
        "",
        "a?x=1&x=2&y=%26",
        "cat//%C3%BC?",
        "a/../b",
        "a/%2e%2e/b",
        "a//?//",
    ],
)
async def test_the_target_arrives_as_it_was_sent(gateway: RunningGateway, secret: str, target: str) -> None:
    async with node(gateway, "raw"):
        head = f"GET /client/raw/{target} HTTP/1.1\r\nHost: h\r\nAuthorization: {secret}\r\n"
        assert json.loads((await exchange(gateway, head)).partition(b"\r\n\r\n")[2])["target"] == target


async def test_a_path_of_another_spelling_and_the_absolute_form_name_the_same_target(
    gateway: RunningGateway, secret: str
) -> None:
    async with node(gateway, "spelt"):
        for path in ("/%63lient/sp%65lt/x%2Fy?z", f"{gateway.url}/client/spelt/x%2Fy?z"):
            answer = await exchange(gateway, f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {secret}\r\n")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["target"] == "x%2Fy?z"


@pytest.mark.parametrize(
    ("head", "strict"),
    [
        (Head(), 200),
        (Head(code=7), 200),
        (Head(status=404, code=255), 404),
        (Head(status=405, code=255, headers=(("Allow", "POST"),)), 405),
        (Head(status=502, code=251), 502),
    ],
    ids=lambda value: f"{value.status}-{value.code}" if isinstance(value, Head) else "",
)
async def test_whatever_was_delivered_is_200_unless_the_caller_wants_statuses(
    gateway: RunningGateway, session: ClientSession, head: Head, strict: int
) -> None:
    async with node(gateway, "codes", answering(head, b"data")):
        found = []
        for mode in ("lax", "strict"):
            async with session.get("/client/codes/x", headers={"X-Pipe-Status": mode}) as answer:
                assert await answer.read() == b"data"
                assert answer.headers["X-Event-Return-Code"] == str(head.code)
                found.append(answer.status)
    assert found == [200, strict]


async def test_an_unknown_node_is_404(session: ClientSession) -> None:
    async with session.get("/client/nobody/time") as answer:
        assert answer.status == 404
        assert answer.content_type == "application/problem+json"
        assert "nobody" in (await answer.json())["detail"]


async def test_a_known_node_that_is_away_is_503_after_a_wait(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "away"):
        pass
    await gone(gateway, "away")
    async with session.get("/client/away/time") as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1


# Beyond


@pytest.mark.parametrize("value", ["", "abc", "-1", "0", "1e3", "nan", "inf", "1 2"])
async def test_a_timeout_that_is_none_is_a_bad_request_that_names_it(session: ClientSession, value: str) -> None:
    async with session.get("/client/any/x", headers={"X-Request-Timeout": value}) as answer:
        assert answer.status == 400
        assert "X-Request-Timeout" in (await answer.json())["detail"]


async def test_an_unknown_way_of_statuses_is_a_bad_request(session: ClientSession) -> None:
    async with session.get("/client/any/x", headers={"X-Pipe-Status": "maybe"}) as answer:
        assert answer.status == 400
        assert "X-Pipe-Status" in (await answer.json())["detail"]


class Stuck:
    """A node's function that answers nothing, and notes that it was cancelled."""

    def __init__(self, *, begin: bool = False) -> None:
        self.called, self.cancelled = asyncio.Event(), asyncio.Event()
        self._begin = begin

    async def __call__(self, incoming: Incoming) -> None:
        self.called.set()
        try:
            if self._begin:
                await incoming.answer(Head(), self._endless())
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _endless(self) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()


async def test_a_call_ends_at_its_deadline_and_so_does_the_handler(
    gateway: RunningGateway, session: ClientSession
) -> None:
    serve = Stuck()
    async with node(gateway, "late", serve):
        async with session.get("/client/late/x", headers={"X-Request-Timeout": "0.1"}) as answer:
            assert answer.status == 504
        async with asyncio.timeout(PATIENCE_S):
            await serve.cancelled.wait()


async def test_the_deadline_is_for_the_whole_answer_and_cuts_it(
    gateway: RunningGateway, session: ClientSession
) -> None:
    async with node(gateway, "halfway", Stuck(begin=True)):
        async with session.get("/client/halfway/x", headers={"X-Request-Timeout": "0.2"}) as answer:
            assert answer.status == 200
            with pytest.raises(ClientPayloadError):
                await answer.read()


async def test_the_node_knows_the_callers_deadline(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "hurry"):
        told = await seen(session, "/client/hurry/x", {"X-Request-Timeout": "7.5"})
        assert 7000 < told["timeout_ms"] <= 7500


async def test_a_caller_that_hangs_up_stops_the_handler(gateway: RunningGateway, session: ClientSession) -> None:
    serve = Stuck()
    async with node(gateway, "hung", serve):
        call = asyncio.create_task(session.get("/client/hung/x").__aenter__())
        async with asyncio.timeout(PATIENCE_S):
            await serve.called.wait()
            call.cancel()
            await serve.cancelled.wait()


async def test_a_broken_link_breaks_the_answer(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "broken", Stuck(begin=True)) as link:
        async with session.get("/client/broken/x") as answer:
            assert await answer.content.readany() == b"first"
            link.drop("cut")
            with pytest.raises(ClientPayloadError):
                await answer.read()


async def test_a_link_that_breaks_before_the_answer_is_502(gateway: RunningGateway, session: ClientSession) -> None:
    serve = Stuck()
    async with node(gateway, "lost", serve) as link:
        call = asyncio.create_task(session.get("/client/lost/x").__aenter__())
        async with asyncio.timeout(PATIENCE_S):
            await serve.called.wait()
            link.drop("cut")
            answer = await call
        assert answer.status == 502
        answer.release()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Reset.REFUSED, 503),
        (Reset.DEADLINE, 504),
        (Reset.FORBIDDEN, 403),
        (Reset.GONE, 410),
        (Reset.INTERNAL, 502),
        (Reset.CANCEL, 502),
    ],
)
async def test_a_node_that_breaks_a_call_off_has_its_status(
    gateway: RunningGateway, session: ClientSession, code: Reset, status: int
) -> None:
    async def serve(incoming: Incoming) -> None:
        await incoming.refuse(code, "because")

    async with node(gateway, "refusing", serve), session.get("/client/refusing/x") as answer:
        assert answer.status == status
        assert ("Retry-After" in answer.headers) == (status == 503)


async def echo(incoming: Incoming) -> None:
    await incoming.answer(Head(headers=(("Content-Type", "application/octet-stream"),)), incoming)


async def test_large_bodies_stream_both_ways_at_once(gateway: RunningGateway, session: ClientSession) -> None:
    halves = [BIG[: len(BIG) // 2], BIG[len(BIG) // 2 :]]
    back = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield halves[0]
        await back.wait()
        yield halves[1]

    async with node(gateway, "echo", echo), session.post("/client/echo/x", data=body()) as answer:
        first = await answer.content.readexactly(1000)
        back.set()
        assert first + await answer.read() == BIG


@pytest.mark.parametrize("size", [0, 65_536, 65_537, 900_000])
async def test_bodies_of_any_size_arrive_whole(gateway: RunningGateway, session: ClientSession, size: int) -> None:
    async with node(gateway, "sizes", echo):
        async with session.post("/client/sizes/x", data=iter_of(BIG[:size])) as answer:
            assert await answer.read() == BIG[:size]
        async with session.post("/client/sizes/x", data=BIG[:size]) as answer:
            assert await answer.read() == BIG[:size]


async def iter_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize("size", [0, 10, 65_536, 65_537, 1_000_000])
async def test_answers_of_any_size_have_their_length_where_it_is_known(
    gateway: RunningGateway, session: ClientSession, size: int
) -> None:
    head = Head(headers=(("Content-Length", str(size)),))
    async with node(gateway, "lengths", answering(head, BIG[:size])), session.get("/client/lengths/x") as answer:
        assert answer.headers["Content-Length"] == str(size)
        assert await answer.read() == BIG[:size]


async def test_an_answer_that_is_shorter_than_it_says_is_cut(gateway: RunningGateway, session: ClientSession) -> None:
    head = Head(headers=(("Content-Length", "1000000"),))
    async with node(gateway, "short", answering(head, BIG[:999_999])), session.get("/client/short/x") as answer:
        with pytest.raises(ClientPayloadError):
            await answer.read()


async def test_an_answer_that_is_longer_than_it_says_is_cut_and_no_fault_of_ours(
    gateway: RunningGateway, session: ClientSession
) -> None:
    head = Head(headers=(("Content-Length", "100000"),))
    with capture_logs() as lines:
        async with node(gateway, "long", answering(head, BIG[:999_999])), session.get("/client/long/x") as answer:
            with pytest.raises(ClientPayloadError):
                await answer.read()
    assert not [line for line in lines if line["log_level"] == "error"]


async def test_a_drain_lets_calls_that_run_and_bodies_that_come_end(make_gateway: MakeGateway) -> None:
    told = asyncio.Event()

    async def serve(incoming: Incoming) -> None:
        first = await anext(aiter(incoming))
        told.set()
        await incoming.answer(Head(), first + await incoming.read(1000))

    async def halves() -> AsyncIterator[bytes]:
        yield b"one"
        await told.wait()
        await draining.wait()
        yield b" two"

    async with make_gateway({"plugins": "pipe"}) as gateway, asyncio.timeout(PATIENCE_S):
        draining = gateway.core.closing
        async with node(gateway, "last", serve) as link, gateway.session() as session:
            headers = {"Authorization": await gateway.secret()}
            call = asyncio.create_task(session.post("/client/last/x", data=halves(), headers=headers))
            await told.wait()
            end = asyncio.create_task(gateway.drain())
            async with await call as answer:
                assert (answer.status, await answer.read()) == (200, b"one two")
            await link.closed()
            await end


async def test_a_callers_body_that_breaks_off_stops_the_handler(gateway: RunningGateway, secret: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(incoming: Incoming) -> None:
        try:
            async for _ in incoming:
                begun.set()
        finally:
            ended.set()

    async with node(gateway, "cutoff", serve):
        _, writer = await asyncio.open_connection(*gateway.address().split(":"))
        writer.write(
            f"POST /client/cutoff/x HTTP/1.1\r\nHost: h\r\nAuthorization: {secret}\r\n"
            "Content-Length: 900000\r\n\r\nbegun".encode()
        )
        await writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            writer.transport.abort()
            await ended.wait()


async def test_head_is_get_without_the_body(gateway: RunningGateway, session: ClientSession) -> None:
    for size in (10, 1_000_000):
        head = Head(headers=(("Content-Length", str(size)), ("X-Of", "the node")))
        methods = []

        async def serve(incoming: Incoming, head=head, size=size, methods=methods) -> None:
            methods.append(incoming.opening.method)
            await incoming.answer(head, BIG[:size])

        async with node(gateway, "heads", serve), session.head("/client/heads/x") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(size))
            assert answer.headers["X-Of"] == "the node"
            assert await answer.read() == b""
        assert methods == ["GET"]


async def test_other_methods_are_not_allowed(session: ClientSession) -> None:
    for method in ("OPTIONS", "TRACE", "PROPFIND"):
        async with session.request(method, "/client/any/x") as answer:
            assert answer.status == 405
            assert "PATCH" in answer.headers["Allow"]


async def test_timings_and_traces_are_carried(gateway: RunningGateway, session: ClientSession) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with node(gateway, "timed"):
        async with session.get("/client/timed/x", headers={"traceparent": trace}) as answer:
            assert ["traceparent", trace] in (await answer.json())["headers"]
            names = [part.split(";dur=")[0] for part in answer.headers["Server-Timing"].split(", ")]
            assert names == ["wait", "link"]


async def test_the_next_call_on_the_same_connection_is_answered_after_one_that_failed(
    gateway: RunningGateway, session: ClientSession
) -> None:
    async with node(gateway, "after", answering_nothing):
        for _ in range(3):
            async with session.post("/client/after/x", data=b"x", headers={"X-Request-Timeout": "0.05"}) as answer:
                assert answer.status == 504


async def test_a_caller_that_goes_on_sending_after_the_answer_gets_it(
    gateway: RunningGateway, session: ClientSession
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(65_536)

    async with node(gateway, "early", answering(Head(), b"enough")):
        try:
            async with session.post("/client/early/x", data=body()) as answer:
                assert await answer.read() == b"enough"
        except (ServerDisconnectedError, ConnectionResetError):
            pytest.fail("the answer was lost")
