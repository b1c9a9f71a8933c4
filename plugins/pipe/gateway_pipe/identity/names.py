"""Names in certificates: what a node may call itself, and how a gateway shows that it is one."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_pipe.link.model import NODE_NAME

NODE_URI = "pipe:"
"""Scheme of the SAN URI with a node's name."""
GATEWAY_URI = "pipe-gateway:"
"""Scheme of the SAN URI of gateways: the built-in authority signs nodes too, and a node is no gateway."""
PEER_URI = "pipe-peer:"
"""Scheme of the SAN URI with a gateway's instance, between gateways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCertificate:
    """A verified certificate of a node.

    ``names`` are those that it may have, ``serial`` is hexadecimal; times are Unix seconds. ``issued`` is when it was
    signed where that is known, else when it begins to be valid.
    """

    names: frozenset[str]
    serial: str
    issued: float
    not_after: float


def node_names(uris: Iterable[str], hosts: Iterable[str]) -> frozenset[str]:
    """The names that a certificate with these SANs allows: those in ``pipe:<name>``, without any the DNS names.

    The common name says nothing (RFC 9525 2); what cannot be a node's name is left out.
    """
    given = [uri.removeprefix(NODE_URI) for uri in uris if uri.startswith(NODE_URI)]
    return frozenset(name for name in given or hosts if NODE_NAME.fullmatch(name))


def of_peer(peer: Mapping[str, Any]) -> NodeCertificate:
    """From what ``ssl.SSLObject.getpeercert`` tells of a certificate that was verified in the handshake."""
    sans = peer.get("subjectAltName", ())
    return NodeCertificate(
        names=node_names(
            [value for kind, value in sans if kind == "URI"], [value for kind, value in sans if kind == "DNS"]
        ),
        serial=serial_text(int(peer["serialNumber"], 16)),
        issued=float(ssl.cert_time_to_seconds(peer["notBefore"])),
        not_after=float(ssl.cert_time_to_seconds(peer["notAfter"])),
    )


def marked(peer: Mapping[str, Any] | None, scheme: str) -> str | None:
    """What follows ``scheme`` in a SAN URI of a verified certificate, None where it has no such URI."""
    for kind, value in (peer or {}).get("subjectAltName", ()):
        if kind == "URI" and value.startswith(scheme):
            return str(value).removeprefix(scheme)
    return None


def serial_text(serial: int) -> str:
    """A serial number as it is stored: hexadecimal, no leading zeros."""
    return f"{serial:x}"
