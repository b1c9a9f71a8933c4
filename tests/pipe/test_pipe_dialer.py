"""One link, kept for ever."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from gateway_core.errors import Unavailable
from gateway_pipe.link.model import Farewell, Goodbye, Head, Kind, LinkLost, Opening
from gateway_pipe.node.repeats import Repeats
from tests.pipe.gateways import StubGateway, Watcher, dialing, stub_gateway

ASK = Opening(kind=Kind.NOUN, method="POST", target="cat//a%2Fb?x=1")


async def test_a_node_connects_and_both_sides_call_each_other():
    async with stub_gateway() as gateway, dialing(gateway.url, Watcher()) as dialer:
        link = await dialer.wait_link(5)
        async with link.call(ASK, b"from the node") as answer:
            assert answer.head.header("X-Target") == "cat//a%2Fb?x=1"
            assert await answer.read(100) == b"from the node"
        back = await gateway.links.get()
        async with back.call(ASK, b"from the gateway") as answer:
            assert await answer.read(100) == b"from the gateway"


async def test_the_gateway_sees_name_credential_and_what_the_node_has():
    async with stub_gateway() as gateway, dialing(gateway.url, Watcher()) as dialer:
        await dialer.wait_link(5)
        request, hello = gateway.requests[0], gateway.hellos[0]
    assert request.path == "/pipe/link/node1"
    assert request.headers["Authorization"] == "Bearer s3cret"
    assert "Sec-WebSocket-Extensions" not in request.headers
    assert (hello.name, hello.instance, hello.nouns) == ("node1", "i1", ("time",))


async def test_a_link_that_is_cut_is_back_soon():
    watcher = Watcher()
    async with stub_gateway() as gateway, dialing(gateway.url, watcher) as dialer:
        first = await dialer.wait_link(5)
        (await gateway.links.get()).drop("cut")
        assert (await watcher.farewells.get()).code is None
        assert dialer.link is None
        second = await dialer.wait_link(5)
        assert second is not first
        assert dialer.status()["reconnects"] == 1


async def test_calls_under_way_fail_when_the_link_is_cut():
    async def never(_incoming):
        await asyncio.Event().wait()

    async with stub_gateway() as gateway:
        gateway.serve = never
        async with dialing(gateway.url, Watcher()) as dialer:
            link = await dialer.wait_link(5)
            call = asyncio.create_task(_read(link))
            while not link.streams:
                await asyncio.sleep(0)
            (await gateway.links.get()).drop("cut")
            with pytest.raises(LinkLost):
                await asyncio.wait_for(call, 5)


async def test_a_gateway_that_is_away_is_tried_until_it_is_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    watcher, gateway = Watcher(), StubGateway()
    async with dialing(f"http://127.0.0.1:{port}", watcher) as dialer:
        attempts, last, reason = await watcher.failures.get()
        assert (attempts, last) == (1, None)
        assert reason
        await gateway.start(port)
        try:
            await dialer.wait_link(6)
        finally:
            await gateway.stop()


async def test_retry_after_of_a_gateway_that_sheds_is_honoured():
    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.refuse = lambda _request: web.Response(status=503, headers={"Retry-After": "100"})
        async with dialing(gateway.url, watcher) as dialer:
            await watcher.failures.get()
            with pytest.raises(Unavailable) as caught:
                await dialer.wait_link(0.01)
    assert 95 <= int(caught.value.headers["Retry-After"]) <= 150


async def test_a_refused_secret_is_tried_again_and_the_status_is_in_the_reason():
    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.refuse = lambda _request: web.Response(status=401) if len(gateway.requests) < 2 else None
        async with dialing(gateway.url, watcher) as dialer:
            _, _, reason = await watcher.failures.get()
            assert "401" in reason
            await dialer.wait_link(6)


@pytest.mark.parametrize(("code", "least", "most"), [(Goodbye.REPLACED, 29, 60), (Goodbye.REVOKED, 59, 67)])
async def test_a_node_that_is_sent_away_stays_away(code, least, most):
    watcher = Watcher()
    async with stub_gateway() as gateway, dialing(gateway.url, watcher) as dialer:
        await dialer.wait_link(5)
        (await gateway.links.get()).say_goodbye(Farewell(code, "because"))
        assert await watcher.farewells.get() == Farewell(code, "because")
        with pytest.raises(Unavailable) as caught:
            await dialer.wait_link(0.01)
    assert least <= int(caught.value.headers["Retry-After"]) <= most


async def test_a_goodbye_in_the_handshake_says_when_to_come_again():
    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.turn_away = Farewell(Goodbye.OVERLOAD, "too many", 50)
        async with dialing(gateway.url, watcher) as dialer:
            _, _, reason = await watcher.failures.get()
            with pytest.raises(Unavailable) as caught:
                await dialer.wait_link(0.01)
    assert "too many" in reason
    assert 49 <= int(caught.value.headers["Retry-After"]) <= 76


async def test_a_gateway_that_stops_gets_a_new_link_while_old_calls_end():
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(incoming):
        started.set()
        await release.wait()
        await incoming.answer(Head(), b"late")

    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.serve = slow
        async with dialing(gateway.url, watcher) as dialer:
            old = await dialer.wait_link(5)
            async with asyncio.TaskGroup() as tasks:
                call = tasks.create_task(_read(old))
                await started.wait()
                (await gateway.links.get()).say_goodbye(Farewell(Goodbye.SHUTDOWN, "restart", 0))
                await watcher.farewells.get()
                new = await dialer.wait_link(5)
                assert new is not old
                release.set()
            assert call.result() == b"late"


async def _read(link):
    async with link.call(ASK) as answer:
        return await answer.read(100)


async def test_a_gateway_that_neither_reads_nor_answers_is_noticed_in_two_and_a_half_pings():
    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.ping_s, gateway.deaf = 0.1, True
        async with dialing(gateway.url, watcher) as dialer:
            await dialer.wait_link(5)
            began = asyncio.get_running_loop().time()
            farewell = await watcher.farewells.get()
            took_s = asyncio.get_running_loop().time() - began
            gateway.deaf = False
            await dialer.wait_link(5)
    assert watcher.silent
    assert "silent" in farewell.reason
    assert 0.2 < took_s < 3


@pytest.mark.parametrize(
    ("scheme", "variable", "asked"),
    [("https", "HTTPS_PROXY", "CONNECT gateway.invalid:443 "), ("http", "HTTP_PROXY", "GET http://gateway.invalid/")],
)
async def test_the_proxy_of_the_environment_is_used(monkeypatch, scheme, variable, asked):
    requests = asyncio.Queue()

    async def refuse(reader, writer):
        requests.put_nowait((await reader.readline()).decode())
        writer.write(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        watcher = Watcher()
        async with dialing(f"{scheme}://gateway.invalid", watcher):
            assert (await requests.get()).startswith(asked)
            _, _, reason = await watcher.failures.get()
    assert "502" in reason


async def test_heartbeats_measure_the_round_trip():
    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.ping_s = 0.05
        async with dialing(gateway.url, watcher) as dialer:
            assert 0 < await watcher.beats.get() < 1
            assert dialer.status()["rtt_ms"] > 0


async def test_a_web_server_that_is_no_gateway_is_a_clear_failure():
    watcher = Watcher()
    async with stub_gateway() as gateway:
        gateway.refuse = lambda _request: web.Response(text="hello")
        async with dialing(gateway.url, watcher):
            _, _, reason = await watcher.failures.get()
    assert "200" in reason


async def test_closing_says_goodbye_and_lets_calls_end():
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(incoming):
        started.set()
        await release.wait()
        await incoming.answer(Head(), b"done")

    async with stub_gateway() as gateway, dialing(gateway.url, Watcher(), serve=slow) as dialer:
        link = await gateway.links.get()
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(_read(link))
            await started.wait()
            closing = tasks.create_task(dialer.close(5))
            assert (await link.leaving()).code is Goodbye.SHUTDOWN
            release.set()
        assert closing.done()
        assert call.result() == b"done"


async def test_closing_cuts_what_does_not_end():
    started = asyncio.Event()

    async def never(_incoming):
        started.set()
        await asyncio.Event().wait()

    async with stub_gateway() as gateway, dialing(gateway.url, Watcher(), serve=never) as dialer:
        link = await gateway.links.get()
        call = asyncio.create_task(_read(link))
        await started.wait()
        await dialer.close(0.05)
        with pytest.raises(LinkLost):
            await asyncio.wait_for(call, 5)


def test_equal_failures_are_told_ever_less_often_and_how_many_were_left_out():
    repeats = Repeats()
    told = {second: count for second in range(4000) if (count := repeats.due("refused", second)) is not None}
    assert list(told)[:5] == [0, 10, 30, 70, 150]
    assert told[0] == 0
    assert told[10] == 9
    assert list(told)[-1] - list(told)[-2] == 600
    assert repeats.due("another", 4000) == 0
    repeats.forget()
    assert repeats.due("another", 4001) == 0
