"""One serving process: open, listen, wait for a signal, drain, close."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import http_parser, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway_core.app import make_app
from gateway_core.app.traffic import Traffic
from gateway_core.errors import StartupError
from gateway_core.gateway import Gateway
from gateway_core.observe import metrics
from gateway_core.observe.events import SERVER_DRAINING, SERVER_READY
from gateway_core.observe.logs import get_logger
from gateway_core.routing import Listener
from gateway_core.server.sockets import MAIN, address, notify_systemd

log = get_logger("gateway.server")

_M_ARENA_MAX = -8  # malloc.h
_HANDSHAKE_S = 10.0
CUT_S = 1.0
"""After the drain limit: how long handlers get to notice that they were cancelled."""


@dataclass
class Stop:
    """What SIGTERM and SIGINT asked for: ``asked`` once, ``cut`` twice."""

    asked: asyncio.Event
    cut: asyncio.Event

    def signal(self) -> None:
        """The first call drains, the second cuts at once."""
        (self.cut if self.asked.is_set() else self.asked).set()


async def serve(gateway: Gateway, sockets: Mapping[str, socket.socket], *, parent: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, or until the parent process is gone, then drain.

    ``parent`` is the child's end of the supervisor's link; without one this process brings the database up to the code
    and speaks with systemd itself. Raises StartupError when something needed cannot be had.
    """
    _refuse_python_parser()
    _few_arenas()
    stop = Stop(asyncio.Event(), gateway.cut)
    with _signals(stop), _parent_watch(parent, stop):
        if parent is None:
            async with gateway.database():
                await gateway.ensure_schema()
        async with gateway.opened(), gateway.running():
            async with listening(gateway, sockets) as traffic:
                urls = [f"http://{address(sock)}" for name, sock in sockets.items() if name == MAIN]
                log.info(
                    "ready",
                    url=urls[0] if urls else "",
                    plugins=[i.name for i in gateway.plugin_infos if i.status == "enabled"],
                    pid=os.getpid(),
                )
                gateway.emit(SERVER_READY)
                _tell_ready(parent)
                gc.collect()
                gc.set_threshold(10_000, 20, 20)  # a request makes thousands of short-lived objects
                gc.freeze()  # what start-up made lives as long as the process: no collection need look at it again
                await stop.asked.wait()
                await drain(gateway, traffic)


def _few_arenas() -> None:
    """One heap of malloc(3) beside the main one: with the interpreter's lock more only keep what each has freed."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such knob
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


@asynccontextmanager
async def listening(gateway: Gateway, sockets: Mapping[str, socket.socket]) -> AsyncIterator[Traffic]:
    """Serve the main port and the plugins' listeners; closing cuts what still runs."""
    traffic = Traffic()
    listeners = {f"{owner}.{listener.name}": (owner, listener) for owner, listener in gateway.registries.listeners}
    async with AsyncExitStack() as stack:
        for name, sock in sockets.items():
            owner, listener = listeners.get(name, ("core", None))
            app = (
                make_app(gateway, traffic)
                if listener is None
                else make_app(gateway, traffic, owner=owner, listener=listener)
            )
            runner = make_runner(app, gateway)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = _site(runner, sock, listener)
            await site.start()
            traffic.runners.append((runner, site))
            traffic.sockets.append(sock)
        yield traffic


def _site(runner: web.AppRunner, sock: socket.socket, listener: Listener | None) -> web.SockSite:
    if listener is None or listener.ssl_context is None:
        return web.SockSite(runner, sock)
    from gateway_core.http.lean import LeanTlsSite

    return LeanTlsSite(runner, sock, listener.ssl_context(), handshake_timeout_s=_HANDSHAKE_S)


def make_runner(app: web.Application, gateway: Gateway) -> web.AppRunner:
    """aiohttp with the defaults that bite set: short keep-alive (it also bounds a slow head), cancelled handlers."""
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=gateway.settings.keepalive_timeout_s,
        shutdown_timeout=CUT_S,
        lingering_time=5.0,
        auto_decompress=False,
        max_line_size=8190,
        max_field_size=8190,
        max_headers=100,
        debug=gateway.settings.debug,
        logger=_protocol_log(),
    )


class _UnreadableRequests(logging.Filter):
    """What no request can be read from is the client's fault, counted and told in one line without its bytes."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        peer = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        metrics.REQUESTS.labels("unreadable", "other", 400).inc()
        log.info("unreadable request", client=str(peer), error=type(error).__name__)
        return False


def _protocol_log() -> logging.Logger:
    """aiohttp's own, for what goes wrong outside of requests."""
    logger = logging.getLogger("gateway.http")
    if not logger.filters:
        logger.addFilter(_UnreadableRequests())
    return logger


async def drain(gateway: Gateway, traffic: Traffic) -> None:
    """Unready, then deaf, then done: each step as docs/operating.md tells operators."""
    settings = gateway.settings
    gateway.draining.set()
    gateway.emit(SERVER_DRAINING)
    notify_systemd("STOPPING=1")
    log.info("draining", requests=traffic.active, delay_s=settings.drain_delay_s, timeout_s=settings.drain_timeout_s)
    await _either(gateway.cut, settings.drain_delay_s)
    await _stop_accepting(traffic)
    for _runner, site in traffic.runners:
        await site.stop()
    traffic.drain()
    gateway.closing.set()
    idle = asyncio.ensure_future(traffic.idle.wait())
    cut = asyncio.ensure_future(gateway.cut.wait())
    await asyncio.wait({idle, cut}, timeout=settings.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for waiter in (idle, cut):
        waiter.cancel()
    if traffic.active:
        log.warning("cut", requests=traffic.active)


async def _stop_accepting(traffic: Traffic) -> None:
    """Take no more connections, and let those just taken get their handlers: asyncio forgets them otherwise."""
    loop = asyncio.get_running_loop()
    for sock in traffic.sockets:
        loop.remove_reader(sock)
    for _ in range(3):
        await asyncio.sleep(0)


async def _either(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _tell_ready(parent: int | None) -> None:
    """To systemd, or to the supervisor, which tells it when all of its children serve."""
    if parent is None:
        notify_systemd("READY=1")
        return
    with contextlib.suppress(OSError):  # a parent that is gone is seen by the watch
        os.write(parent, b".")


@contextlib.contextmanager
def _parent_watch(parent: int | None, stop: Stop) -> Iterator[None]:
    """A parent killed with -9 cannot say so: its end of the link closes, and the port must become free again."""
    if parent is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(parent)
        stop.asked.set()

    loop.add_reader(parent, gone)
    try:
        yield
    finally:
        loop.remove_reader(parent)


def _refuse_python_parser() -> None:
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise StartupError("aiohttp runs without its C extension; its Python parser is not used in front of the world")
