"""The node program: handlers, published applications, the link and the local server, from start to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gateway_core.observe.logs import get_logger
from gateway_core.version import __version__
from gateway_pipe.apps.expose import Exposed
from gateway_pipe.apps.serving import AppServer
from gateway_pipe.durable.journal import Journal
from gateway_pipe.durable.serve import DurableServe
from gateway_pipe.handlers import statsd as names
from gateway_pipe.handlers.builtin import NodeHandlers
from gateway_pipe.handlers.load import Handlers
from gateway_pipe.handlers.runner import Runner
from gateway_pipe.handlers.statsd import Statsd
from gateway_pipe.identity.urls import GatewayUrl
from gateway_pipe.link.model import Farewell, Hello, Incoming, Kind, Reset
from gateway_pipe.link.session import Link
from gateway_pipe.node.credentials import Identity
from gateway_pipe.node.dialer import Dialer
from gateway_pipe.node.local import LocalServer
from gateway_pipe.node.renewal import keep_valid
from gateway_pipe.node.systemd import notify

log = get_logger("gateway.pipe.node")

STOP_S = 10.0
"""What runs has this long to end when the program is told to stop."""

JOURNAL = "journal.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a node is: where it connects to and as whom, what it answers and publishes.

    ``folder`` is where it remembers durable calls, None for memory only. ``local`` is the local server's host and
    port, None for none. ``statsd`` gets RestPipe's metrics.
    """

    target: GatewayUrl
    identity: Identity
    folder: Path | None
    local: tuple[str, int] | None
    handlers: tuple[str, ...] = ()
    expose: tuple[Exposed, ...] = ()
    tags: tuple[str, ...] = ()
    slots: int = 64
    statsd: tuple[str, int] | None = None


async def run_node(options: Options, *, announce: Callable[[str], None]) -> None:
    """Be a node until SIGTERM or SIGINT; a second one cuts what still runs.

    ``announce`` gets one line when the link is up for the first time. Raises ConfigError for handlers that cannot be
    loaded, StartupError for a port or journal that cannot be had; an unreachable gateway is waited for.
    """
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(_signals())
        statsd = Statsd(options.statsd)
        stack.callback(statsd.close)
        handlers = Handlers.load(options.handlers, default=NodeHandlers, option="--handlers")
        runner = Runner(handlers, slots=options.slots, metrics=statsd)
        journal = await stack.enter_async_context(Journal(None if options.folder is None else options.folder / JOURNAL))
        apps = await stack.enter_async_context(AppServer(options.expose))
        reports = _Reports(options, runner, statsd=statsd, announce=announce)
        durable = DurableServe(_Serving(runner, apps, reports), journal)
        await runner.start()
        stack.push_async_callback(runner.stop)
        stack.push_async_callback(durable.stop)
        dialer = Dialer(
            options.target, options.identity, _hello(options, runner, apps), serve=durable, observer=reports
        )
        local = await _local_server(options, dialer, reports=reports, stack=stack)
        reports.local_url = "" if local is None else local.url
        gc.set_threshold(10_000, 20, 20)  # a call makes hundreds of short-lived objects
        gc.freeze()  # what start-up made lives as long as the process
        notify("READY=1", f"STATUS=Connecting to {options.target.text}")
        dialer.start()
        renewing = asyncio.create_task(keep_valid(options.identity, dialer))
        stack.callback(renewing.cancel)
        await stop.first.wait()
        await _leave(dialer, local, stop)


async def _leave(dialer: Dialer, local: LocalServer | None, stop: _Stop) -> None:
    """Let what runs end, both ways, until the second signal."""
    log.info("stopping", patience_s=STOP_S)
    notify("STOPPING=1")
    closing = asyncio.create_task(dialer.close(STOP_S))
    ending = [closing] if local is None else [closing, asyncio.create_task(local.stop())]
    hurry = asyncio.create_task(stop.second.wait())
    while not closing.done():
        await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():
            dialer.drop("the node was told to stop at once")
            break
    hurry.cancel()
    await asyncio.gather(*ending)


async def _local_server(
    options: Options, dialer: Dialer, *, reports: _Reports, stack: AsyncExitStack
) -> LocalServer | None:
    if options.local is None:
        return None
    host, port = options.local
    local = LocalServer(dialer, host=host, port=port, sent=reports.sent)
    await local.start()
    stack.push_async_callback(local.stop)
    log.info("local server", url=f"{local.url}/server/")
    return local


def _hello(options: Options, runner: Runner, apps: AppServer) -> Hello:
    return Hello(
        name=options.identity.name,
        instance=uuid.uuid4().hex,
        version=__version__,
        tags=options.tags,
        nouns=runner.nouns(),
        apps=apps.names,
    )


class _Serving:
    """What the gateway asks goes where it belongs."""

    def __init__(self, runner: Runner, apps: AppServer, reports: _Reports) -> None:
        self._runner = runner
        self._apps = apps
        self._reports = reports

    async def __call__(self, incoming: Incoming) -> None:
        match incoming.opening.kind:
            case Kind.NOUN:
                await self._runner.serve(incoming, self._reports.gateway)
            case Kind.APP:
                await self._apps.serve(incoming)
            case Kind.CONTROL:
                await incoming.refuse(Reset.GONE, "a node takes no orders of this kind")


class _Reports:
    """Tells handlers, statsd, systemd and the terminal what happens to the link; ``gateway`` is who it leads to."""

    def __init__(self, options: Options, runner: Runner, *, statsd: Statsd, announce: Callable[[str], None]) -> None:
        self.gateway = ""
        self.local_url = ""
        self._options = options
        self._runner = runner
        self._statsd = statsd
        self._announce: Callable[[str], None] | None = announce

    def tried(self, seconds: float) -> None:
        self._statsd.tick(names.NEW)
        self._statsd.timing(names.NEW_TIMING, seconds * 1000)

    def sent(self, seconds: float) -> None:
        self._statsd.tick(names.SEND)
        self._statsd.timing(names.SEND_TIMING, seconds * 1000)

    def connected(self, link: Link) -> None:
        self.gateway = link.peer.name
        self._statsd.tick(names.CONNECTED)
        self._runner.notify("connect_success")
        notify(f"STATUS=Connected to {self._options.target.text}")
        if self._announce is not None:
            local = f"; programs here call {self.local_url}/server/<noun>" if self.local_url else ""
            self._announce(f"Connected: {self._options.identity.name} at {self._options.target.text}{local}")
            self._announce = None

    def failed(self, attempts: int, last_disconnected: datetime | None, reason: str) -> None:
        self._runner.notify("connect_fail", attempts, last_disconnected)
        notify(f"STATUS=No link after {attempts} attempts: {reason}")

    def broken(self, farewell: Farewell, *, silent: bool) -> None:
        self._statsd.tick(names.BROKEN)
        if silent:
            self._statsd.tick(names.HEARTBEAT_FAIL)
        notify(f"STATUS=Link lost: {farewell.reason}")

    def beat(self, rtt_s: float) -> None:
        self._statsd.tick(names.HEARTBEAT_SUCCESS)
        self._statsd.timing(names.HEARTBEAT_TIMING, rtt_s * 1000)


@dataclass(frozen=True, slots=True)
class _Stop:
    first: asyncio.Event
    second: asyncio.Event


@contextmanager
def _signals() -> Iterator[_Stop]:
    """The first and the second time that the process is told to stop."""
    stop = _Stop(asyncio.Event(), asyncio.Event())

    def told() -> None:
        (stop.second if stop.first.is_set() else stop.first).set()

    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, told)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
