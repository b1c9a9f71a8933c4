"""A connected socket none of whose waits lasts: it ends at the stop, or when nothing came for too long.

``dial`` makes one: names looked up, addresses tried in turn, through a proxy where the environment names one, with TLS.
"""

from __future__ import annotations

import errno
import io
import os
import queue
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

from gateway_blocks.get.model import Stopped, Unreachable
from gateway_blocks.get.urls import DEFAULT_PORTS, host_and_port
from gateway_core.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_SLICE_S = 0.25
_READ_AHEAD_BYTES = 8192  # for heads; bodies go past the buffer
_Address = tuple[int, int, int, Any]
"""Family, type, protocol and address of a socket."""


class Patience:
    """A time limit that is waited out in slices: ``slice_s`` is the next, at most a quarter of a second."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._end = time.monotonic() + seconds
        self._stop = stop

    def left_s(self) -> float:
        """What is left of the time; raises Stopped, and TimeoutError when nothing is left."""
        if self._stop.is_set():
            raise Stopped("stopped")
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def slice_s(self) -> float:
        """How long to wait before asking again; raises as ``left_s`` does."""
        return min(_SLICE_S, self.left_s())


class Wire:
    """A socket as http.client wants one. Raises Unreachable after ``stall_s`` without a byte, Stopped at the stop."""

    def __init__(self, sock: socket.socket, stop: threading.Event, *, host: str, stall_s: float) -> None:
        self._sock, self._stop, self._host, self._stall_s = sock, stop, host, stall_s
        self._slice_s = min(_SLICE_S, stall_s)
        self._readers = 0
        self._closed = False
        sock.settimeout(self._slice_s)

    def recv_into(self, buffer: WriteableBuffer) -> int:
        """One receive; 0 at the end."""
        waited_s = 0.0
        while True:
            self._check_stop()
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError as error:
                waited_s = self._waited(waited_s, error, "sent")

    def sendall(self, data: ReadableBuffer) -> None:
        """Send all of ``data``."""
        rest, waited_s = memoryview(data), 0.0
        while rest:
            self._check_stop()
            try:
                rest, waited_s = rest[self._sock.send(rest) :], 0.0
            except TimeoutError as error:
                waited_s = self._waited(waited_s, error, "took")

    def makefile(self, mode: str) -> io.BufferedReader:
        """A buffered reader; the socket stays open until the reader, too, is closed."""
        del mode  # "rb" is all that http.client asks for
        self._readers += 1
        return _Reader(_Raw(self), _READ_AHEAD_BYTES)

    def released(self) -> None:
        """Called by a reader that was closed."""
        self._readers -= 1
        if self._closed and not self._readers:
            self._sock.close()

    def close(self) -> None:
        """Close the socket, or let the last reader do it."""
        self._closed = True
        if not self._readers:
            self._sock.close()

    def quiet(self) -> bool:
        """Whether nothing has come since the last answer: neither the end nor bytes that nobody asked for."""
        return not _ready(self._sock, select.POLLIN, 0)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("stopped")

    def _waited(self, waited_s: float, error: TimeoutError, verb: str) -> float:
        if error.errno is not None:  # ETIMEDOUT of the connection itself, after which recv would say that all has come
            raise error
        if waited_s + self._slice_s >= self._stall_s:
            raise Unreachable(f"{self._host} {verb} nothing for {self._stall_s:g} s") from error
        return waited_s + self._slice_s


class _Raw(io.RawIOBase):
    """What a wire receives, as a raw stream."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._wire.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._wire.released()


class _Reader(io.BufferedReader):
    """A buffered reader that hands over what came rather than waiting for a full buffer."""

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self.readinto1(buffer)


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; ``authorization`` is the value of Proxy-Authorization."""

    host: str
    port: int
    authorization: str | None

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy itself is told with a request or a CONNECT."""
        return {} if self.authorization is None else {"Proxy-Authorization": self.authorization}


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment names for ``url`` (``http_proxy``, ``https_proxy``, ``no_proxy``), or None.

    Raises ConfigError for a proxy that does not speak HTTP.
    """
    parts = urlsplit(url)
    told = getproxies().get(parts.scheme, "")
    if not told or proxy_bypass(parts.hostname or "") or proxy_bypass(host_and_port(parts)):
        return None
    proxy = urlsplit(told if "://" in told else f"http://{told}")
    try:
        host, port = proxy.hostname, proxy.port or DEFAULT_PORTS["http"]
    except ValueError:
        host, port = None, 0
    if proxy.scheme != "http" or not host:
        raise ConfigError(f"{parts.scheme}_proxy names a proxy that cannot be used; expected http://host:port")
    return Proxy(host, port, _proxy_authorization(proxy))


def _proxy_authorization(proxy: SplitResult) -> str | None:
    if proxy.username is None:
        return None
    user = unquote_to_bytes(proxy.username) + b":" + unquote_to_bytes(proxy.password or "")
    return "Basic " + b64encode(user).decode()


@dataclass(frozen=True, slots=True)
class Dialer:
    """Makes wires. ``connect_s`` is for all from the name to the end of the TLS handshake."""

    stop: threading.Event
    connect_s: float
    stall_s: float
    tls: ssl.SSLContext | None = None

    def dial(self, url: str, proxy: Proxy | None) -> Wire:
        """A wire to the URL's server, or to the proxy where it is to forward plain requests.

        Raises OSError, HTTPException, Unreachable, Stopped.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        patience = Patience(self.connect_s, self.stop)
        sock = _connected((host, port) if proxy is None else (proxy.host, proxy.port), patience)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "https":
                if proxy is not None:
                    self._tunnel(sock, proxy, parts, patience=patience)
                sock = _with_tls(sock, self.tls or _default_tls(), host, patience=patience)
            return Wire(sock, self.stop, host=host_and_port(parts), stall_s=self.stall_s)
        except BaseException:
            sock.close()
            raise

    def _tunnel(self, sock: socket.socket, proxy: Proxy, parts: SplitResult, *, patience: Patience) -> None:
        """CONNECT (RFC 9110 9.3.6); the server behind says nothing before we do, so nothing is read too far."""
        host = host_and_port(parts)
        target = host if parts.port else f"{host}:{DEFAULT_PORTS[parts.scheme]}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        wire = Wire(sock, self.stop, host=f"proxy {proxy.host}", stall_s=patience.left_s())
        wire.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        response = HTTPResponse(cast("socket.socket", wire), method="CONNECT")
        try:
            response.begin()
        finally:
            response.close()
        if not 200 <= response.status < 300:
            raise Unreachable(f"proxy {proxy.host} does not connect to {target}: status {response.status}")


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """One for all threads: reading the trusted certificates takes a while."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _with_tls(sock: socket.socket, context: ssl.SSLContext, host: str, *, patience: Patience) -> ssl.SSLSocket:
    secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            secured.settimeout(patience.slice_s())
            try:
                secured.do_handshake()
            except TimeoutError as error:
                if error.errno is not None:
                    raise
            else:
                return secured
    except BaseException:
        secured.close()
        raise


def _connected(where: tuple[str, int], patience: Patience) -> socket.socket:
    """A socket connected to the first address that answers; each gets its share of the time that is left."""
    addresses = _looked_up(where, patience)
    failure: OSError = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for number, address in enumerate(addresses):
        share_s = patience.left_s() / (len(addresses) - number)
        try:
            return _connected_to(address, share_s, patience)
        except OSError as error:
            failure = error
    raise failure


def _connected_to(address: _Address, share_s: float, patience: Patience) -> socket.socket:
    family, kind, protocol, name = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(name)
        if code == errno.EINPROGRESS:
            end = time.monotonic() + share_s
            while not _ready(sock, select.POLLOUT, patience.slice_s()):
                if time.monotonic() >= end:
                    raise TimeoutError
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


def _looked_up(where: tuple[str, int], patience: Patience) -> list[_Address]:
    """The host's addresses; asked for in a thread of its own, since nothing else can end a look-up that hangs."""
    found: queue.SimpleQueue[list[_Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)
        except OSError as error:
            found.put(error)
        else:
            found.put([(family, kind, protocol, address) for family, kind, protocol, _, address in infos])

    threading.Thread(target=look_up, name="gateway-get-dns", daemon=True).start()
    while True:
        try:
            outcome = found.get(timeout=patience.slice_s())
        except queue.Empty:
            continue
        if isinstance(outcome, OSError):
            raise outcome
        return outcome


def _ready(sock: socket.socket, event: int, timeout_s: float) -> bool:
    poller = select.poll()  # select() cannot watch descriptors above 1023
    poller.register(sock, event)
    return bool(poller.poll(timeout_s * 1000))
