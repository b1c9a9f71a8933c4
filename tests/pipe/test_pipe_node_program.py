"""The node program from start to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from datetime import datetime

import aiohttp
import pytest

from gateway_core.errors import ConfigError, StartupError
from gateway_pipe.apps.expose import parse_expose
from gateway_pipe.identity.urls import gateway_url
from gateway_pipe.link.model import Goodbye, Kind, LinkLost, Opening, StreamReset
from gateway_pipe.node import program
from gateway_pipe.node.credentials import SecretIdentity
from gateway_pipe.node.program import Options, run_node
from tests.pipe.gateways import stub_gateway

TIME = Opening(kind=Kind.NOUN, method="GET", target="time")
HANDLERS = f"{__name__}:Told"


class Told:
    """Handlers that keep what they are told."""

    said: asyncio.Queue[tuple]
    release: asyncio.Event

    async def connect_success(self):
        self.said.put_nowait(("connect_success",))

    async def connect_fail(self, retry_attempts, last_disconnected):
        self.said.put_nowait(("connect_fail", retry_attempts, last_disconnected))

    def stop_hook(self):
        self.said.put_nowait(("stopped",))

    async def get_hang(self, ctx, post_data):
        self.said.put_nowait(("hangs",))
        try:
            await asyncio.Event().wait()
        finally:
            self.said.put_nowait(("cancelled",))

    async def get_slow(self, ctx, post_data):
        self.said.put_nowait(("slow", ctx.name))
        await self.release.wait()
        return {"slow": True}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(Told, "said", asyncio.Queue(), raising=False)
    monkeypatch.setattr(Told, "release", asyncio.Event(), raising=False)


@asynccontextmanager
async def node(url, folder, **options):
    """The lines that the node prints, while it runs; stopped as a service manager does it."""
    lines = asyncio.Queue()
    wanted = Options(
        target=gateway_url(url),
        identity=SecretIdentity("node1", "s3cret", ca=None, secure=False),
        folder=folder,
        **{"local": ("127.0.0.1", 0), **options},
    )
    running = asyncio.create_task(run_node(wanted, announce=lines.put_nowait))
    try:
        yield lines, running
    finally:
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(running, 10)


async def ask(link, opening=TIME):
    async with link.call(opening) as answer:
        return await answer.read(1000)


async def test_a_node_says_that_it_is_ready_and_answers_both_ways(tmp_path):
    async with stub_gateway() as gateway, node(gateway.url, tmp_path) as (lines, _):
        line = await lines.get()
        assert line.startswith(f"Connected: node1 at {gateway.url}; programs here call http://127.0.0.1:")
        url = line.rpartition(" call ")[2].removesuffix("/server/<noun>")
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/server/x", data=b"hello") as response:
                assert await response.read() == b"hello"
        assert "time_from_client" in json.loads(await ask(await gateway.links.get()))


async def test_the_gateway_learns_nouns_tags_and_applications(tmp_path):
    expose = (parse_expose("shop=http://127.0.0.1:9"),)
    async with stub_gateway() as gateway:
        async with node(gateway.url, tmp_path, tags=("berlin",), expose=expose) as (lines, _):
            await lines.get()
        [hello] = gateway.hellos
    assert (hello.name, hello.tags, hello.apps) == ("node1", ("berlin",), ("shop",))
    assert {"time", "cat"} <= set(hello.nouns)
    assert hello.version


async def test_a_stream_for_an_application_goes_there(tmp_path):
    expose = (parse_expose("shop=http://127.0.0.1:9"),)
    async with stub_gateway() as gateway, node(gateway.url, tmp_path, expose=expose):
        link = await gateway.links.get()
        async with link.call(Opening(kind=Kind.APP, method="GET", target="shop/")) as answer:
            assert answer.head.status == 502
        async with link.call(Opening(kind=Kind.APP, method="GET", target="other/")) as answer:
            assert answer.head.status == 404


async def test_a_node_takes_no_orders(tmp_path):
    async with stub_gateway() as gateway, node(gateway.url, tmp_path):
        with pytest.raises(StreamReset, match="no orders"):
            await ask(await gateway.links.get(), Opening(kind=Kind.CONTROL, method="POST", target="stop"))


async def test_handlers_are_told_of_links_and_of_tries_that_failed(tmp_path):
    async with stub_gateway() as gateway, node(gateway.url, tmp_path, handlers=(HANDLERS,)):
        assert await Told.said.get() == ("connect_success",)
        port = int(gateway.url.rpartition(":")[2])
        await gateway.stop()
        said, attempts, last = await asyncio.wait_for(Told.said.get(), 5)
        assert (said, attempts) == ("connect_fail", 1)
        assert isinstance(last, datetime)
        await gateway.start(port)
        while (told := await asyncio.wait_for(Told.said.get(), 8))[0] == "connect_fail":
            pass
        assert told == ("connect_success",)


async def test_a_durable_call_that_comes_twice_runs_once(tmp_path):
    call = Opening(kind=Kind.NOUN, method="GET", target="slow", call="c1", timeout_ms=20_000)
    Told.release.set()
    async with stub_gateway() as gateway, node(gateway.url, tmp_path, handlers=(HANDLERS,)):
        await Told.said.get()
        link = await gateway.links.get()
        assert await ask(link, call) == await ask(link, call)
        assert Told.said.get_nowait() == ("slow", "gateway")
        assert Told.said.empty()
    assert (tmp_path / "journal.db").exists()


async def test_told_to_stop_a_node_says_goodbye_and_ends_what_runs(tmp_path):
    async with stub_gateway() as gateway, node(gateway.url, tmp_path, handlers=(HANDLERS,)) as (lines, running):
        await lines.get()
        link = await gateway.links.get()
        call = asyncio.create_task(ask(link, Opening(kind=Kind.NOUN, method="GET", target="slow")))
        while await Told.said.get() != ("slow", "gateway"):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert (await link.leaving()).code is Goodbye.SHUTDOWN
        assert not running.done()
        Told.release.set()
        assert json.loads(await call) == {"slow": True}
        await asyncio.wait_for(running, 5)


async def test_a_second_signal_does_not_wait(tmp_path):
    async with stub_gateway() as gateway, node(gateway.url, tmp_path, handlers=(HANDLERS,)) as (lines, running):
        await lines.get()
        link = await gateway.links.get()
        call = asyncio.create_task(ask(link, Opening(kind=Kind.NOUN, method="GET", target="slow")))
        while await Told.said.get() != ("slow", "gateway"):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        await link.leaving()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(running, 5)
        with pytest.raises(LinkLost):
            await call


async def test_statsd_gets_restpipes_names(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        async with stub_gateway() as gateway:
            gateway.ping_s = 0.05
            async with node(gateway.url, tmp_path, statsd=receiver.getsockname()):
                loop, names = asyncio.get_running_loop(), set()
                wanted = {"client.connect.new.tick", "client.connect.connected.tick", "client.connect.heartbeat.timing"}
                while not wanted <= names:
                    data = await asyncio.wait_for(loop.sock_recv(receiver, 2000), 5)
                    names |= {line.partition(":")[0] for line in data.decode().splitlines()}


async def test_systemd_is_told_that_the_node_runs_and_how_its_link_is(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with stub_gateway() as gateway:
            async with node(gateway.url, tmp_path) as (lines, _):
                await lines.get()
        told = []
        while not told or told[-1] != "STOPPING=1":
            told += receiver.recv(2000).decode().splitlines()
    assert told[0] == "READY=1"
    assert f"STATUS=Connected to {gateway.url}" in told


async def test_durable_calls_have_ended_when_handlers_are_told_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "STOP_S", 0.1)
    async with stub_gateway() as gateway, node(gateway.url, tmp_path, handlers=(HANDLERS,)) as (_, running):
        link = await gateway.links.get()
        opening = Opening(kind=Kind.NOUN, method="GET", target="hang", call="c1")
        asking = asyncio.create_task(ask(link, opening))
        while await Told.said.get() != ("hangs",):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait({running, asking}, timeout=10)
        assert isinstance(asking.exception(), LinkLost | StreamReset)
    assert [Told.said.get_nowait(), Told.said.get_nowait()] == [("cancelled",), ("stopped",)]


async def test_handlers_that_cannot_be_loaded_stop_the_start(tmp_path):
    with pytest.raises(ConfigError, match="--handlers"):
        async with node("http://127.0.0.1:9", tmp_path, handlers=("no.such:Thing",)) as (_, running):
            await running


async def test_a_journal_that_cannot_be_written_stops_the_start(tmp_path):
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(StartupError):
        async with node("http://127.0.0.1:9", tmp_path) as (_, running):
            await running
