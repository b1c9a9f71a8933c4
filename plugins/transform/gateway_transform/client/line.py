"""One request to the gateway over a connection of its own, through a proxy where the environment names one."""

from __future__ import annotations

import select
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import BinaryIO
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies, proxy_bypass

from gateway_core.cli.remote import Remote
from gateway_core.errors import ConfigError

STALL_S = 60.0
_PIECE_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: ``size_bytes`` of ``file`` from its start; ``sent`` hears how many are out so far."""

    file: BinaryIO
    size_bytes: int
    sent: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` begins with a slash and goes below the server's URL. Silence of ``timeout_s`` ends it."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    timeout_s: float = STALL_S


@contextmanager
def exchanged(remote: Remote, request: Request) -> Iterator[HTTPResponse]:
    """Send ``request`` and yield the head of the answer, whose body is read from it; redirects are not followed.

    Raises OSError and HTTPException, ConfigError for a URL or a proxy that cannot be used.
    """
    parts = _parts(remote.url)
    connection, target, headers = _connection(parts, request.timeout_s)
    try:
        connection.putrequest(request.method, f"{target}{parts.path}{request.path}", skip_accept_encoding=True)
        sent = {**headers, **remote.headers, "Accept-Encoding": "identity", **request.headers}
        if request.body is not None:
            sent["Content-Length"] = str(request.body.size_bytes)
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders()
        if request.body is not None:
            _send(connection, request.body)
        yield connection.getresponse()
    finally:
        connection.close()


def _send(connection: HTTPConnection, body: Body) -> None:
    """Send it until the server has had enough: an early answer says why, and is to be read."""
    early = select.poll()
    if not isinstance(connection.sock, ssl.SSLSocket):  # there, what has come may be the protocol's own
        early.register(connection.sock, select.POLLIN)
    body.file.seek(0)
    left = body.size_bytes
    while left and not early.poll(0):
        piece = body.file.read(min(_PIECE_BYTES, left))
        if not piece:
            raise HTTPException("the file to be sent has become shorter")
        try:
            connection.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            return
        left -= len(piece)
        body.sent(body.size_bytes - left)


def _parts(url: str) -> SplitResult:
    """The URL's parts, of which nothing can break a request line."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if url.isascii() and url.isprintable() and " " not in url and parts.hostname and parts.port != 0:
            return parts
    raise ConfigError(f"not a server's URL: {url}")


def _connection(parts: SplitResult, timeout_s: float) -> tuple[HTTPConnection, str, dict[str, str]]:
    """The connection to use, what stands before the path in the request line, and headers for a proxy."""
    host, port = parts.hostname or "", parts.port
    secure = parts.scheme == "https"
    proxy = _proxy(parts.scheme, host)
    if proxy is None:
        return (HTTPSConnection if secure else HTTPConnection)(host, port, timeout=timeout_s), "", {}
    assert proxy.hostname is not None
    where, headers = (proxy.hostname, proxy.port or 80), _proxy_headers(proxy)
    if not secure:
        return HTTPConnection(*where, timeout=timeout_s), f"http://{parts.netloc}", headers
    tunnel = HTTPSConnection(*where, timeout=timeout_s)
    tunnel.set_tunnel(host, port or 443, headers)
    return tunnel, "", {}


def _proxy(scheme: str, host: str) -> SplitResult | None:
    """The proxy of ``http_proxy``, ``https_proxy`` and ``no_proxy``."""
    told = getproxies().get(scheme, "")
    if not told or proxy_bypass(host):
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
