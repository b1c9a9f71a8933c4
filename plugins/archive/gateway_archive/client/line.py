"""One request to the gateway over a connection of its own, through a proxy where the environment names one."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

from gateway_core.cli.remote import Remote
from gateway_core.errors import ConfigError

STALL_S = 300.0
"""Longest silence: the server itself waits for silent sources, and asks them again, for minutes."""
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A peer that has gone without a word is found out in three quarters of a minute."""


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` begins with a slash and goes below the server's URL."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@contextmanager
def exchanged(remote: Remote, request: Request) -> Iterator[HTTPResponse]:
    """Send ``request`` and yield the head of the answer, whose body is read from it; redirects are not followed.

    Raises OSError and HTTPException, ConfigError for a URL or a proxy that cannot be used.
    """
    parts = _parts(remote.url)
    connection, target, headers = _connection(parts)
    try:
        connection.connect()
        _keep_alive(connection.sock)
        sent = {**headers, **remote.headers, "Accept-Encoding": "identity", **request.headers}
        with suppress(BrokenPipeError, ConnectionResetError):  # an early answer says why it does not want the body
            connection.request(request.method, f"{target}{parts.path}{request.path}", request.body, sent)
        yield connection.getresponse()
    finally:
        connection.close()


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _parts(url: str) -> SplitResult:
    """The URL's parts, of which nothing can break a request line."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if url.isascii() and url.isprintable() and " " not in url and parts.hostname and parts.port != 0:
            return parts
    raise ConfigError(f"not a server's URL: {url!r}")


def _connection(parts: SplitResult) -> tuple[HTTPConnection, str, dict[str, str]]:
    """The connection to use, what stands before the path in the request line, and headers for a proxy."""
    host, port = parts.hostname or "", parts.port
    secure = parts.scheme == "https"
    proxy = _proxy(parts.scheme, host)
    if proxy is None:
        return (HTTPSConnection if secure else HTTPConnection)(host, port, timeout=STALL_S), "", {}
    headers = _proxy_headers(proxy)
    if not secure:
        plain = HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=STALL_S)
        return plain, f"http://{parts.netloc}", {"Host": parts.netloc, **headers}
    tunnel = HTTPSConnection(proxy.hostname or "", proxy.port or 80, timeout=STALL_S)
    tunnel.set_tunnel(host, port or 443, headers)
    return tunnel, "", {}


def _proxy(scheme: str, host: str) -> SplitResult | None:
    """The proxy of ``http_proxy``, ``https_proxy`` and ``no_proxy``; never one for addresses of this machine."""
    told = getproxies().get(scheme, "")
    if not told or host == "localhost" or host.startswith("127.") or host == "::1" or proxy_bypass(host):
        return None
    proxy = urlsplit(told if "://" in told else f"http://{told}")
    with suppress(ValueError):
        if proxy.scheme == "http" and proxy.hostname and proxy.port != 0:
            return proxy
    raise ConfigError(f"{scheme}_proxy names a proxy that cannot be used; expected http://host:port")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = unquote_to_bytes(proxy.username) + b":" + unquote_to_bytes(proxy.password or "")
    return {"Proxy-Authorization": "Basic " + b64encode(user).decode()}
