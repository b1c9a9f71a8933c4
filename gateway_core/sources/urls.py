"""Reading http(s) URLs: one spelling of the host, the rest exactly as given.

Nothing here is a guard. What a URL looks like decides only on nicer errors; the address that is dialled decides on
access (``egress``).
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache

from yarl import URL

from gateway_core.errors import SourceRefused

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_AUTHORITY = re.compile(r"(https?://[^/?#]*)([^#]*)", re.IGNORECASE)
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
# RFC 3986 3.3 and 3.4, with the brackets that browsers leave alone in queries
_EXACT = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers a URL, in its one spelling.

    ``host`` is ASCII, lower case, without a trailing dot; an IPv6 address stands without brackets, and ``literal``
    says that it is an address. ``port`` is the one that is dialled, ``origin`` always shows it (``https://host:443``,
    RFC 6454 4), ``base`` only where it is not the scheme's.
    """

    scheme: str
    host: str
    port: int
    literal: bool
    base: str
    origin: str


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A URL ready to be requested.

    ``url`` has neither user information nor fragment; its path and query are the given ones to the letter where they
    are valid, because signatures are made over them. ``authorization`` is the Basic credential the URL carried.
    """

    url: URL
    server: Server
    authorization: str | None = field(default=None, repr=False)


@lru_cache(maxsize=64)
def parse_url(text: str) -> HttpUrl:
    """Read an absolute http(s) URL; raises SourceRefused with the reason. The last ones are remembered."""
    if _FORBIDDEN.search(text):
        raise SourceRefused("URL with a control character or backslash")
    match = _AUTHORITY.match(text)
    if match is None:
        raise SourceRefused("only http:// and https:// URLs can be fetched")
    server, authorization = _server(match[1])
    rest = match[2]
    try:
        if not _EXACT.fullmatch(rest) or "/." in rest:
            rest = URL(text).raw_path_qs
        url = URL(server.base + (rest if rest.startswith("/") else "/" + rest), encoded=True)
    except ValueError as error:
        raise SourceRefused("not a valid URL") from error
    return HttpUrl(url, server, authorization)


@lru_cache(maxsize=1024)
def _server(text: str) -> tuple[Server, str | None]:
    """The server, and the credential, of what stands before the path."""
    try:
        given = URL(text)
        host = normal_host(given.host or "")
        port = given.port
    except ValueError as error:
        raise SourceRefused("not a valid URL") from error
    if not port:
        raise SourceRefused("not a valid URL")
    shown = f"{given.scheme}://[{host}]" if ":" in host else f"{given.scheme}://{host}"
    origin = f"{shown}:{port}"
    literal = ":" in host or host.rpartition(".")[2].isdigit()
    base = shown if given.is_default_port() else origin
    return Server(given.scheme, host, port, literal, base, origin), _basic(given)


def normal_host(text: str) -> str:
    """One spelling for each host name or address: IDNA-encoded, lower case, no trailing dot, IPv6 without brackets.

    Raises ValueError for what cannot be one: zones, empty labels, numbers that are not a dotted IPv4 address (some
    system resolvers take ``127.1`` or ``0x7f000001`` for 127.0.0.1).
    """
    host = (URL.build(scheme="http", host=text).raw_host or "").lower().removesuffix(".")
    if ":" in host:
        if "%" in host:
            raise ValueError(f"an address with a zone: {text!r}")
        return str(ipaddress.IPv6Address(host))
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"not a host: {text!r}")
    if _NUMERIC_LABEL.fullmatch(host.rpartition(".")[2]):
        return str(ipaddress.IPv4Address(host))
    return host


def _basic(url: URL) -> str | None:
    if url.raw_user is None and url.raw_password is None:
        return None
    pair = f"{url.user or ''}:{url.password or ''}"
    return "Basic " + b64encode(pair.encode()).decode()
