"""Metrics: what is counted, under which names, and that neither paths nor clients make them grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from gateway_core import Route, hookimpl
from gateway_core.testing.harness import RunningGateway
from gateway_core.testing.plugin import MakeGateway, Serve

ODD_METHODS = ("PROPFIND", "MKCOL", "MOVE", "COPY", "LOCK", "UNLOCK", "SEARCH", "REPORT", "PURGE", "TRACE")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Probe:
    """Routes that answer, fail, and wait until they are let go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()

    async def fine(self, _request: web.Request) -> web.Response:
        """Answer."""
        return web.Response()

    async def fails(self, _request: web.Request) -> web.Response:
        """Fail."""
        raise RuntimeError("broken")

    async def waits(self, _request: web.Request) -> web.Response:
        """Wait."""
        self.began.set()
        await self.go.wait()
        return web.Response()

    @hookimpl
    def gateway_routes(self) -> list[Route]:
        return [
            Route(method="*", path="/fine/{id}", name="fine", handler=self.fine, public=True),
            Route(method="GET", path="/fails", name="fails", handler=self.fails, public=True),
            Route(method="GET", path="/waits", name="waits", handler=self.waits, public=True),
        ]


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
async def running(make_gateway: MakeGateway, probe: Probe) -> AsyncIterator[RunningGateway]:
    async with make_gateway({"plugins": "probe"}, plugins={"probe": probe}) as gateway:
        yield gateway


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(session: ClientSession) -> Samples:
    async with session.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return parsed(await response.text())


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    key = name, frozenset(labels.items())
    return after.get(key, 0.0) - before.get(key, 0.0)


async def test_requests_are_counted_by_route_method_and_status(running: RunningGateway) -> None:
    async with running.session() as session:
        before = await scraped(session)
        for number in range(3):
            async with session.get(f"/fine/{number}") as response:
                assert response.status == 200
        async with session.post("/fine/x") as response:
            assert response.status == 200
        async with session.get("/fails") as response:
            assert response.status == 500
        after = await scraped(session)
    total = "gateway_requests_total"
    assert grown(before, after, total, route="probe:fine", method="GET", status="200") == 3
    assert grown(before, after, total, route="probe:fine", method="POST", status="200") == 1
    assert grown(before, after, total, route="probe:fails", method="GET", status="500") == 1
    assert grown(before, after, "gateway_errors_total", route="probe:fails") == 1
    assert grown(before, after, "gateway_request_seconds_count", route="probe:fine") == 4
    assert grown(before, after, "gateway_request_seconds_bucket", route="probe:fine", le="+Inf") == 4


async def test_what_strangers_send_makes_no_new_series(running: RunningGateway) -> None:
    async with running.session() as session:
        async with session.get("/nowhere") as response:
            assert response.status == 404
        async with session.request("PURGE", "/fine/x") as response:
            assert response.status == 200
        before = await scraped(session)
        for number, method in enumerate(ODD_METHODS):
            async with session.get(f"/nowhere/{number}") as response:
                assert response.status == 404
            async with session.request(method, f"/fine/{number}") as response:
                assert response.status == 200
        after = await scraped(session)
    assert set(after) - set(before) == set()
    total = "gateway_requests_total"
    assert grown(before, after, total, route="unmatched", method="GET", status="404") == len(ODD_METHODS)
    assert grown(before, after, total, route="probe:fine", method="other", status="200") == len(ODD_METHODS)


async def test_requests_under_way_are_a_gauge(running: RunningGateway, probe: Probe) -> None:
    gauge = "gateway_requests_in_progress", frozenset()
    async with running.session() as session:
        idle = (await scraped(session))[gauge]
        waiting = asyncio.ensure_future(session.get("/waits"))
        async with asyncio.timeout(20):
            await probe.began.wait()
        assert (await scraped(session))[gauge] == idle + 1
        probe.go.set()
        async with await waiting:
            pass
        assert (await scraped(session))[gauge] == idle


async def test_metrics_may_ask_for_a_scope(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "", "metrics_public": False}) as running, running.session() as session:
        for headers, status in (
            ({}, 401),
            ({"Authorization": await running.secret("other:scope")}, 403),
            ({"Authorization": await running.secret("core:metrics")}, 200),
        ):
            async with session.get("/metrics", headers=headers) as response:
                assert response.status == status


async def test_no_metric_bears_a_time_of_creation(running: RunningGateway) -> None:
    async with running.session() as session:
        assert [name for name, _ in await scraped(session) if name.endswith("_created")] == []


async def test_several_workers_are_counted_together(serve_process: Serve) -> None:
    async with serve_process("--workers", "2", "--set", "plugins=") as server:
        for _ in range(40):
            async with server.session() as session, session.get("/nowhere") as response:
                assert response.status == 404
        counted = "gateway_request_seconds_count", frozenset({("route", "unmatched")})
        async with server.session() as session, asyncio.timeout(20):
            while (after := await scraped(session)).get(counted, 0.0) < 40:  # a worker counts after its answer is sent
                await asyncio.sleep(0.02)
    assert after[counted] == 40
    assert grown({}, after, "gateway_requests_total", route="unmatched", method="GET", status="404") == 40
    assert not [labels for _, labels in after if any(name == "pid" for name, _ in labels)]
