"""``/node/<node>/<app>/``: applications on the gateway's own origin, for programs."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import (
    ClientOSError,
    ClientPayloadError,
    ClientSession,
    ServerDisconnectedError,
    WSMsgType,
    WSServerHandshakeError,
)
from yarl import URL

from gateway_core.testing.harness import RunningGateway
from gateway_pipe.link.model import Head, Incoming
from tests.pipe.app_stand import PATIENCE_S, LocalApp, app_gateway, attached, here, local_app
from tests.pipe.links import Pair, linked

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    async with app_gateway(tmp_path_factory.mktemp("apps"), pipe={"wait_for_node": 0.1}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def app() -> AsyncIterator[LocalApp]:
    async with local_app() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def node(gateway: RunningGateway, app: LocalApp) -> AsyncIterator[Pair]:
    async with attached(gateway, "n1", {"app": app.url, "below": f"{app.url}/base"}) as pair:
        yield pair


@pytest_asyncio.fixture(loop_scope="module")
async def session(gateway: RunningGateway, node: Pair) -> AsyncIterator[ClientSession]:
    """Of a client that may call this node."""
    async with (
        asyncio.timeout(PATIENCE_S),
        gateway.session(headers={"Authorization": await gateway.secret("pipe:call:n1")}) as http,
    ):
        yield http


@asynccontextmanager
async def answering(gateway: RunningGateway, head: Head, body: bytes) -> AsyncIterator[ClientSession]:
    """A node ``n3`` that always answers so, and a client that may call it."""

    async def serve(incoming: Incoming) -> None:
        await incoming.answer(head, body)

    async with linked(node=serve) as pair:
        with here(gateway, "n3", pair):
            async with gateway.session(headers={"Authorization": await gateway.secret("pipe:call:n3")}) as session:
                yield session


async def seen(session: ClientSession, path: str, **options: Any) -> dict[str, Any]:
    async with session.get(URL(path, encoded=True), **options) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.mark.parametrize(
    ("path", "arrives"),
    [
        ("/node/n1/app/", "/"),
        ("/node/n1/app/a//b%2Fc?x=%20&y", "/a//b%2Fc?x=%20&y"),
        ("/node/n1/%61pp/x", "/x"),
        ("/node/n1/below/x", "/base/x"),
        ("/node/n1/app//evil.example/", "//evil.example/"),
    ],
)
async def test_path_and_query_arrive_as_they_were_written(session: ClientSession, path: str, arrives: str) -> None:
    assert (await seen(session, path))["path"] == arrives


@pytest.mark.parametrize("path", ["%2e%2e/x", "a/..%2f..%2fx", "..%5cx", "%252e%252e/x", "../x", "..;/x"])
async def test_no_spelling_of_a_path_reaches_more_than_was_published(
    gateway: RunningGateway, session: ClientSession, path: str
) -> None:
    reader, writer = await asyncio.open_connection(*gateway.address().split(":"))
    credential = f"Authorization: {session.headers['Authorization']}"
    writer.write(f"GET /node/n1/below/{path} HTTP/1.1\r\nHost: x\r\n{credential}\r\nConnection: close\r\n\r\n".encode())
    assert b" 400 " in (await reader.read()).splitlines()[0]
    writer.close()
    await writer.wait_closed()


async def test_without_the_last_slash_it_redirects(session: ClientSession, node: Pair) -> None:
    async with session.post("/node/n1/app?x=1", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (308, "app/?x=1")
    assert (await seen(session, "/node/n1/app?x=1"))["path"] == "/?x=1"


async def test_nobody_calls_without_the_scope_of_the_node(gateway: RunningGateway, node: Pair) -> None:
    other = await gateway.secret("pipe:call:n2")
    async with gateway.session() as session:
        for path in ("/node/n1/app/x", "/node/n1/app"):
            for headers, status in (({}, 401), ({"Authorization": other}, 403)):
                async with session.get(path, headers=headers, allow_redirects=False) as answer:
                    assert answer.status == status


async def test_an_unknown_node_and_an_unknown_application_are_404(
    gateway: RunningGateway, session: ClientSession
) -> None:
    secret = await gateway.secret("pipe:call:*")
    for path in ("/node/nobody/app/", "/node/n1/other/"):
        async with session.get(path, headers={"Authorization": secret}) as answer:
            assert answer.status == 404


async def test_no_credential_and_no_cookie_reaches_the_application(session: ClientSession) -> None:
    secret = session.headers["Authorization"]
    seen_ = await seen(session, "/node/n1/app/x", headers={"Cookie": "a=1", "X-Forwarded-For": "6.6.6.6"})
    assert secret not in str(seen_)
    names = {name.lower() for name, _ in seen_["headers"]}
    assert not names & {"authorization", "cookie", "x-gateway-authorization"}
    assert "6.6.6.6" not in str(seen_)


async def test_authorization_is_the_applications_where_the_gateways_has_its_own_header(
    gateway: RunningGateway, session: ClientSession
) -> None:
    given = {"X-Gateway-Authorization": session.headers["Authorization"], "Authorization": "Basic eDp5"}
    headers = dict((await seen(session, "/node/n1/app/x", headers=given))["headers"])
    assert headers["Authorization"] == "Basic eDp5"
    assert "X-Gateway-Authorization" not in headers


async def test_the_application_is_told_how_it_is_seen(gateway: RunningGateway, session: ClientSession) -> None:
    headers = dict((await seen(session, "/node/n1/app/x"))["headers"])
    assert {name: value for name, value in headers.items() if name.startswith("X-Forwarded")} == {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": gateway.address(),
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Prefix": "/node/n1/app",
    }


async def test_pages_are_sandboxed_and_nothing_speaks_for_the_origin(session: ClientSession) -> None:
    async with session.get("/node/n1/app/mine") as answer:
        policies = answer.headers.getall("Content-Security-Policy")
        assert policies[0] == "default-src 'self'"
        assert policies[1].startswith("sandbox ")
        assert "allow-same-origin" not in policies[1]
        assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers["Vary"] == "Authorization"
        for name in ("Set-Cookie", "Service-Worker-Allowed", "Clear-Site-Data", "X-Accel-Redirect"):
            assert name not in answer.headers


async def test_no_service_worker_comes_from_the_shared_origin(session: ClientSession) -> None:
    async with session.get("/node/n1/app/sw.js", headers={"Service-Worker": "script"}) as answer:
        assert answer.status == 403


async def test_redirects_lead_back_below_the_path(
    gateway: RunningGateway, session: ClientSession, app: LocalApp
) -> None:
    for location, told in (
        (f"{app.url}/x?y", "/node/n1/app/x?y"),
        ("/x", "/node/n1/app/x"),
        ("x", "x"),
        ("/node/n1/app/x", "/node/n1/app/x"),
        (f"{gateway.url}/x", "/node/n1/app/x"),
        (f"https://{gateway.address()}/node/n1/app/x", "/node/n1/app/x"),
        ("https://elsewhere.example/x", "https://elsewhere.example/x"),
        ("//elsewhere.example/x", "//elsewhere.example/x"),
        (gateway.url, "/node/n1/app/"),
        ("../x?y#z", "/node/n1/app/node/n1/x?y#z"),
        ("/../../../client/n2/x", "/node/n1/app/client/n2/x"),
        ("/node/n1/app/%2E%2e/..\\../../client/n2/x", "/node/n1/app/client/n2/x"),
        (f"{gateway.url.upper()}/client/n2/x", "/node/n1/app/client/n2/x"),
        (f"http://u@{gateway.address()}/client/n2/x", "/node/n1/app/client/n2/x"),
        ("http:../../../client/n2/x", "/node/n1/app/client/n2/x"),
        ("http://[", "http://["),
    ):
        async with session.get(
            "/node/n1/app/x", params={"status": "302", "Location": location}, allow_redirects=False
        ) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, told)


@pytest.mark.parametrize("chunked", [False, True])
async def test_five_megabytes_go_up_and_come_back(session: ClientSession, *, chunked: bool) -> None:
    data = bytes(range(256)) * (5 << 12)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 65536):
            yield data[start : start + 65536]

    async with session.put("/node/n1/app/body", data=chunks() if chunked else io.BytesIO(data)) as answer:
        assert await answer.read() == data


async def test_answers_without_a_body_keep_their_headers(session: ClientSession) -> None:
    async with session.head("/node/n1/app/x") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0
    for status in (204, 304):
        async with session.get("/node/n1/app/x", params={"status": str(status), "ETag": '"1"'}) as answer:
            assert (answer.status, answer.headers["ETag"], await answer.read()) == (status, '"1"', b"")


async def test_a_caller_may_limit_the_time_of_the_whole_answer(session: ClientSession) -> None:
    async with session.get("/node/n1/app/stream", headers={"X-Request-Timeout": "0.3"}) as answer:
        with pytest.raises(ClientPayloadError):
            await answer.read()
    async with session.get("/node/n1/app/x", headers={"X-Request-Timeout": "soon"}) as answer:
        assert answer.status == 400


async def test_the_answer_tells_where_the_time_went(session: ClientSession) -> None:
    async with session.get("/node/n1/app/x") as answer:
        assert answer.headers["Server-Timing"].startswith("wait;dur=")


async def test_events_arrive_before_the_end(session: ClientSession, app: LocalApp) -> None:
    async with session.get("/node/n1/app/stream") as answer:
        assert answer.content_type == "text/event-stream"
        assert await answer.content.readline() == b"data: 1\n"
        app.go.set()
        assert await answer.content.read() == b"\ndata: 2\n\n"


async def test_a_caller_that_hangs_up_stops_the_application(session: ClientSession, app: LocalApp) -> None:
    async with session.get("/node/n1/app/stream") as answer:
        await answer.content.readline()
        answer.close()
    assert await app.left.get() == "stream"


async def test_an_application_that_breaks_off_cuts_the_answer(session: ClientSession, app: LocalApp) -> None:
    async with session.get("/node/n1/app/cut") as answer:
        assert await answer.content.readany() == b"half"
        app.go.set()
        with pytest.raises(ClientPayloadError):
            await answer.content.read()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (Head(status=101), b""),
        (Head(status=0), b""),
        (Head(headers=(("Content-Length", "-1"),)), b""),
        (Head(headers=(("Content-Length", "1"), ("Content-Length", "2"))), b"x"),
    ],
)
async def test_a_node_that_sends_no_http_is_502(gateway: RunningGateway, head: Head, body: bytes) -> None:
    async with answering(gateway, head, body) as session, session.get("/node/n3/app/x") as answer:
        assert answer.status == 502


@pytest.mark.parametrize("body", [b"abc", b"abcde"])
async def test_an_answer_of_another_length_than_it_says_is_cut(gateway: RunningGateway, body: bytes) -> None:
    head = Head(headers=(("Content-Length", "4"),))
    async with answering(gateway, head, body) as session:
        with pytest.raises((ClientPayloadError, ServerDisconnectedError, ClientOSError)):
            async with session.get("/node/n3/app/x") as answer:
                await answer.read()


async def test_a_link_that_breaks_cuts_the_answer(session: ClientSession, node: Pair) -> None:
    async with session.get("/node/n1/app/stream") as answer:
        await answer.content.readline()
        node.server_wire.cut()
        with pytest.raises(ClientPayloadError):
            await answer.content.read()


async def test_an_application_that_does_not_run_is_502_in_words(session: ClientSession, app: LocalApp) -> None:
    await app.stop()
    async with session.get("/node/n1/app/x") as answer:
        assert (answer.status, await answer.text()) == (502, "the application app is not running: connection refused")


async def test_a_websocket_echoes_text_and_bytes_and_closes_with_the_applications_code(session: ClientSession) -> None:
    async with session.ws_connect("/node/n1/app/ws", protocols=("v0", "v1")) as socket:
        assert socket.protocol == "v1"
        await socket.send_str("grüße")
        assert await socket.receive_str() == "grüße"
        data = bytes(range(256)) * 4096
        await socket.send_bytes(data)
        assert await socket.receive_bytes() == data
        await socket.send_str("close")
        closing = await socket.receive()
        assert (closing.type, closing.data, closing.extra) == (WSMsgType.CLOSE, 4001, "as asked")


async def test_the_application_hears_how_a_caller_closes(session: ClientSession, app: LocalApp) -> None:
    async with session.ws_connect("/node/n1/app/ws") as socket:
        await socket.close(code=4002, message=b"enough")
    assert await app.closed.get() == (4002, "enough")


async def test_the_application_hears_that_a_caller_is_gone(session: ClientSession, app: LocalApp) -> None:
    async with session.ws_connect("/node/n1/app/ws") as socket:
        await socket.send_str("x")
        await socket.receive_str()
        assert socket._response.connection is not None
        socket._response.connection.transport.abort()
    assert (await app.closed.get())[0] == 1001


async def test_a_message_above_the_limit_ends_both_sides_and_the_application_hears_why(
    session: ClientSession, app: LocalApp
) -> None:
    async with session.ws_connect("/node/n1/app/ws") as socket:
        with contextlib.suppress(ConnectionError):  # it may be refused while the rest is still sent
            await socket.send_bytes(bytes((16 << 20) + 1))
        assert (await socket.receive()).type in {WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR}
        assert (await app.closed.get())[0] == 1009


@pytest.mark.parametrize("how", ["application", "link"])
async def test_a_websocket_whose_other_end_breaks_closes_with_1014(
    session: ClientSession, node: Pair, how: str
) -> None:
    async with session.ws_connect("/node/n1/app/ws") as socket:
        if how == "link":
            node.server_wire.cut()
        else:
            await socket.send_str("cut")
        assert (await socket.receive()).data == 1014


async def test_a_refused_handshake_has_the_applications_status(session: ClientSession) -> None:
    with pytest.raises(WSServerHandshakeError) as caught:
        await session.ws_connect("/node/n1/app/ws?refuse=1")
    assert caught.value.status == 403
