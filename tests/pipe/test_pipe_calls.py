"""``Prefer: respond-async`` and ``/pipe/calls``, over HTTP and with nodes on real links."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_pipe.link.model import Head, Incoming
from tests.pipe.web_nodes import gone, node, told

pytestmark = pytest.mark.asyncio(loop_scope="module")
DURABLE = {"Prefer": "respond-async"}
BIG = bytes(range(256)) * 6000


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """One for all; every test has nodes of its own."""
    settings = {"plugins": "pipe", "pipe": {"max_durable_mb": 2}}
    async with running_gateway(tmp_path_factory.mktemp("calls"), settings=settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(gateway: RunningGateway) -> AsyncIterator[ClientSession]:
    async with gateway.session(headers={"Authorization": await gateway.secret()}) as http:
        yield http


async def echo(incoming: Incoming) -> None:
    """Answers with what it was sent, in the same type, and a code of its own."""
    headers = (("Content-Type", incoming.opening.header("Content-Type")), ("Set-Cookie", "a=b"))
    await incoming.answer(Head(status=409, code=9, headers=headers), await incoming.read(1 << 22))


async def was_here(gateway: RunningGateway, name: str) -> None:
    """The node was connected once, and is away."""
    async with node(gateway, name):
        pass
    await gone(gateway, name)


async def accepted(session: ClientSession, name: str, data: bytes = b"x", **headers: str) -> str:
    """The path of a call that was accepted."""
    async with session.post(f"/client/{name}/work", data=BytesIO(data), headers=DURABLE | headers) as answer:
        assert answer.status == 202, await answer.text()
        return answer.headers["Location"]


async def shown(session: ClientSession, path: str, wait_s: float = 20) -> tuple[int, dict[str, Any]]:
    async with session.get(path, params={"wait": str(wait_s)}) as answer:
        return answer.status, await answer.json()


async def test_a_call_to_a_node_that_is_away_is_accepted_and_made_when_it_comes(
    gateway: RunningGateway, session: ClientSession
) -> None:
    await was_here(gateway, "away")
    async with session.post("/client/away/sum//1?x=%20", data=b"2", headers=DURABLE) as answer:
        said, path = await answer.json(), answer.headers["Location"]
        assert answer.status == 202
        assert path == f"/pipe/calls/{said['id']}"
        assert said["url"] == f"{gateway.url}{path}"
        assert answer.headers["Preference-Applied"] == "respond-async"
    assert (said["state"], said["done"], said["node"], said["attempts"]) == ("waiting", False, "away", 0)
    async with node(gateway, "away", told):
        status, call = await shown(session, path)
    assert (status, call["state"], call["done"], call["code"]) == (200, "done", True, 0)
    assert (call["status"], call["content_type"], call["attempts"]) == (200, "application/json", 1)
    assert (call["result"]["method"], call["result"]["target"], call["result"]["body"]) == ("POST", "sum//1?x=%20", "2")
    assert 0 < call["result"]["timeout_ms"] <= 86_400_000


@pytest.mark.parametrize(
    ("content_type", "data", "field", "value"),
    [
        ("application/json", b'{"a": [1]}', "result", {"a": [1]}),
        ("text/plain; charset=latin-1", b"\xe9t\xe9", "result", "été"),
        ("text/plain", b"\xff", "result_base64", base64.b64encode(b"\xff").decode()),
        ("application/json", b"NaN", "result_base64", base64.b64encode(b"NaN").decode()),
        ("application/json", b"1e999", "result_base64", base64.b64encode(b"1e999").decode()),
        ("image/png", b"\x89PNG", "result_base64", base64.b64encode(b"\x89PNG").decode()),
    ],
)
async def test_a_result_is_told_as_its_type_says(
    gateway: RunningGateway, session: ClientSession, content_type: str, data: bytes, field: str, value: object
) -> None:
    async with node(gateway, "typed", echo):
        path = await accepted(session, "typed", data, **{"Content-Type": content_type})
        _, call = await shown(session, path)
    assert call[field] == value
    assert (call["code"], call["status"], call["content_type"]) == (9, 409, content_type)
    async with session.get(f"{path}/result") as answer:
        assert (answer.status, await answer.read()) == (200, data)
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["X-Event-Return-Code"] == "9"
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["Content-Security-Policy"] == "sandbox"
    async with session.get(f"{path}/result", headers={"X-Pipe-Status": "strict"}) as answer:
        assert answer.status == 409


async def test_a_status_that_ends_no_answer_is_not_passed_on(gateway: RunningGateway, session: ClientSession) -> None:
    async def interim(incoming: Incoming) -> None:
        await incoming.answer(Head(status=101), b"x")

    async with node(gateway, "interim", interim):
        path = await accepted(session, "interim")
        await shown(session, path)
    async with session.get(f"{path}/result", headers={"X-Pipe-Status": "strict"}) as answer:
        assert (answer.status, await answer.read()) == (502, b"x")


async def test_an_erased_call_lets_the_next_one_run(gateway: RunningGateway, session: ClientSession) -> None:
    began = asyncio.Event()

    async def hanging(incoming: Incoming) -> None:
        if not began.is_set():
            began.set()
            await asyncio.Event().wait()
        await incoming.answer(Head(), b"done")

    async with node(gateway, "hangs", hanging):
        paths = [await accepted(session, "hangs") for _ in range(2)]
        await asyncio.wait_for(began.wait(), 10)
        async with session.delete(paths[0]) as answer:
            assert answer.status == 204
        status, call = await shown(session, paths[1])
    assert (status, call["state"]) == (200, "done")


async def test_a_large_result_is_fetched_as_bytes(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "large", echo):
        path = await accepted(session, "large", BIG)
        _, call = await shown(session, path)
    assert call["result_bytes"] == len(BIG)
    assert not {"result", "result_base64"} & set(call)
    async with session.get(call["result_url"]) as answer:
        assert answer.content_length == len(BIG)
        assert await answer.read() == BIG


async def test_the_answer_can_be_waited_for(gateway: RunningGateway, session: ClientSession) -> None:
    go_on = asyncio.Event()

    async def slow(incoming: Incoming) -> None:
        await go_on.wait()
        await incoming.answer(Head(), b"")

    async with node(gateway, "slow", slow):
        path = await accepted(session, "slow")
        assert (await shown(session, path, wait_s=0.05))[1]["state"] == "waiting"
        async with session.get(f"{path}/result") as answer:
            assert (answer.status, (await answer.json())["done"]) == (202, False)
        waiting = asyncio.create_task(shown(session, path))
        go_on.set()
        began = time.monotonic()
        assert (await waiting)[1]["state"] == "done"
    assert time.monotonic() - began < 10


async def test_a_call_whose_time_is_over_is_gone(gateway: RunningGateway, session: ClientSession) -> None:
    await was_here(gateway, "never")
    path = await accepted(session, "never", **{"X-Pipe-TTL": "0.1"})
    status, call = await shown(session, path)
    assert (status, call["state"], call["done"], call["code"]) == (410, "expired", True, None)
    async with session.get(f"{path}/result") as answer:
        assert answer.status == 410
    ran: list[str] = []

    async def note(incoming: Incoming) -> None:
        ran.append(incoming.opening.target)
        await incoming.answer(Head())

    async with node(gateway, "never", note):
        async with session.put("/client/never/later", headers=DURABLE) as answer:
            await shown(session, answer.headers["Location"])
    assert ran == ["later"]


@pytest.mark.parametrize("ttl", ["0", "-1", "x", "", "1e3", "nan", "2592001"])
async def test_a_wrong_life_is_refused_by_name(gateway: RunningGateway, session: ClientSession, ttl: str) -> None:
    async with session.post("/client/any/work", headers=DURABLE | {"X-Pipe-TTL": ttl}) as answer:
        assert answer.status == 400
        assert "X-Pipe-TTL" in (await answer.json())["detail"]


async def test_a_key_makes_one_call_of_many_requests(gateway: RunningGateway, session: ClientSession) -> None:
    await was_here(gateway, "keyed")
    key = {"Idempotency-Key": "k-1"}
    paths = await asyncio.gather(*(accepted(session, "keyed", BIG[:100_000], **key) for _ in range(6)))
    assert len(set(paths)) == 1
    async with session.post("/client/keyed/work", data=b"other", headers=DURABLE | key) as answer:
        assert answer.status == 409
    async with session.post("/client/keyed/else", data=BIG[:100_000], headers=DURABLE | key) as answer:
        assert answer.status == 409


@pytest.mark.parametrize("key", ["\u00e9", "x" * 256])
async def test_a_wrong_key_is_refused_by_name(gateway: RunningGateway, session: ClientSession, key: str) -> None:
    async with session.post("/client/any/work", headers=DURABLE | {"Idempotency-Key": key}) as answer:
        assert answer.status == 400
        assert "Idempotency-Key" in (await answer.json())["detail"]


async def test_a_node_that_was_never_here_is_not_found(session: ClientSession) -> None:
    async with session.post("/client/unheard-of/work", headers=DURABLE) as answer:
        assert answer.status == 404


async def test_a_body_over_the_limit_is_too_large(gateway: RunningGateway, session: ClientSession) -> None:
    await was_here(gateway, "tiny")
    async with session.post("/client/tiny/work", data=BytesIO(BIG * 2), headers=DURABLE) as answer:
        assert answer.status == 413


async def test_calls_belong_to_their_client(gateway: RunningGateway, session: ClientSession) -> None:
    await was_here(gateway, "private")
    path = await accepted(session, "private")
    async with gateway.session(headers={"Authorization": await gateway.secret()}) as other:
        for ask in (other.get(path), other.get(f"{path}/result"), other.delete(path)):
            async with ask as answer:
                assert answer.status == 404
        async with other.get("/pipe/calls") as answer:
            assert await answer.json() == {"calls": []}
    async with gateway.session() as nobody:
        for ask in (nobody.get(path), nobody.get("/pipe/calls"), nobody.delete(path)):
            async with ask as answer:
                assert answer.status == 401
    assert (await shown(session, path, wait_s=0))[1]["state"] == "waiting"


async def test_a_client_for_one_node_sees_what_came_of_its_calls(gateway: RunningGateway) -> None:
    narrow = await gateway.secret("pipe:call:narrow")
    async with node(gateway, "narrow", echo), gateway.session(headers={"Authorization": narrow}) as client:
        assert (await shown(client, await accepted(client, "narrow")))[1]["code"] == 9
        async with client.post("/client/other/work", headers=DURABLE) as answer:
            assert answer.status == 403


async def test_calls_are_listed_by_node_and_state(gateway: RunningGateway) -> None:
    await was_here(gateway, "listed")
    async with gateway.session(headers={"Authorization": await gateway.secret()}) as client:
        first, second = await accepted(client, "listed"), await accepted(client, "listed")
        async with client.get("/pipe/calls", params={"node": "listed", "state": "waiting"}) as answer:
            listed = (await answer.json())["calls"]
        async with client.get("/pipe/calls", params={"node": "other"}) as answer:
            assert await answer.json() == {"calls": []}
        async with client.get("/pipe/calls", params={"limit": "0"}) as answer:
            assert answer.status == 422
    assert [f"/pipe/calls/{call['id']}" for call in listed] == [second, first]
    assert listed[0]["method"] == "POST"


async def test_a_call_that_waits_can_be_taken_back(gateway: RunningGateway, session: ClientSession) -> None:
    await was_here(gateway, "unwanted")
    path = await accepted(session, "unwanted")
    for status in (204, 404):
        async with session.delete(path) as answer:
            assert answer.status == status
    async with session.get(path) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", ["/pipe/calls/x", f"/pipe/calls/{'A' * 32}", f"/pipe/calls/{'0' * 32}/result"])
async def test_what_is_no_call_is_not_found(session: ClientSession, path: str) -> None:
    async with session.get(path) as answer:
        assert answer.status == 404


async def test_without_the_preference_nothing_is_kept(gateway: RunningGateway) -> None:
    async with node(gateway, "direct", echo):
        async with gateway.session(headers={"Authorization": await gateway.secret()}) as client:
            async with client.post("/client/direct/work", headers={"Prefer": 'x="a", respond-asynchronous'}) as answer:
                assert answer.status == 200
            async with client.get("/pipe/calls") as answer:
                assert await answer.json() == {"calls": []}
