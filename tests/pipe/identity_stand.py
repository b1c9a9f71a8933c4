"""A gateway with the identity parts of the pipe plugin alone, and certificates of every kind for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import gateway_pipe
from gateway_core import Listener, MigrationSource, Route, client_of, hookimpl
from gateway_core.testing.harness import RunningGateway
from gateway_pipe.identity.authority import AUTHORITY_KEY, Authority, Purpose
from gateway_pipe.identity.listener import LISTENER_KEY, identities, listener_context
from gateway_pipe.identity.signing import Issuer, new_issuer
from gateway_pipe.link.model import SUBPROTOCOL
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.certificates import CERTIFICATE, CertificateAuthenticator
from gateway_pipe.web.enrolment import enrolment_routes

LISTENER = "pipe.nodes"


class IdentityPlugin:
    """Enrolment on both ports, and where links would be a route that says who asked."""

    @hookimpl
    def gateway_settings(self):
        return PipeSettings

    @hookimpl
    def gateway_migrations(self):
        return MigrationSource("pipe", str(Path(gateway_pipe.__file__).parent / "migrations"))

    @hookimpl
    def gateway_routes(self, gateway):
        return self._routes(gateway)

    @hookimpl
    def gateway_listeners(self, gateway):
        listen = gateway.section(PipeSettings).listen
        if not listen:
            return []
        routes = self._routes(gateway)
        return [Listener(name="nodes", bind=listen, routes=routes, ssl_context=lambda: listener_context(gateway))]

    @hookimpl
    def gateway_authenticators(self, gateway):
        return [CertificateAuthenticator(gateway)]

    @hookimpl
    def gateway_lifespan(self, gateway):
        return _lifespan(gateway)

    def _routes(self, gateway):
        link = Route(
            method="GET",
            path="/pipe/link/{node}",
            handler=_who,
            name="link",
            scope="pipe:connect:{node}",
            grant=False,
        )
        return [link, *enrolment_routes(gateway)]


@asynccontextmanager
async def _lifespan(gateway):
    async with identities(gateway, gateway.section(PipeSettings)):
        yield


async def _who(request):
    if "Upgrade" in request.headers:
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await socket.prepare(request)
        await socket.close()
        return socket
    found = request.get(CERTIFICATE)
    told = None if found is None else {"names": sorted(found.names), "serial": found.serial, "end": found.not_after}
    return web.json_response({"client": client_of(request).name, "certificate": told})


@dataclass(frozen=True)
class Stand:
    """A running gateway, its authority, and requests to the nodes' port."""

    gateway: RunningGateway
    authority: Authority

    @property
    def url(self) -> str:
        return f"https://{self.gateway.address(LISTENER)}"

    async def issuer(self) -> Issuer:
        return await self.authority.issuer(Purpose.NODES)

    async def token(self, name: str, ttl_s: float = 60.0) -> str:
        token, _ = await self.authority.invite(name, ttl_s=ttl_s)
        return token.text

    async def get(self, path: str, context: ssl.SSLContext) -> tuple[int, dict[str, Any]]:
        async with ClientSession(connector=TCPConnector(ssl=context, force_close=True)) as session:
            async with session.get(self.url + path) as response:
                return response.status, await response.json(content_type=None)


@asynccontextmanager
async def identity_stand(
    make_gateway, *, ca: bool = True, listen: bool = True, **settings: Any
) -> AsyncIterator[Stand]:
    """``settings`` of the core in lower case, of the plugin in ``pipe``."""
    pipe = {**({"listen": "127.0.0.1:0"} if listen else {}), **settings.pop("pipe", {})}
    all_settings = {"plugins": ("pipe",), "pipe": pipe, **settings}
    async with make_gateway(settings=all_settings, plugins={"pipe": IdentityPlugin()}) as gateway:
        stand = Stand(gateway, gateway.core.state[AUTHORITY_KEY])
        if ca:
            await stand.authority.init()
            if listen:
                assert await gateway.core.state[LISTENER_KEY].load()
        yield stand


Extra = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]


@dataclass(frozen=True)
class Leaf:
    """A certificate with its key, as files and as parts."""

    certificate: x509.Certificate
    key: Any
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> str:
        return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in (self.certificate, *self.chain))

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def write(self, folder: Path) -> tuple[Path, Path]:
        cert, key = folder / "leaf.crt", folder / "leaf.key"
        cert.write_text(self.pem)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert, key

    def context(self, ca_pem: str, folder: Path) -> ssl.SSLContext:
        """Of a client that shows it, however bad it is."""
        context = plain_context(ca_pem)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.load_cert_chain(*self.write(folder))
        return context


def plain_context(ca_pem: str) -> ssl.SSLContext:
    """Of a client that shows nothing."""
    return ssl.create_default_context(cadata=ca_pem)


def leaf(
    issuer: Issuer | Leaf | None,
    *,
    sans: tuple[x509.GeneralName, ...] = (x509.UniformResourceIdentifier("pipe:node1"),),
    begin_s: float = -60.0,
    end_s: float = 3600.0,
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    authority: bool = False,
    key: Any = None,
) -> Leaf:
    """A certificate that ``issuer`` signs, itself without one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node1")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=begin_s))
        .not_valid_after(now + timedelta(seconds=end_s))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    signer = key if issuer is None else issuer.key
    chain = (issuer.certificate,) if isinstance(issuer, Leaf) else ()
    return Leaf(builder.sign(signer, hashes.SHA256()), key, chain)


def other_issuer() -> Issuer:
    """An authority that nobody here trusts."""
    return new_issuer("others")


@asynccontextmanager
async def tls_server(certificate: Leaf, folder: Path, handler) -> AsyncIterator[str]:
    """The URL of an HTTPS server on 127.0.0.1 that shows that certificate and answers with ``handler``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate.write(folder))
    async with http_server(handler, context) as address:
        yield f"https://{address}"


@asynccontextmanager
async def http_server(handler, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """``host:port`` of a server that answers everything with ``handler``."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
