"""A blocking HTTP/1.1 client for one thread, on http.client: redirects, proxies, stall limit, quick to stop."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Mapping
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse
from types import TracebackType
from typing import Self, cast
from urllib.parse import urljoin, urlsplit, urlunsplit

from gateway_blocks.get.answer import Answer, Busy, network_reason
from gateway_blocks.get.model import Options, Stopped, Unreachable
from gateway_blocks.get.urls import DEFAULT_PORTS, basic_authorization, host_and_port, origin, parse_url, shown
from gateway_blocks.get.wire import Dialer, Wire, proxy_for
from gateway_core.errors import ConfigError
from gateway_core.version import __version__

__all__ = ["Answer", "Busy", "HttpClient"]

_MAX_REDIRECTS = 10
_MAX_KEPT = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STALE = (ConnectionError, BadStatusLine, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_REPEATABLE = frozenset({"GET", "HEAD"})
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5
# They decide what an answer means, or how it is framed.
_OWN_FIELDS = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "if-match", "if-modified-since", "if-none-match"}
    | {"if-range", "if-unmodified-since", "keep-alive", "range", "te", "transfer-encoding", "upgrade"}
)


class _Connection(HTTPConnection):
    """A connection to one origin, perhaps through a proxy, on a wire."""

    def __init__(self, url: str, dialer: Dialer) -> None:
        parts = urlsplit(url)
        super().__init__(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
        self._url, self._dialer = url, dialer
        self._proxy = proxy_for(url)
        self._wire: Wire | None = None

    def connect(self) -> None:
        self._wire = self._dialer.dial(self._url, self._proxy)
        self.sock = cast("ssl.SSLSocket", self._wire)

    def usable(self) -> bool:
        """Whether it may carry another request."""
        return self.sock is not None and self._wire is not None and self._wire.quiet()

    def ask(self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None) -> HTTPResponse:
        """Send a request and wait for the head of its answer; closed when that fails."""
        parts = urlsplit(url)
        target = urlunsplit(("", "", parts.path, parts.query, ""))
        if self._proxy is not None and parts.scheme == "http":  # the absolute form, RFC 9112 3.2.2
            target = f"{origin(url)}{target}"
            headers = {**headers, **self._proxy.headers}
        try:
            self.request(method, target, body, headers)
            return self.getresponse()
        except BaseException:
            self.close()
            raise


class HttpClient:
    """HTTP for one thread; keeps one connection per origin alive. Close it at the end.

    ``options.headers`` go to the origin of ``home`` (the URL of the download, not a mirror) and nowhere else, and so do
    the user and password of ``home``; those of another URL go to that one. ``tls`` takes the place of the default
    context. Raises ConfigError for headers that cannot be sent.
    """

    def __init__(
        self, options: Options, stop: threading.Event, *, home: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self.stall_s = options.stall_s
        self._stop = stop
        self._home = parse_url(home)
        self._caller = _checked(options.headers)
        self._dialer = Dialer(stop, options.connect_s, options.stall_s, tls)
        self._kept: dict[str, _Connection] = {}

    def open(self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None = None) -> Answer:
        """Send a request, follow up to 10 redirects (GET and HEAD); any status is an answer.

        ``headers`` are those of the request itself (Range and the like) and go to every hop; user and password of the
        URL and ``options.headers`` are dropped for good when a redirect leaves the origin. Identity encoding unless
        ``headers`` say otherwise. Raises Unreachable with the host and what happened, Stopped, ConfigError for what is
        no URL.
        """
        url = parse_url(url)
        start = origin(url)
        credentials = self._credentials(url)
        for _ in range(_MAX_REDIRECTS + 1):
            fields = {"host": host_and_port(urlsplit(url)), **credentials, **_lowered(headers)}
            answer = self._answer(method, url, fields, body=body)
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or location is None or method not in _REPEATABLE:
                return answer
            with answer:
                url = _next_url(url, location)
                answer.discard()
            if origin(url) != start:
                credentials = {}
        raise Unreachable(f"{shown(url)}: redirected more than {_MAX_REDIRECTS} times")

    def pause(self, seconds: float) -> None:
        """Sleep; raises Stopped as soon as the stop is set."""
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped("stopped")

    def close(self) -> None:
        """Close all kept connections."""
        while self._kept:
            self._kept.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _credentials(self, url: str) -> dict[str, str]:
        at_home = origin(url) == origin(self._home)
        basic = basic_authorization(url) or (basic_authorization(self._home) if at_home else None)
        own = {} if basic is None else {"authorization": basic}
        return own | self._caller if at_home else own

    def _answer(self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None) -> Answer:
        host = host_and_port(urlsplit(url))
        fields = {"user-agent": f"content-gateway/{__version__}", "accept-encoding": "identity", **headers}
        try:
            connection, response = self._exchange(method, url, fields, body=body)
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{host} {network_reason(error)}") from error
        release = self._keeper(origin(url), connection, response)
        return Answer(response, url, release, takes_gzip="gzip" in fields["accept-encoding"])

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None
    ) -> tuple[_Connection, HTTPResponse]:
        """On the kept connection, once more on a new one where the server has closed that meanwhile."""
        kept = self._kept.pop(origin(url), None)
        if kept is not None and kept.usable():
            try:
                return kept, kept.ask(method, url, headers, body=body)
            except _STALE:
                if method not in _REPEATABLE:
                    raise
        elif kept is not None:
            kept.close()
        fresh = _Connection(url, self._dialer)
        return fresh, fresh.ask(method, url, headers, body=body)

    def _keeper(self, key: str, connection: _Connection, response: HTTPResponse) -> Callable[[bool], None]:
        """What an answer calls once, when it is closed, with whether its body was read to the end."""

        def release(whole: bool) -> None:
            reusable = whole and not response.will_close
            response.close()
            if not reusable or key in self._kept:
                connection.close()
                return
            self._kept[key] = connection
            if len(self._kept) > _MAX_KEPT:
                self._kept.pop(next(iter(self._kept))).close()

        return release


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's headers by lower-case name, without those that are the client's own business."""
    for name, value in headers.items():
        if not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise ConfigError(f"header {name!r} cannot be sent: its name or value has characters that none may have")
    return {name: value for name, value in _lowered(headers).items() if name not in _OWN_FIELDS}


def _next_url(url: str, location: str) -> str:
    """Where a redirect leads; user and password in it are not for us."""
    raw = location.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    try:
        target = urlsplit(parse_url(urljoin(url, raw)))
    except (ConfigError, ValueError) as error:
        raise Unreachable(f"{shown(url)}: redirected to what is no http or https URL") from error
    return urlunsplit(target._replace(netloc=host_and_port(target)))
