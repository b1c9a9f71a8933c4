"""Who a request is from by its certificate: shown in the TLS handshake, or passed on by a trusted reverse proxy."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from dataclasses import replace

from aiohttp import hdrs, web

from gateway_core import Client, Gateway, Identity, NotFound, Unauthorized
from gateway_core.auth.authenticators import GATEWAY_AUTHORIZATION
from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.authority import AUTHORITY_KEY, Authority
from gateway_pipe.identity.headers import CLIENT_CERT, SSL_CERT, SSL_VERIFY, forwarded_certificate
from gateway_pipe.identity.listener import NodeObject, trusted_pem
from gateway_pipe.identity.names import NodeCertificate, of_peer
from gateway_pipe.settings import CONNECT_SCOPE, PipeSettings

log = get_logger("gateway.pipe.identity")

CERTIFICATE: web.RequestKey[NodeCertificate] = web.RequestKey("pipe_certificate", NodeCertificate)
"""The certificate by which a request's client was found; not there for other requests."""

_HEADERS = (CLIENT_CERT, SSL_CERT, SSL_VERIFY)
_WITHOUT = ("/pipe/ca", "/pipe/enrol", "/pipe/renew")
"""Ends of the paths that a node asks for while it has no certificate."""


class CertificateAuthenticator:
    """A node's client has the scope ``pipe:connect:<name>`` for each name in its certificate, and no other."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def authenticate(self, request: web.Request) -> Identity | None:
        """None for requests without a certificate; raises Unauthorized for one that is revoked or does not hold."""
        try:
            found = await self._certificate(request)
            if found is None:
                return None
            certificate = await self._admitted(found)
        except Unauthorized as error:
            if not request.path.endswith(_WITHOUT):
                log.warning("a node was refused", reason=error.detail, path=request.path, client=request.remote)
            error.headers[hdrs.WWW_AUTHENTICATE] = _challenge(error.detail)
            raise
        request[CERTIFICATE] = certificate
        return Identity(_client(certificate))

    async def _certificate(self, request: web.Request) -> NodeCertificate | None:
        """Verified but for revocation."""
        connection = request.get_extra_info("ssl_object")
        if isinstance(connection, NodeObject):
            peer = connection.getpeercert()
            if peer:
                return of_peer(peer)
            if hdrs.AUTHORIZATION in request.headers or GATEWAY_AUTHORIZATION in request.headers:
                return None
            raise Unauthorized("no certificate was shown, and this port is for nodes that have one")
        if not self._from_proxy(request) or not any(name in request.headers for name in _HEADERS):
            return None
        der = forwarded_certificate(lambda name: request.headers.getall(name, ()))
        return None if der is None else await self._verified(der)

    def _from_proxy(self, request: web.Request) -> bool:
        """Whether the other end of the connection itself is a trusted proxy; what it says of others does not count."""
        trusted = self._gateway.trusted_proxies
        if not trusted or not request.remote:
            return False
        try:
            address = ipaddress.ip_address(request.remote.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in trusted)

    async def _verified(self, der: bytes) -> NodeCertificate:
        from gateway_pipe.identity.chains import verified

        try:
            trusted = await trusted_pem(self._authority, self._gateway.section(PipeSettings))
        except NotFound as exc:
            raise Unauthorized("there is no certificate authority here yet") from exc
        return verified(trusted, der)

    async def _admitted(self, certificate: NodeCertificate) -> NodeCertificate:
        """``certificate`` with the names that are not revoked; raises Unauthorized when none is left."""
        if time.time() > certificate.not_after:  # the connection may be older
            raise Unauthorized("the node's certificate has expired")
        if not certificate.names:
            raise Unauthorized("the certificate names no node: it needs a SAN URI pipe:<name>, or a DNS name")
        revocations = self._authority.revocations
        standing = await revocations.current()
        if not certificate.names & standing.keys():
            return certificate
        issued = await revocations.issued(certificate.serial) or certificate.issued
        left = {name for name in certificate.names if name not in standing or not standing[name].covers(issued)}
        if not left:
            raise Unauthorized(f"{', '.join(sorted(certificate.names))}: revoked; a new invitation is needed")
        return replace(certificate, names=frozenset(left), issued=issued)

    @property
    def _authority(self) -> Authority:
        return self._gateway.state[AUTHORITY_KEY]


def _challenge(reason: str) -> str:
    """With the reason, which a WebSocket client gets to see in headers only (RFC 6750 3)."""
    text = "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in reason)
    return f'Bearer realm="gateway", error="invalid_token", error_description="{text}"'


def _client(certificate: NodeCertificate) -> Client:
    """The same for all certificates of a node."""
    names = sorted(certificate.names)
    digest = hashlib.sha256(f"pipe-nodes {names}".encode()).hexdigest()
    return Client(
        id=digest[:32],
        name=f"node {', '.join(names)}"[:255],
        scopes=frozenset(CONNECT_SCOPE.format(node=name) for name in names),
        expires=certificate.not_after,
    )
