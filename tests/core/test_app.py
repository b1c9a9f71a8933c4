"""Around every handler: errors and their form, methods, HTTP versions, request ids, CORS, scopes, body limits."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gateway_core import (
    BadRequest,
    Body,
    Conflict,
    Forbidden,
    GatewayError,
    Gone,
    Invalid,
    Kind,
    NotFound,
    Route,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UpstreamFailed,
    client_of,
    hookimpl,
)
from gateway_core.errors import DatabaseError, ObjectMissing, RangeNotSatisfiable, SourceGone, StorageFull
from gateway_core.http.body import read_body
from gateway_core.http.json_body import read_json
from gateway_core.testing.harness import RunningGateway
from gateway_core.testing.plugin import MakeGateway
from gateway_core.version import __version__

PAGE = "https://ckan.example"
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Any]


async def who(request: web.Request) -> web.Response:
    """The caller's name."""
    return web.Response(text=client_of(request).name)


async def echo(request: web.Request) -> web.Response:
    """The body's size."""
    return web.Response(text=str(len(await read_body(request))))


def own_form(_request: web.Request, error: GatewayError) -> web.Response:
    """A contract's own shape of an error."""
    return web.json_response({"own": error.type}, status=418 if error.status == 401 else error.status)


@pytest.fixture
def serve(make_gateway: MakeGateway) -> Serve:
    """``async with serve(Route(...), ...) as gateway``: a gateway whose only plugin has these routes."""

    @asynccontextmanager
    async def serving(*routes: Route, hooks: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Any]:
        plugin = SimpleNamespace(gateway_routes=hookimpl(lambda gateway: list(routes)), **(hooks or {}))
        async with make_gateway({"plugins": "probe", **settings}, plugins={"probe": plugin}) as running:
            yield running

    return serving


def public(handler: Handle, path: str = "/x", method: Any = "GET", **options: Any) -> Route:
    return Route(method=method, path=path, handler=handler, name=path.strip("/") or "root", public=True, **options)


def scoped(handler: Handle, scope: str = "probe:use", path: str = "/x", **options: Any) -> Route:
    return Route(method="GET", path=path, handler=handler, name=path.strip("/"), scope=scope, **options)


def raising(error: BaseException) -> Handle:
    async def handler(_request: web.Request) -> web.Response:
        """Fail."""
        raise error

    return handler


async def exchange(running: RunningGateway, request: bytes) -> bytes:
    """Send ``request`` as it is; all that comes back until the gateway closes."""
    host, port = running.address().split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("error", "status", "problem"),
    [
        (BadRequest("no"), 400, {"type": "bad-request", "title": "Bad request", "detail": "no"}),
        (Forbidden(), 403, {"type": "forbidden", "title": "Not allowed"}),
        (NotFound("no such"), 404, {"type": "not-found", "title": "Not found", "detail": "no such"}),
        (Conflict(), 409, {"type": "conflict", "title": "Conflict"}),
        (Gone(), 410, {"type": "gone", "title": "Gone"}),
        (
            Invalid({"items.3.url": ["no URL"]}),
            422,
            {
                "type": "invalid",
                "title": "Invalid request",
                "detail": "items.3.url: no URL",
                "errors": {"json": {"items.3.url": ["no URL"]}},
            },
        ),
        (
            UpstreamFailed("none", reasons=[{"url": "u", "reason": "gone"}]),
            502,
            {
                "type": "upstream-failed",
                "title": "Upstream failed",
                "detail": "none",
                "reasons": [{"url": "u", "reason": "gone"}],
            },
        ),
        (SourceGone("404"), 502, {"type": "source-gone", "title": "Source not there", "detail": "404"}),
        (ObjectMissing(), 404, {"type": "object-missing", "title": "Not found"}),
        (StorageFull(), 507, {"type": "storage-full", "title": "No space left"}),
    ],
)
async def test_errors_are_problem_json(serve: Serve, error: GatewayError, status: int, problem: dict[str, Any]) -> None:
    async with serve(public(raising(error))) as running, running.session() as session:
        async with session.get("/x") as response:
            assert response.status == status
            assert response.content_type == "application/problem+json"
            assert response.headers["Cache-Control"] == "no-store"
            body = await response.json(content_type=None)
    assert body == {**problem, "type": f"urn:content-gateway:{problem['type']}", "status": status}


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (TooManyRequests(retry_after_s=7), "Retry-After", "7"),
        (Unavailable(retry_after_s=0), "Retry-After", "1"),
        (DatabaseError(), "Retry-After", "2"),
        (RangeNotSatisfiable(5), "Content-Range", "bytes */5"),
        (Unauthorized(), "WWW-Authenticate", 'Bearer realm="gateway"'),
        (NotFound(headers={"X-Own": "1"}), "X-Own", "1"),
    ],
)
async def test_headers_that_an_error_carries_are_sent(serve: Serve, error: GatewayError, name: str, value: str) -> None:
    routes = public(raising(error)), public(raising(error), "/own", errors=own_form)
    async with serve(*routes) as running, running.session() as session:
        for path in ("/x", "/own"):
            async with session.get(path) as response:
                assert response.headers[name] == value


@pytest.mark.parametrize("error", [ValueError("secret words"), KeyError("x"), AssertionError(), TimeoutError()])
async def test_what_nobody_foresaw_is_a_500_that_tells_nothing(serve: Serve, error: Exception) -> None:
    async with serve(public(raising(error)), debug=True) as running, running.session() as session:
        async with session.get("/x") as response:
            assert response.status == 500
            body = await response.json(content_type=None)
    assert body == {"type": "urn:content-gateway:internal", "title": "Internal error", "status": 500}


async def test_an_unknown_path_is_a_problem_too(serve: Serve) -> None:
    async with serve() as running, running.session() as session:
        async with session.get("/nowhere") as response:
            assert response.status == 404
            assert (await response.json(content_type=None))["type"] == "urn:content-gateway:not-found"


@pytest.mark.parametrize("status", [400, 404, 413, 415])
async def test_errors_of_aiohttp_are_told_in_our_form(serve: Serve, status: int) -> None:
    error: web.HTTPException = {
        400: web.HTTPBadRequest(reason="odd"),
        404: web.HTTPNotFound(),
        413: web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2),
        415: web.HTTPUnsupportedMediaType(),
    }[status]
    async with serve(public(raising(error))) as running, running.session() as session:
        async with session.get("/x") as response:
            assert response.status == (400 if status == 415 else status)
            assert response.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "kind", "wanted"),
    [
        ("/scoped", "unauthorized", 418),
        ("/bad", "invalid", 422),
        ("/raises", "conflict", 409),
        ("/other", "method-not-allowed", 405),
        ("/large", "too-large", 413),
    ],
)
async def test_a_routes_own_form_covers_every_error_of_the_core(
    serve: Serve, path: str, kind: str, wanted: int
) -> None:
    async def reads(request: web.Request) -> web.Response:
        """Read JSON."""
        return web.json_response(await read_json(request))

    routes = (
        Route(method="POST", path="/scoped", handler=who, name="s", scope="probe:use", errors=own_form),
        public(reads, "/bad", "POST", errors=own_form),
        public(raising(Conflict()), "/raises", "POST", errors=own_form),
        public(who, "/other", "GET", errors=own_form),
        public(reads, "/large", "POST", errors=own_form, max_body_bytes=2),
    )
    async with serve(*routes) as running, running.session() as session:
        async with session.post(path, data=b"{{{") as response:
            assert (response.status, await response.json()) == (wanted, {"own": kind})


async def test_405_names_what_is_allowed(serve: Serve) -> None:
    async with (
        serve(Route(method=("GET", "PUT"), path="/x", handler=who, name="x", public=True)) as running,
        running.session() as session,
    ):
        async with session.delete("/x") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET, HEAD, PUT"
            assert (await response.json(content_type=None))["type"] == "urn:content-gateway:method-not-allowed"


@pytest.mark.parametrize(
    ("version", "status"), [("HTTP/2.0", 505), ("HTTP/0.9", 505), ("HTTP/1.2", 400), ("HTTP/3.0", 400)]
)
async def test_other_versions_of_http_are_refused_and_the_connection_closed(
    serve: Serve, version: str, status: int
) -> None:
    async with serve(public(who)) as running:
        answer = await exchange(running, f"GET /x {version}\r\nHost: x\r\n\r\n".encode())
    assert int(answer.split(b" ", 2)[1]) == status
    assert b"anonymous" not in answer


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
async def test_http_1_0_and_1_1_are_spoken(serve: Serve, version: str) -> None:
    async with serve(public(who)) as running:
        answer = await exchange(running, f"GET /x {version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(f"{version} 200 OK\r\n".encode())
    assert answer.endswith(b"\r\n\r\nanonymous")


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 64])
async def test_a_request_id_that_was_given_is_kept(serve: Serve, given: str) -> None:
    async with serve(public(who)) as running, running.session() as session:
        async with session.get("/x", headers={"X-Request-Id": given}) as response:
            assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a,b", "ä", "<script>", "a%0d%0ab"])
async def test_other_requests_get_an_id_of_their_own(serve: Serve, given: str) -> None:
    async with serve(public(who)) as running, running.session() as session:
        ids = []
        for _ in range(2):
            async with session.get("/x", headers={"X-Request-Id": given}) as response:
                ids.append(response.headers["X-Request-Id"])
    assert ids[0] != ids[1]
    assert all(re.fullmatch(r"[0-9a-f]{32}", found) for found in ids)


@pytest.mark.parametrize("path", ["/x", "/nowhere", "/fails", "/openapi.json", "/docs"])
async def test_every_answer_has_the_headers_of_the_house(serve: Serve, path: str) -> None:
    async with serve(public(who), public(raising(ValueError()), "/fails")) as running, running.session() as session:
        async with session.get(path) as response:
            assert response.headers["Server"] == f"content-gateway/{__version__}"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Request-Id"]


async def test_a_file_is_sent_once_and_the_connection_goes_on(serve: Serve, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_bytes(b"0123456789" * 100_000)

    async def send(_request: web.Request) -> web.StreamResponse:
        """A file."""
        return web.FileResponse(tmp_path / "file")

    request = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serve(public(send)) as running:
        last = b"GET /x HTTP/1.1\r\nHost: x\r\nRange: bytes=0-3\r\nConnection: close\r\n\r\n"
        answer = await exchange(running, request * 2 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"0123456789") == 200_000
    assert answer.endswith(b"\r\n\r\n0123")
    assert "Unhandled" not in caplog.text


async def test_an_answer_that_has_begun_is_cut_and_never_ended(serve: Serve) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        """Begin, then fail."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first part")
        raise UpstreamFailed("too late")

    async with serve(public(breaks)) as running:
        assert (await exchange(running, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"\r\n\r\na\r\nfirst part\r\n")
        async with running.session() as session:
            async with session.get("/x") as response:
                assert response.status == 200
                with pytest.raises(Exception, match=r"(?i)payload|transfer|reset|disconnect"):
                    await response.read()


async def test_a_scope_needs_a_client_that_holds_it(serve: Serve) -> None:
    async with serve(scoped(who), scoped(who, "probe:other", "/other")) as running, running.session() as session:
        client, secret = await running.add_client("probe:use")
        for headers, path, wanted in (
            ({}, "/x", 401),
            ({"Authorization": "gw_wrong"}, "/x", 401),
            ({"Authorization": secret}, "/x", 200),
            ({"Authorization": f"Bearer {secret}"}, "/x", 200),
            ({"Authorization": secret}, "/other", 403),
        ):
            async with session.get(path, headers=headers) as response:
                assert response.status == wanted, (headers, path)
                if wanted == 200:
                    assert await response.text() == client.name


@pytest.mark.parametrize(
    ("held", "path", "status"),
    [
        ("pipe:call:node1", "/call/node1", 200),
        ("pipe:call:node1", "/call/node2", 403),
        ("pipe:call:*", "/call/node2", 200),
        ("pipe:*", "/call/node2", 200),
        ("*", "/call/node2", 200),
        ("pipe:call", "/call/node1", 403),
        ("pipe:call:node1", "/call/node1%3Ax", 403),
        ("pipe:call:node1:*", "/call/node1%3Ax", 403),
        ("pipe:call:*", "/call/%2A", 200),
        ("pipe:call:node1", "/call/%2A", 403),
        ("admin", "/call/node1", 403),
    ],
)
async def test_a_scope_may_name_the_object_in_the_path(serve: Serve, held: str, path: str, status: int) -> None:
    route = Route(method="GET", path="/call/{node}", handler=who, name="call", scope="pipe:call:{node}")
    async with serve(route) as running, running.session() as session:
        secret = await running.secret(held)
        async with session.get(path, headers={"Authorization": secret}) as response:
            assert response.status == status


async def test_public_routes_know_the_caller_and_take_a_bad_credential_for_none(serve: Serve) -> None:
    async with serve(public(who)) as running, running.session() as session:
        client, secret = await running.add_client("probe:use")
        for value, name in ((secret, client.name), ("gw_wrong", "anonymous"), ("Bearer a.b.c", "anonymous")):
            async with session.get("/x", headers={"Authorization": value}) as response:
                assert (response.status, await response.text()) == (200, name)


async def test_nothing_of_the_handler_runs_without_the_scope(serve: Serve) -> None:
    ran: list[str] = []

    async def handler(_request: web.Request) -> web.Response:
        """Leave a trace."""
        ran.append("ran")
        return web.Response()

    async with serve(scoped(handler, "probe:use", "/x")) as running, running.session() as session:
        for method in ("GET", "HEAD"):
            async with session.request(method, "/x") as response:
                assert response.status == 401
    assert ran == []


async def test_bodies_are_limited_by_route_and_by_setting(serve: Serve) -> None:
    routes = (
        public(echo, "/x", "POST"),
        public(echo, "/small", "POST", max_body_bytes=10),
        public(echo, "/stream", "POST", body=Body.STREAM),
    )
    async with serve(*routes, max_body_bytes=2048) as running, running.session() as session:
        for path, size, wanted in (
            ("/x", 2048, 200),
            ("/x", 2049, 413),
            ("/small", 10, 200),
            ("/small", 11, 413),
            ("/stream", 100_000, 200),
        ):
            async with session.post(path, data=b"x" * size) as response:
                assert response.status == wanted, (path, size)


async def test_capability_routes_may_be_used_by_pages_of_any_origin(serve: Serve) -> None:
    routes = public(who, cors=True), public(who, "/closed"), public(raising(NotFound()), "/gone", cors=True)
    async with serve(*routes) as running, running.session(headers={"Origin": PAGE}) as session:
        for path, wanted in (("/x", "*"), ("/gone", "*"), ("/closed", None)):
            async with session.get(path) as response:
                assert response.headers.get("Access-Control-Allow-Origin") == wanted, path
                assert "Access-Control-Allow-Credentials" not in response.headers
                assert ("Content-Disposition" in response.headers.get("Access-Control-Expose-Headers", "")) == (
                    wanted is not None
                )


@pytest.mark.parametrize(("origin", "wanted"), [(PAGE, PAGE), ("https://evil.example", None)])
async def test_cors_origins_are_a_setting(serve: Serve, origin: str, wanted: str | None) -> None:
    async with serve(public(who, cors=True), cors_origins=PAGE) as running, running.session() as session:
        async with session.get("/x", headers={"Origin": origin}) as response:
            assert response.headers.get("Access-Control-Allow-Origin") == wanted
            assert response.headers["Vary"] == "Origin"
        async with session.options(
            "/x", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}
        ) as response:
            assert response.status == 204
            assert response.headers.get("Access-Control-Allow-Origin") == wanted


async def test_a_preflight_is_told_the_methods_of_the_path(serve: Serve) -> None:
    routes = (
        public(who, "/x", cors=True),
        Route(method=("PUT", "DELETE"), path="/x", handler=who, name="put", public=True, cors=True),
        Route(method="PATCH", path="/x", handler=who, name="patch", public=True),
    )
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "if-range"}
    async with serve(*routes) as running, running.session() as session:
        async with session.options("/x", headers=asked) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD, PUT"
            assert "If-Range" in response.headers["Access-Control-Allow-Headers"]
        async with session.options("/x") as response:
            assert (response.status, response.headers["Allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PATCH, PUT")


async def test_a_route_that_answers_options_itself_is_left_alone(serve: Serve) -> None:
    async def options(_request: web.Request) -> web.Response:
        """Say so."""
        return web.Response(text="mine")

    routes = public(who, cors=True), Route(method="OPTIONS", path="/x", handler=options, name="options", public=True)
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    async with serve(*routes) as running, running.session() as session:
        async with session.options("/x", headers=asked) as response:
            assert await response.text() == "mine"


async def test_a_websocket_may_be_limited_to_origins(serve: Serve) -> None:
    async def talk(request: web.Request) -> web.StreamResponse:
        """One word."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("word")
        await socket.close()
        return socket

    routes = public(talk, kind=Kind.WEBSOCKET, origins=(PAGE,)), public(talk, "/any", kind=Kind.WEBSOCKET)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    async with serve(*routes) as running, running.session() as session:
        for path, origin, word in (("/x", PAGE, "word"), ("/any", "https://evil.example", "word")):
            async with session.ws_connect(path, origin=origin) as socket:
                assert await socket.receive_str(timeout=10) == word
        async with session.get("/x", headers={**upgrade, "Origin": "https://evil.example"}) as response:
            assert response.status == 403


async def test_a_client_that_leaves_cancels_its_handler(serve: Serve) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def waits(_request: web.Request) -> web.Response:
        """Wait for ever."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return web.Response()

    async with serve(public(waits, "/leaves")) as running:
        async with ClientSession() as session:
            asking = asyncio.ensure_future(session.get(f"{running.url}/leaves"))
            async with asyncio.timeout(20):
                await began.wait()
            asking.cancel()
        async with asyncio.timeout(20):
            await ended.wait()
        assert value('gateway_clients_gone_total{route="probe:leaves"}', await metrics(running)) == 1


@pytest.mark.parametrize("kind", ["file", "body"])
async def test_a_client_that_takes_nothing_is_cut_and_no_error_of_ours(serve: Serve, tmp_path: Path, kind: str) -> None:
    size = 32 << 20
    (tmp_path / "file").write_bytes(b"x" * size)

    async def send(_request: web.Request) -> web.StreamResponse:
        """Much."""
        return web.FileResponse(tmp_path / "file") if kind == "file" else web.Response(body=b"x" * size)

    async with serve(public(send, f"/{kind}"), write_stall_s=0.5) as running:
        host, port = running.address().split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, f"GET /{kind} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            gone = f'gateway_clients_gone_total{{route="probe:{kind}"}}'
            async with asyncio.timeout(15):
                while value(gone, text := await metrics(running)) < 1:
                    await asyncio.sleep(0.1)
        assert value(f'gateway_errors_total{{route="probe:{kind}"}}', text) == 0


async def metrics(running: RunningGateway) -> str:
    async with running.session() as session, session.get("/metrics") as response:
        return await response.text()


def value(series: str, text: str) -> float:
    """The sample of a series, 0 while there is none."""
    return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series)), 0.0)


async def test_samples_are_served_only_when_asked_for(serve: Serve) -> None:
    async with serve() as running, running.session() as session:
        async with session.get("/demo/hello.txt") as response:
            assert response.status == 404
    async with serve(demo=True) as running, running.session() as session:
        async with session.get("/demo/hello.txt") as response:
            assert (response.status, await response.text()) == (200, "Hello from the content gateway.\n")
            assert response.headers["ETag"]
            assert response.headers["Last-Modified"]
        async with session.get("/demo/nothing") as response:
            assert (response.status, json.loads(await response.read())["status"]) == (404, 404)
