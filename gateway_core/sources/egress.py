"""The way out: every HTTP request the gateway makes for somebody goes through here.

An address is judged when it is dialled, by the function that makes the socket: URL spellings, redirects, DNS answers
that change between two look-ups and literals that never reach a resolver all end there. A kept-alive connection is
found by host and port, and a host's allowance never changes, so a connection made for one host serves no other.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import ssl
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urljoin

from aiohttp import (
    AddrInfoType,
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    InvalidURL,
    ServerDisconnectedError,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict

from gateway_core.errors import SourceError, SourceFailed, SourceRefused, SourceStalled
from gateway_core.sources.policy import Decision, EgressPolicy
from gateway_core.sources.urls import HttpUrl, parse_url
from gateway_core.version import __version__

__all__ = ["ClientLimits", "EgressPolicy", "GuardedClient", "OutgoingRequest", "source_error"]

_log = logging.getLogger("gateway.egress")

_REFUSED = "this address may not be fetched"
_NO_CONNECTION = "connection failed"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")  # RFC 9110 5.5
# They frame the message or choose the server: the client's own, never a caller's (RFC 9110 7.6.1).
_RESERVED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of a client; times in seconds.

    ``connections`` are open ones in all; ``connect_s`` bounds the wait for one of them, name look-up and dial,
    ``dial_s`` each of the latter two. ``stall_s`` is the longest silence of an upstream; its answer headers may take
    ``connect_s`` and twice that. Around twice ``buffer_bytes`` of a response wait for a slow reader at most.
    """

    connections: int = 100
    connect_s: float = 30
    dial_s: float = 5
    stall_s: float = 30
    buffer_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """One request, redirects included.

    ``headers``, ``body`` and credentials in the URL are the caller's: they stay with the URL's origin. ``common``
    headers go to every hop. With ``max_redirects`` 0 a redirect is an answer like any other.
    """

    url: str = field(repr=False)
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    common: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    max_redirects: int = 5
    stall_s: float | None = None


class GuardedClient:
    """HTTP client that dials only what the policy permits; made inside the running loop, closed with ``close``.

    Bodies arrive as sent (identity is asked for, nothing is decoded); no cookies, no proxies from the environment.
    ``resolver`` replaces the system's DNS, ``tls`` the default trust store.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        limits: ClientLimits | None = None,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits = limits or ClientLimits()
        self._timeouts: dict[float, ClientTimeout] = {}  # the last one: callers of thousands of files agree on it
        self._resolver = _GuardedResolver(policy, resolver or _ThreadedResolver(), timeout_s=limits.dial_s)
        connector = TCPConnector(
            resolver=self._resolver,
            socket_factory=self._make_socket,
            limit=limits.connections,
            keepalive_timeout=15,
            ssl=tls or True,
        )
        self._session = ClientSession(
            connector=connector,
            headers={"User-Agent": f"content-gateway/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=DummyCookieJar(),
            read_bufsize=limits.buffer_bytes,
            auto_decompress=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; requests under way fail."""
        await self._session.close()
        await self._resolver.close()

    def check(self, url: str) -> HttpUrl:
        """Read ``url`` and judge the address it spells out, if it does; a name is judged when it is dialled.

        Raises SourceRefused.
        """
        target = parse_url(url)
        server = target.server
        if server.literal:
            decision = self._policy.decide(server.host, server.port, host=server.host)
            if not decision.permitted:
                raise _refusal(target, decision)
        return target

    def request(self, request: OutgoingRequest) -> AbstractAsyncContextManager[ClientResponse]:
        """Send, follow redirects, and give the last response, whatever its status; its body is not read yet.

        Leaving closes the connection unless the body was read to its end. Raises SourceRefused, SourceFailed or
        SourceStalled; aiohttp's errors while the body is read become these too.
        """
        return _Exchange(self._follow(request))

    async def _follow(self, request: OutgoingRequest) -> ClientResponse:
        hop = _first_hop(request, self.check(request.url))
        for _ in range(request.max_redirects + 1):
            response = await self._send(hop, request)
            location = response.headers.get("Location")
            if request.max_redirects == 0 or response.status not in _REDIRECTS or location is None:
                if "Transfer-Encoding" in response.headers:
                    _watch_chunks(response)
                return response
            response.release()
            hop = _next_hop(hop, response.status, self._check_redirect(hop, location))
        raise SourceFailed("too many redirects")

    def _check_redirect(self, hop: _Hop, location: str) -> HttpUrl:
        try:
            url = urljoin(str(hop.target.url), location)
        except ValueError as error:
            raise SourceRefused("redirect to no valid URL") from error
        target = self.check(url)
        if target.authorization is not None:
            raise SourceRefused("redirect to a URL with credentials")
        if hop.target.server.scheme == "https" and target.server.scheme != "https":
            raise SourceRefused("redirect from https to http")
        return target

    async def _send(self, hop: _Hop, request: OutgoingRequest) -> ClientResponse:
        headers = {**hop.headers, **request.common} if hop.headers or request.common else None
        stall_s = request.stall_s or self._limits.stall_s
        dial = _Dial(hop.target.server.host)
        token = _dialling.set(dial)
        try:
            async with asyncio.timeout(self._limits.connect_s + 2 * stall_s):
                return await self._session.request(
                    hop.method,
                    hop.target.url,
                    headers=headers,
                    data=hop.body,
                    allow_redirects=False,
                    timeout=self._timeout(stall_s),
                )
        except (ClientError, OSError) as error:
            if dial.refusal is not None:
                raise _refusal(hop.target, dial.refusal) from error
            # Their messages may hold the whole URL, and that may hold a signature.
            _log.info(
                "no answer from %s: %s",
                hop.target.server.origin,
                getattr(error, "strerror", None) or type(error).__name__,
            )
            raise source_error(error) from error
        finally:
            _dialling.reset(token)

    def _timeout(self, stall_s: float) -> ClientTimeout:
        known = self._timeouts.get(stall_s)
        if known is None:
            known = ClientTimeout(total=None, sock_connect=self._limits.dial_s, sock_read=stall_s)
            self._timeouts = {stall_s: known}
        return known

    def _make_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, proto, _, sockaddr = address
        dial = _dialling.get(None) or _Dial("")
        host, port = str(sockaddr[0]), int(sockaddr[1])
        decision = self._policy.decide(host, port, host=dial.host)
        if not decision.permitted:
            dial.refusal = decision
            # An OSError: the happy-eyeballs race of several addresses loses other errors.
            raise PermissionError(errno.EACCES, "refused by the egress policy")
        return socket.socket(family, kind, proto)


def source_error(error: Exception) -> SourceError:
    """Our error for one of aiohttp's, with words that tell a caller nothing about the network behind the gateway."""
    if isinstance(error, InvalidURL):
        return SourceRefused("not a valid URL")
    if isinstance(error, (ClientConnectorError, ConnectionTimeoutError, ServerDisconnectedError)):
        return SourceFailed(_NO_CONNECTION)
    if isinstance(error, TimeoutError):
        return SourceStalled("sent nothing for too long")
    if isinstance(error, ClientPayloadError):
        return SourceFailed("broke off")
    if isinstance(error, ClientOSError) or not isinstance(error, ClientError):
        return SourceFailed(_NO_CONNECTION)
    return SourceFailed("not a valid HTTP answer")


def _watch_chunks(response: ClientResponse) -> None:
    """End a body whose connection has ended without telling its reader.

    For a chunk size that is no number aiohttp closes the connection and leaves the reader waiting, without a timeout.
    """
    content, connection = response.content, response.connection
    if connection is None or connection.protocol is None or content.is_eof():
        return

    def lost(closed: asyncio.Future[None] | None) -> None:
        if closed is not None:
            _look_at(closed)
        if not content.is_eof() and content.exception() is None:
            content.set_exception(ClientPayloadError("the connection ended in the middle of the body"))

    def ended() -> None:
        if closed is not None:
            closed.remove_done_callback(lost)

    closed = connection.protocol.closed
    if closed is None:
        lost(None)
        return
    closed.remove_done_callback(_look_at)  # a connection serves many requests: it is looked at once
    closed.add_done_callback(_look_at)
    closed.add_done_callback(lost)
    content.on_eof(ended)


def _look_at(closed: asyncio.Future[None]) -> None:
    """How it ended is known already; asyncio reports errors that nobody has looked at."""
    if not closed.cancelled():
        closed.exception()


class _Exchange(AbstractAsyncContextManager[ClientResponse]):
    """One request and its answer. A class, as a generator for each of thousands of small files would be felt."""

    def __init__(self, following: Coroutine[None, None, ClientResponse]) -> None:
        self._following = following

    async def __aenter__(self) -> ClientResponse:
        self._response = await self._following
        return self._response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()
        if isinstance(error, ClientError):
            raise source_error(error) from error


@dataclass(slots=True)
class _Dial:
    """What ``_make_socket`` has to know of the request it serves, and what it has to tell."""

    host: str
    refusal: Decision | None = None


_dialling: ContextVar[_Dial] = ContextVar("gateway_egress_dial")


@dataclass(frozen=True, slots=True)
class _Hop:
    target: HttpUrl
    method: str
    headers: Mapping[str, str]
    body: bytes | None


def _first_hop(request: OutgoingRequest, target: HttpUrl) -> _Hop:
    headers: CIMultiDict[str] = CIMultiDict()
    if target.authorization is not None:
        headers["Authorization"] = target.authorization
    for name, value in request.headers.items():
        if not _TOKEN.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value):
            raise SourceRefused("not a valid header")
        if name.lower() not in _RESERVED:
            headers[name] = value
    return _Hop(target, request.method.upper(), headers, request.body)


def _next_hop(hop: _Hop, status: int, target: HttpUrl) -> _Hop:
    method, body = hop.method, hop.body
    headers = CIMultiDict(hop.headers)
    # RFC 9110 15.4.2-15.4.4
    if (status == 303 and method != "HEAD") or (status in {301, 302} and method == "POST"):
        method, body = "GET", None
        headers.popall("Content-Type", None)
    if target.server.origin != hop.target.server.origin:
        if body is not None:
            raise SourceRefused("redirect of a body to another server")
        headers.clear()
    return replace(hop, target=target, method=method, headers=headers, body=body)


def _refusal(target: HttpUrl, decision: Decision) -> SourceRefused:
    remedy = f"; to permit it: {decision.remedy}" if decision.remedy else ""
    _log.warning("refused %s: %s%s", target.server.origin, decision.why, remedy)
    return SourceRefused(_REFUSED)


class _ThreadedResolver(AbstractResolver):
    """The system's resolver in threads of its own: slow name servers must not hold up the loop's file I/O."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="egress-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = partial(
            socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=family_, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for family_, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _GuardedResolver(AbstractResolver):
    """A name with one address that may not be dialled is refused whole: only such addresses are passed on.

    Otherwise it would depend on the order of the records, or on which server answers first.
    """

    def __init__(self, policy: EgressPolicy, inner: AbstractResolver, *, timeout_s: float) -> None:
        self._policy = policy
        self._inner = inner
        self._timeout_s = timeout_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(self._timeout_s):
            found = await self._inner.resolve(host, port, family)
        if not found:
            raise OSError(errno.ENOENT, "no address")
        return [one for one in found if not self._policy.decide(one["host"], port, host=host).permitted] or found

    async def close(self) -> None:
        await self._inner.close()
