"""Liveness and readiness: what makes a gateway unready, what only degrades it, and what it says while it drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway_core import Degraded, Gateway, StorageError, hookimpl
from gateway_core.app.health import CHECK_TIMEOUT_S, REMEMBER_S, Health
from gateway_core.testing.harness import RunningGateway
from gateway_core.testing.plugin import MakeGateway
from gateway_core.testing.services import PrivatePostgres, PrivateRedis, free_port

KEY = "a key of more than sixteen characters"


class Checked:
    """A plugin with the given checks."""

    def __init__(self, **checks: Callable[[], Awaitable[None]]) -> None:
        self._checks = checks

    @hookimpl
    def gateway_health(self) -> Mapping[str, Any]:
        return self._checks


def making(make_gateway: MakeGateway, **checks: Any) -> AbstractAsyncContextManager[RunningGateway]:
    return make_gateway({"plugins": "probe"}, plugins={"probe": Checked(**checks)})


async def told(session: ClientSession) -> tuple[int, dict[str, Any]]:
    async with session.get("/readyz") as response:
        return response.status, await response.json()


async def told_until(session: ClientSession, condition: Callable[[dict[str, Any]], bool]) -> tuple[int, dict[str, Any]]:
    """The first answer for which ``condition`` holds."""
    async with asyncio.timeout(30):
        while True:
            status, body = await told(session)
            if condition(body):
                return status, body
            await asyncio.sleep(0.05)


async def fine() -> None:
    """Nothing is wrong."""


async def less() -> None:
    """It works, but."""
    raise Degraded("half of it is away")


async def test_a_gateway_is_ready_when_database_and_storage_work(make_gateway: MakeGateway) -> None:
    async with making(make_gateway, fine=fine) as running, running.session() as session:
        assert await told(session) == (
            200,
            {
                "status": "ready",
                "checks": {"database": "ok", "storage": "ok", "probe.fine": "ok"},
                "degraded": [],
            },
        )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StorageError("the disk is full"), "the disk is full"),
        (StorageError(), "Storage failed"),
        (RuntimeError("password=canary"), "RuntimeError"),
        (OSError(5, "canary"), "OSError"),
    ],
)
async def test_a_failing_check_makes_it_unready_and_tells_no_internals(
    make_gateway: MakeGateway, error: Exception, text: str
) -> None:
    async def bad() -> None:
        raise error

    async with making(make_gateway, bad=bad, fine=fine) as running, running.session() as session:
        status, body = await told(session)
        assert (status, body["status"]) == (503, "unready")
        assert body["checks"]["probe.bad"] == text
        assert body["checks"]["probe.fine"] == "ok"
        async with session.get("/healthz") as response:
            assert response.status == 200


async def test_less_than_configured_is_degraded_and_ready(make_gateway: MakeGateway) -> None:
    async with making(make_gateway, less=less, fine=fine) as running, running.session() as session:
        status, body = await told(session)
    assert (status, body["status"], body["degraded"]) == (200, "ready", ["probe.less"])
    assert body["checks"]["probe.less"] == "half of it is away"


async def test_a_check_that_hangs_is_given_up(make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway_core.app.health.CHECK_TIMEOUT_S", 0.2)
    ended: list[bool] = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async with making(make_gateway, hangs=hangs, fine=fine) as running, running.session() as session:
        status, body = await told(session)
    assert (status, body["checks"]["probe.hangs"]) == (503, "no answer within 0.2 s")
    assert ended == [True]
    assert CHECK_TIMEOUT_S == 5.0


async def test_checks_run_together_and_once_a_second_however_many_ask(make_gateway: MakeGateway) -> None:
    runs: list[str] = []
    both = asyncio.Barrier(2)

    def check(name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            runs.append(name)
            await both.wait()

        return run

    async with making(make_gateway, a=check("a"), b=check("b")) as running, running.session() as session:
        began = time.monotonic()
        answers = await asyncio.gather(*(told(session) for _ in range(20)))
        assert {status for status, _ in answers} == {200}
        assert 2 <= len(runs) <= 2 * (1 + (time.monotonic() - began) // REMEMBER_S)
        await told_until(session, lambda _: len(runs) >= 4)
        assert time.monotonic() - began >= REMEMBER_S
        assert sorted(runs[:4]) == ["a", "a", "b", "b"]


async def test_an_asker_who_leaves_spoils_nothing_for_the_next(make_gateway: MakeGateway) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def waits() -> None:
        began.set()
        await go.wait()

    async with making(make_gateway, waits=waits) as running:
        async with running.session() as session:
            leaving = asyncio.ensure_future(session.get("/readyz"))
            async with asyncio.timeout(20):
                await began.wait()
            leaving.cancel()
        go.set()
        async with running.session() as session:
            assert (await told(session))[0] == 200


async def test_a_draining_gateway_is_unready_at_once_and_alive(make_gateway: MakeGateway) -> None:
    async with making(make_gateway, fine=fine) as running, running.session() as session:
        assert (await told(session))[0] == 200
        running.core.draining.set()
        status, body = await told(session)
        assert (status, body["status"]) == (503, "draining")
        assert set(body["checks"].values()) == {"ok"}
        async with session.get("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})


async def test_liveness_asks_no_check(make_gateway: MakeGateway) -> None:
    asked: list[bool] = []

    async def counts() -> None:
        asked.append(True)

    async with making(make_gateway, counts=counts) as running, running.session() as session:
        async with session.get("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
    assert asked == []


async def test_a_storage_that_cannot_be_written_is_told(make_gateway: MakeGateway, tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'storage'}"
    async with make_gateway({"plugins": "", "storage_url": url}) as running, running.session() as session:
        assert (await told(session))[0] == 200
        (tmp_path / "storage").rename(tmp_path / "away")
        (tmp_path / "storage").write_text("a file in its place")
        status, body = await told_until(session, lambda body: body["checks"]["storage"] != "ok")
        assert (status, body["status"], body["checks"]["database"]) == (503, "unready", "ok")


async def test_redis_away_at_the_start_is_degraded_and_found_later(
    make_gateway: MakeGateway, redis_server: PrivateRedis
) -> None:
    redis_server.stop()
    try:
        async with (
            make_gateway({"plugins": "", "redis_url": redis_server.url}) as running,
            running.session() as session,
        ):
            status, body = await told(session)
            assert (status, body["status"], body["degraded"]) == (200, "ready", ["redis"])
            assert body["checks"]["redis"] == "Redis is away; wake-ups go through the database"
            assert running.core.redis is None
            redis_server.start()
            status, body = await told_until(session, lambda body: not body["degraded"])
            assert (status, body["checks"]["redis"]) == (200, "ok")
            assert running.core.redis is not None
            redis_server.kill()
            status, body = await told_until(session, lambda body: body["degraded"] == ["redis"])
            assert status == 200
    finally:
        if not redis_server.answers():
            redis_server.start()


async def test_redis_is_no_check_where_none_is_set(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": ""}) as running, running.session() as session:
        assert "redis" not in (await told(session))[1]["checks"]


async def test_a_redis_that_is_not_there_is_never_waited_for(make_gateway: MakeGateway) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    began = time.monotonic()
    async with make_gateway({"plugins": "", "redis_url": url}) as running, running.session() as session:
        assert (await told(session))[0] == 200
    assert time.monotonic() - began < 10


async def test_postgresql_that_goes_away_makes_it_unready_until_it_comes_back(
    make_gateway: MakeGateway, postgres_server: PrivatePostgres
) -> None:
    settings = {"plugins": "", "db_url": postgres_server.create("health"), "secret_key": KEY, "auto_migrate": True}
    async with make_gateway(settings) as running, running.session() as session:
        assert (await told(session))[0] == 200
        postgres_server.kill()
        try:
            status, body = await told_until(session, lambda body: body["checks"]["database"] != "ok")
            assert (status, body["status"]) == (503, "unready")
            assert postgres_server.password not in str(body)
        finally:
            postgres_server.start()
        status, _ = await told_until(session, lambda body: body["checks"]["database"] == "ok")
        assert status == 200


async def test_plugins_that_failed_to_load_are_told_without_strictness(make_gateway: MakeGateway) -> None:
    class Misspelt:
        @hookimpl
        def gateway_rotues(self, gateway: Gateway) -> None: ...

    settings = {"plugins": "bad,probe", "plugins_strict": False}
    async with make_gateway(settings, plugins={"bad": Misspelt(), "probe": Checked(fine=fine)}) as running:
        answer = (await Health(running.core).readiness()).body()
    assert answer["status"] == "ready"
    assert answer["degraded"] == ["plugins"]
    assert answer["checks"]["plugins"] == "failed to load: bad"
