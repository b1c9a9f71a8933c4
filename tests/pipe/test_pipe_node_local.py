"""The node's own web server, for the programs beside it."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from gateway_core.errors import StartupError
from gateway_pipe.link.model import Farewell, Goodbye, Head, Kind, Reset
from gateway_pipe.node.local import LocalServer
from tests.pipe.gateways import StubGateway, Watcher, dialing, stub_gateway


@asynccontextmanager
async def local_server(gateway: StubGateway, *, wait_s: float = 5.0):
    """The server's URL and a session; ``gateway`` may be away."""
    url = gateway.url or "http://127.0.0.1:9"
    async with dialing(url, Watcher()) as dialer, aiohttp.ClientSession() as session:
        local = LocalServer(dialer, host="127.0.0.1", port=0, sent=lambda _seconds: None, wait_s=wait_s)
        await local.start()
        try:
            yield local.url, session
        finally:
            await local.stop()


def answering(*, head: Head | None = None, body: bytes = b""):
    async def serve(incoming):
        await incoming.answer(head or Head(), body)

    return serve


async def test_a_call_reaches_the_gateway_with_its_raw_path_query_method_and_body():
    seen = []

    async def serve(incoming):
        seen.append((incoming.opening, await incoming.read(1000)))
        await incoming.answer(Head(headers=(("Content-Type", "application/json"),)), b'{"a":1}')

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            raw = aiohttp.client.URL(f"{url}/server/cat//a%2Fb%20/?x=1&y=%20", encoded=True)
            async with session.patch(raw, data=b"body", headers={"X-Mine": "1"}) as response:
                assert response.status == 200
                assert response.headers["X-Event-Return-Code"] == "0"
                assert response.headers["Content-Type"] == "application/json"
                assert response.headers["Server-Timing"].startswith("wait;dur=")
                assert await response.json() == {"a": 1}
    [(opening, body)] = seen
    assert (opening.kind, opening.method, opening.target) == (Kind.NOUN, "PATCH", "cat//a%2Fb%20/?x=1&y=%20")
    assert body == b"body"
    assert opening.header("X-Mine") == "1"
    assert opening.header("Host") == ""


async def test_a_compressed_body_arrives_as_it_was_sent():
    data = gzip.compress(b"hello")
    bodies = []

    async def serve(incoming):
        bodies.append((incoming.opening.header("Content-Encoding"), await incoming.read(1000)))
        await incoming.answer(Head())

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            async with session.post(f"{url}/server/x", data=data, headers={"Content-Encoding": "gzip"}) as response:
                assert response.status == 200
    assert bodies == [("gzip", data)]


@pytest.mark.parametrize(("mode", "status"), [("lax", 200), ("strict", 404)])
async def test_the_caller_chooses_between_restpipes_status_and_real_ones(mode, status):
    async with stub_gateway() as gateway:
        gateway.serve = answering(head=Head(status=404, code=255))
        async with local_server(gateway) as (url, session):
            async with session.get(f"{url}/server/nothing", headers={"X-Pipe-Status": mode}) as response:
                assert response.status == status
                assert response.headers["X-Event-Return-Code"] == "255"


@pytest.mark.parametrize("headers", [{"X-Pipe-Status": "loose"}, {"X-Request-Timeout": "soon"}])
async def test_headers_that_mean_nothing_are_bad_requests(headers):
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.get(f"{url}/server/time", headers=headers) as response:
            assert response.status == 400
            assert next(iter(headers)) in (await response.json(content_type=None))["detail"]


async def test_a_large_body_streams_both_ways_at_once():
    async def chunks():
        for number in range(64):
            yield bytes([number]) * 65536

    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.post(f"{url}/server/echo", data=chunks()) as response:
            size = 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
    assert size == 64 * 65536


async def test_an_answer_whose_link_breaks_is_cut_and_never_ends_cleanly():
    half_sent = asyncio.Event()

    async def body():
        yield b"half"
        half_sent.set()
        await asyncio.Event().wait()

    async def serve(incoming):
        await incoming.answer(Head(), body())

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            async with session.get(f"{url}/server/big") as response:
                assert await response.content.readany() == b"half"
                (await gateway.links.get()).drop("cut")
                with pytest.raises(aiohttp.ClientError):
                    await response.read()


async def test_a_caller_that_leaves_stops_the_handler():
    started, stopped = asyncio.Event(), asyncio.Event()

    async def serve(_incoming):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            call = asyncio.create_task(session.get(f"{url}/server/slow"))
            await started.wait()
            call.cancel()
            await asyncio.wait_for(stopped.wait(), 5)


async def test_a_call_while_the_link_is_away_waits_and_is_then_unavailable():
    async with local_server(StubGateway(), wait_s=0.1) as (url, session):
        async with session.get(f"{url}/server/time") as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json(content_type=None))["detail"] == "no link to the gateway"


async def test_a_call_while_the_link_is_away_is_made_when_it_is_back():
    async with stub_gateway() as gateway:
        gateway.refuse = lambda _request: web.Response(status=502) if len(gateway.requests) < 2 else None
        async with local_server(gateway) as (url, session):
            async with session.get(f"{url}/server/time") as response:
                assert response.status == 200
            assert len(gateway.requests) == 2


async def test_the_callers_time_ends_waiting_for_the_link():
    async with local_server(StubGateway()) as (url, session):
        async with session.get(f"{url}/server/time", headers={"X-Request-Timeout": "0.1"}) as response:
            assert response.status == 504


async def test_the_callers_time_ends_waiting_for_the_answer_and_the_handler_knows_it():
    left = []

    async def serve(incoming):
        left.append(incoming.time_left_s())
        await asyncio.Event().wait()

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            async with session.get(f"{url}/server/time", headers={"X-Request-Timeout": "0.2"}) as response:
                assert response.status == 504
    assert 0 < left[0] <= 0.2


async def test_what_the_gateway_refuses_is_tried_once_more():
    tries = []

    async def serve(incoming):
        tries.append(await incoming.read(10))
        if len(tries) == 1:
            await incoming.refuse(Reset.REFUSED, "busy")
        else:
            await incoming.answer(Head(), b"done")

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            async with session.post(f"{url}/server/time", data=b"x") as response:
                assert await response.read() == b"done"
    assert tries == [b"x", b"x"]


async def test_a_link_that_breaks_before_the_answer_is_502():
    async def serve(_incoming):
        (await gateway.links.get()).drop("cut")

    async with stub_gateway() as gateway:
        gateway.serve = serve
        async with local_server(gateway) as (url, session):
            async with session.get(f"{url}/server/time") as response:
                assert response.status == 502
                assert "may have been carried out" in (await response.json(content_type=None))["detail"]


async def test_health_and_status_follow_the_link():
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.get(f"{url}/server/time"):
            pass
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200
        async with session.get(f"{url}/status") as response:
            status = await response.json()
        assert (status["name"], status["connected"], status["server"]) == ("node1", True, gateway.url)
        assert status["reconnects"] == 0
        gateway.turn_away = Farewell(Goodbye.REVOKED, "gone")
        link = await gateway.links.get()
        link.say_goodbye(Farewell(Goodbye.REVOKED, "gone"))
        await link.closed()
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 503
        async with session.get(f"{url}/status") as response:
            assert (await response.json())["connected"] is False


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "rebound.example:8788"},
        {"Host": "127.0.0.1.example"},
        {"Host": "10.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/server/time", "/status", "/none"])
async def test_web_pages_of_others_are_refused(headers, path):
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.get(url + path, headers=headers) as response:
            assert response.status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:1", "127.1.2.3"])
async def test_all_names_of_this_machine_are_fine(host):
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        async with session.get(f"{url}/server/time", headers=own) as response:
            assert response.status == 200


async def test_other_paths_are_a_problem_that_names_the_right_ones():
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.get(f"{url}/client/x/time") as response:
            assert response.status == 404
            assert "/server/<noun>" in json.loads(await response.text())["detail"]


async def test_an_encoded_prefix_is_not_found():
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.get(aiohttp.client.URL(f"{url}/%73erver/time", encoded=True)) as response:
            assert response.status == 404


async def test_a_method_that_no_link_carries_is_a_bad_request_and_the_link_stays():
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.request("get_it", f"{url}/server/time") as response:
            assert response.status == 400
        async with session.get(f"{url}/server/time") as response:
            assert response.status == 200
        assert len(gateway.requests) == 1


async def test_too_many_headers_are_a_bad_request():
    async with stub_gateway() as gateway, local_server(gateway) as (url, session):
        async with session.get(f"{url}/server/time", headers={f"X-{n}": "x" * 8000 for n in range(12)}) as response:
            assert response.status == 400


async def test_head_has_the_headers_and_no_body():
    async with stub_gateway() as gateway:
        gateway.serve = answering(head=Head(headers=(("Content-Type", "text/plain"),)))
        async with local_server(gateway) as (url, session):
            async with session.head(f"{url}/server/time") as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/plain"
                assert await response.read() == b""


async def test_a_port_that_is_taken_is_named():
    async with stub_gateway() as gateway, dialing(gateway.url, Watcher()) as dialer:
        port = int(gateway.url.rpartition(":")[2])
        local = LocalServer(dialer, host="127.0.0.1", port=port, sent=lambda _seconds: None)
        with pytest.raises(StartupError, match=f"port {port}.*--local"):
            await local.start()
