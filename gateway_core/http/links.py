"""Absolute links and client addresses, as seen from outside: what reverse proxies say counts only when trusted.

A trusted proxy must set or strip every forwarding field it knows; a proxy that passes a client's ``Forwarded`` on is
harmless only because ``X-Forwarded-*`` wins where both are present.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from aiohttp import web

from gateway_core.errors import BadRequest

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_LOCAL = IPv4Address("127.0.0.1")
_HOST = re.compile(  # uri-host [ ":" port ] (RFC 9110 7.2) without the percent-encoding that DNS names never have
    r"(?:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?\.?)|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")


class _Hop(NamedTuple):
    """What one proxy says of the request it took: from whom, for which host, over which scheme."""

    address: str = ""
    host: str = ""
    proto: str = ""


def external_base(request: web.BaseRequest, public_url: str | None, trusted: Sequence[Network]) -> str:
    """Absolute base of links in the answer, such as ``https://host/prefix``, without a slash at its end.

    ``public_url`` where it is set; else what the outermost of the ``trusted`` proxies says (X-Forwarded-Proto, -Host,
    -Prefix or RFC 7239 Forwarded), where the peer is one; else the Host field. Raises BadRequest for a host, scheme or
    prefix that cannot be part of a URL.
    """
    if public_url:
        return public_url.rstrip("/")
    hop, prefix = _Hop(), ""
    if _peer_trusted(request, trusted):
        hops = _hops(request)
        hop = hops[-_trusted_hops(hops, trusted)] if hops else hop
        prefix = _last(request, "X-Forwarded-Prefix")
    scheme = (hop.proto or request.scheme).lower().replace("ws", "http")  # some proxies say wss for a WebSocket
    if scheme not in {"http", "https"}:
        raise BadRequest("the forwarded scheme is neither http nor https")
    if not _PREFIX.fullmatch(prefix):
        raise BadRequest("the forwarded prefix is not a path")
    return f"{scheme}://{_checked_host(hop.host or _asked_host(request))}{prefix.rstrip('/')}"


def client_address(request: web.BaseRequest, trusted: Sequence[Network]) -> str:
    """IP address of the client: the right-most hop that is not a ``trusted`` proxy (X-Forwarded-For or Forwarded).

    Where a proxy names none that can be read, the proxy's own address. A peer on a Unix socket is 127.0.0.1.
    """
    if not trusted:  # nobody to believe: the usual case without a proxy, and on the way of every request
        return _written(request.remote)
    found = _peer(request)
    if found is None or not _within(found, trusted):
        return str(found or "")
    for hop in reversed(_hops(request)):
        address = _address(hop.address)
        if address is None:
            break
        found = address
        if not _within(address, trusted):
            break
    return str(found)


@lru_cache(maxsize=4096)
def _written(remote: str | None) -> str:
    """Address of a peer in its usual form."""
    return "" if remote is None else str(_address(remote) or _LOCAL)


def _peer(request: web.BaseRequest) -> Address | None:
    """Address of the connection's other end, None when it is already closed."""
    return None if request.remote is None else _address(request.remote) or _LOCAL


def _peer_trusted(request: web.BaseRequest, trusted: Sequence[Network]) -> bool:
    peer = _peer(request)
    return peer is not None and _within(peer, trusted)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _trusted_hops(hops: Sequence[_Hop], trusted: Sequence[Network]) -> int:
    """How many of ``hops``, from the right, were written by trusted proxies: the last one's peer is trusted already."""
    count = 1
    for hop in reversed(hops[1:]):
        address = _address(hop.address)
        if address is None or not _within(address, trusted):
            break
        count += 1
    return count


def _hops(request: web.BaseRequest) -> list[_Hop]:
    """Client first, nearest proxy last; X-Forwarded-* before Forwarded, since most proxies only know those."""
    addresses = _listed(request, "X-Forwarded-For")
    hosts, protos = _listed(request, "X-Forwarded-Host"), _listed(request, "X-Forwarded-Proto")
    depth = max(len(addresses), len(hosts), len(protos))
    if not depth:
        return [
            _Hop(pairs.get("for", ""), pairs.get("host", ""), pairs.get("proto", "")) for pairs in request.forwarded
        ]
    return [
        _Hop(addresses[-place] if place <= len(addresses) else "", _said_by(hosts, place), _said_by(protos, place))
        for place in range(depth, 0, -1)
    ]


def _said_by(values: Sequence[str], place: int) -> str:
    """What proxy number ``place`` from the right says; a nearer one that replaced the list speaks for it."""
    return values[-min(place, len(values))] if values else ""


def _listed(request: web.BaseRequest, name: str) -> list[str]:
    values = ",".join(request.headers.getall(name, ())).split(",")
    return [text for value in values if (text := value.strip(" \t"))]


def _last(request: web.BaseRequest, name: str) -> str:
    values = _listed(request, name)
    return values[-1] if values else ""


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """IP address in ``text``, with or without port, brackets or zone; None for ``unknown`` and obfuscated names."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _asked_host(request: web.BaseRequest) -> str:
    """The Host field; HTTP/1.0 may come without one, and then the local address was asked."""
    host, local = request.headers.get("Host"), request.get_extra_info("sockname")
    if host is not None:
        return host
    return f"{request.host}:{local[1]}" if isinstance(local, tuple) else request.host


def _checked_host(host: str) -> str:
    """``host`` when it is a name or address with an optional port; raises BadRequest otherwise."""
    match = _HOST.fullmatch(host)
    valid = match is not None and (not match["port"] or 0 < int(match["port"]) < 65536)
    if match is not None and match["v6"]:
        valid = valid and isinstance(_address(host), Address)
    if not valid:
        raise BadRequest("the Host is not a host name or address")
    return host.lower()
