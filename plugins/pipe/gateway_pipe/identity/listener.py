"""TLS of the nodes' own port: what it shows, whom it trusts, both changed while it runs, and why handshakes fail."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prometheus_client import Counter

from gateway_core.db.wakeups import Wakeups
from gateway_core.errors import ConfigError, DatabaseError, GatewayError, NotFound
from gateway_core.gateway import Gateway, StateKey
from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.authority import AUTHORITY_KEY, AUTHORITY_TOPIC, Authority, Purpose
from gateway_pipe.identity.contexts import show
from gateway_pipe.identity.files import load_pair
from gateway_pipe.identity.words import failure
from gateway_pipe.settings import PipeSettings, address

if TYPE_CHECKING:
    from gateway_pipe.identity.signing import Pair

log = get_logger("gateway.pipe.identity")

FAILED = Counter("gateway_pipe_handshakes_failed_total", "TLS handshakes of nodes that failed", ["reason"])
_LOOK_EVERY_S = 5.0
_GATEWAY_DAYS = 90.0
_RENEWED_AFTER = 2 / 3
_LINES_A_MINUTE = 20
"""Of one reason; the next line says how many were left out."""
_MOST_IGNORED_BYTES = 256 * 1024


class FailureLog:
    """Says why handshakes fail, and is not drowned by one node that tries for ever."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}

    def tell(self, error: ssl.SSLError) -> None:
        """One line and one count."""
        found = failure(error, "the node's certificate")
        FAILED.labels(found.kind).inc()
        now = time.monotonic()
        since, count = self._windows.get(found.kind, (now, 0))
        left_out = max(0, count - _LINES_A_MINUTE)
        if now - since >= 60:
            since, count = now, 0
        self._windows[found.kind] = (since, count + 1)
        if count < _LINES_A_MINUTE:
            more = {"left_out": left_out} if left_out and not count else {}
            log.warning("a node's TLS handshake failed", reason=found.text, kind=found.kind, **more)


class NodeObject(ssl.SSLObject):
    """A connection to the nodes' port: certificates of nodes are believed on these only.

    asyncio closes a connection whose handshake failed before the alert with the reason is sent. So it is told to wait
    for more, which makes it send; what comes then is thrown away, until the other end closes or the time for a
    handshake is up.
    """

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    failed: ssl.SSLError | None = None
    ignored_bytes = 0

    def do_handshake(self) -> None:
        """As ever, and tells of failures, which asyncio does not."""
        if self.failed is not None:
            return self._ignore(self.failed)
        try:
            return super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as exc:
            if isinstance(self.context, _NodeContext):
                self.context.failures.tell(exc)
            if not self.outgoing.pending:
                raise
            self.failed = exc
            raise ssl.SSLWantReadError from exc

    def _ignore(self, failed: ssl.SSLError) -> None:
        self.ignored_bytes += len(self.incoming.read())
        if self.ignored_bytes > _MOST_IGNORED_BYTES:
            raise failed
        raise ssl.SSLWantReadError


class _NodeContext(ssl.SSLContext):
    """One state of the port."""

    failures: FailureLog


class LiveContext(ssl.SSLContext):
    """What the server is given once; each handshake begins with the state of that moment.

    The certificates that a context of OpenSSL trusts can only grow, so that it is replaced as a whole.
    """

    state: ssl.SSLContext

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **named: Any
    ) -> ssl.SSLObject:
        """As a context does."""
        connection = self.state.wrap_bio(incoming, outgoing, *arguments, **named)
        if isinstance(connection, NodeObject):
            connection.incoming, connection.outgoing = incoming, outgoing
        return connection


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a state was made from; another one needs another state."""

    stamps: tuple[tuple[int, int, int], ...]
    pair: Pair | None
    trusted: str


class NodeListener:
    """Keeps ``context`` for ``Listener.ssl_context`` up to the authority and to the files in the settings.

    Without an authority no handshake works until it is made. ``hosts`` are the names and addresses of the built-in
    certificate, ``instance`` names this process in it.
    """

    def __init__(self, authority: Authority, settings: PipeSettings, *, hosts: Sequence[str], instance: str) -> None:
        self._authority, self._settings = authority, settings
        self._hosts, self._instance = tuple(hosts), instance
        self._failures = FailureLog()
        self._pair: tuple[Pair, float] | None = None
        self._shown: _Shown | None = None
        self._complaint = ""
        self.context = LiveContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.state = self._new_state()

    async def load(self) -> bool:
        """Take in what has changed; False while there is no authority.

        Raises ConfigError for files that cannot be used, StartupError and DatabaseError as the authority does; the
        state before stays then.
        """
        try:
            wanted = await self._wanted()
        except NotFound:
            return False
        if wanted != self._shown:
            self.context.state = await asyncio.to_thread(self._made, wanted)
            log.info("certificates of the nodes' port are loaded", anew=self._shown is not None)
            self._shown = wanted
        return True

    async def keep(self, wakeups: Wakeups) -> None:
        """Look for changes until cancelled; what cannot be used is told once, and the state before stays."""
        with wakeups.subscribe(AUTHORITY_TOPIC) as made:
            while True:
                await made.wait(_LOOK_EVERY_S)
                try:
                    await self.load()
                    self._complaint = ""
                except DatabaseError as exc:
                    log.debug("certificates could not be looked at", error=str(exc))
                except GatewayError as exc:
                    self._complain(str(exc))
                except Exception as exc:  # a supervisor is one of the borders where everything is caught
                    log.exception("looking at certificates failed", error=repr(exc))

    async def _wanted(self) -> _Shown:
        settings = self._settings
        paths = [path for path in (settings.ca, settings.cert, settings.key) if path is not None]
        stamps = tuple(await asyncio.to_thread(lambda: [_stamp(path) for path in paths]))
        trusted = await self._trusted()
        return _Shown(stamps, None if settings.cert is not None else await self._own_pair(), trusted)

    async def _trusted(self) -> str:
        return await trusted_pem(self._authority, self._settings)

    async def _own_pair(self) -> Pair:
        """Made in this process, renewed long before its end."""
        now = time.time()
        if self._pair is None or now >= self._pair[1]:
            issuer = await self._authority.issuer(Purpose.NODES)
            pair = issuer.gateway(self._hosts, self._instance, days=_GATEWAY_DAYS)
            self._pair = (pair, now + _GATEWAY_DAYS * 86400 * _RENEWED_AFTER)
        return self._pair[0]

    def _new_state(self) -> _NodeContext:
        state = _NodeContext(ssl.PROTOCOL_TLS_SERVER)
        state.failures = self._failures
        state.sslobject_class = NodeObject
        state.minimum_version = ssl.TLSVersion.TLSv1_2
        state.verify_mode = ssl.CERT_OPTIONAL  # a node that enrols has none yet; links ask for one
        state.num_tickets = 0  # a resumed session would bring a certificate that nobody looks at again
        state.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        state.set_alpn_protocols(["http/1.1"])
        return state

    def _made(self, shown: _Shown) -> _NodeContext:
        state, settings = self._new_state(), self._settings
        if shown.pair is not None:
            load_pair(state, shown.pair.certificate, shown.pair.key)
        elif settings.cert is not None:
            show(state, settings.cert, settings.key)
        try:
            state.load_verify_locations(cadata=shown.trusted)
        except (ssl.SSLError, ValueError) as exc:
            raise ConfigError(f"PIPE__CA: {settings.ca}: no certificate of an authority in PEM") from exc
        if settings.ca is not None:
            state.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority in between may stand for its root
        return state

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.error("new certificates cannot be used, those before stay", reason=text)
        self._complaint = text


LISTENER_KEY = StateKey("pipe.listener", NodeListener)


@contextlib.asynccontextmanager
async def identities(gateway: Gateway, settings: PipeSettings) -> AsyncIterator[Authority]:
    """The authority of a serving process, and the TLS of the nodes' port where there is one.

    Raises StartupError when ``SECRET_KEY`` does not open the authority's key, ConfigError for files that cannot be
    used.
    """
    authority = Authority(gateway.db, gateway.keyring, settings)
    await authority.check_keys()
    gateway.state[AUTHORITY_KEY] = authority
    if not settings.listen:
        yield authority
        return
    hosts = server_hosts(settings, gateway.public_url)
    listener = NodeListener(authority, settings, hosts=hosts, instance=gateway.instance)
    if not await listener.load():
        log.warning("no node can connect yet: make the certificate authority with `gateway pipe ca init`")
    gateway.state[LISTENER_KEY] = listener
    task = asyncio.get_running_loop().create_task(listener.keep(gateway.wakeups), name="pipe certificates")
    try:
        yield authority
    finally:
        task.cancel()
        await asyncio.wait([task])


def listener_context(gateway: Gateway) -> LiveContext:
    """What ``Listener.ssl_context`` has to give; it is there once lifespans are entered."""
    return gateway.state[LISTENER_KEY].context


async def trusted_pem(authority: Authority, settings: PipeSettings) -> str:
    """Certificates of the authorities whose nodes are let in.

    Raises NotFound while the built-in one is not made, ConfigError for a file that cannot be read.
    """
    if settings.ca is None:
        return (await authority.issuer(Purpose.NODES)).pem
    try:
        return await asyncio.to_thread(settings.ca.read_text, "ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"PIPE__CA: {settings.ca} cannot be read") from exc


def server_hosts(settings: PipeSettings, public_url: str) -> tuple[str, ...]:
    """Names and addresses under which nodes may reach this server, each once, for the built-in certificate."""
    listen = address(settings.listen)[0] if settings.listen else ""
    given = [*settings.server_names, urlsplit(public_url).hostname or "", listen, socket.gethostname()]
    hosts = [host for host in [*given, "localhost", "127.0.0.1", "::1"] if host.isascii() and not _wildcard(host)]
    return tuple(dict.fromkeys(hosts))


def _wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    return found.st_mtime_ns, found.st_size, found.st_ino
