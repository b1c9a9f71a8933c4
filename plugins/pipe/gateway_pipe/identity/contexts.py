"""TLS as a node speaks it, and gateways among each other. The nodes' own port is in ``listener``."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from gateway_core.errors import ConfigError
from gateway_pipe.identity.files import load_pair
from gateway_pipe.identity.names import GATEWAY_URI, PEER_URI, marked

if TYPE_CHECKING:
    from gateway_pipe.identity.signing import Pair


class Verify(StrEnum):
    """By what a node knows its gateway: the built-in authority's mark, or a host name that some authority vouches for.

    ``SYSTEM`` is for a gateway behind a proxy with a public certificate: authorities of the operating system.
    """

    AUTHORITY = "authority"
    SYSTEM = "system"
    NAMES = "names"


class MarkedObject(ssl.SSLObject):
    """A connection whose handshake fails unless the verified other end has a SAN URI of the scheme."""

    scheme: ClassVar[str]

    def do_handshake(self) -> None:
        """Raises SSLCertVerificationError as for any other wrong certificate."""
        super().do_handshake()
        if marked(self.getpeercert(), self.scheme) is None:
            raise _unmarked(self.scheme)


class GatewayObject(MarkedObject):
    """To a gateway of the built-in authority, which signs nodes as well."""

    scheme = GATEWAY_URI


class PeerObject(MarkedObject):
    """Between two gateways."""

    scheme = PEER_URI


@dataclass(frozen=True, slots=True)
class PeerContexts:
    """Both ends of links between gateways: to accept and to dial them."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def _unmarked(scheme: str) -> ssl.SSLCertVerificationError:
    """For a certificate of the right authority that is made for something else."""
    error = ssl.SSLCertVerificationError(1, f"the certificate has no {scheme} name")
    error.verify_code, error.verify_message, error.reason = (
        26,
        "unsuitable certificate purpose",
        "CERTIFICATE_VERIFY_FAILED",
    )
    return error


def node_context(
    *, verify: Verify, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """What a node connects with; without ``cert`` it shows none.

    ``AUTHORITY`` takes a gateway of the authority in ``ca`` under any host name, by the mark in its certificate;
    ``NAMES`` a server whose name the authorities in ``ca`` vouch for, ``SYSTEM`` those of the operating system. Raises
    ConfigError that names the file that cannot be used.
    """
    if verify is Verify.SYSTEM:
        context = ssl.create_default_context()
    elif ca is None:
        raise ConfigError("a file with the certificate authority is needed to know the gateway by")
    else:
        context = _of_authority(_text(ca), str(ca))
    if verify is Verify.AUTHORITY:
        _known_by_mark(context, GatewayObject)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        show(context, cert, key)
    return context


def pinned_context(ca_pem: str) -> ssl.SSLContext:
    """To a gateway of the authority in ``ca_pem``, without a certificate of one's own; raises ConfigError."""
    context = _of_authority(ca_pem, "the gateway's authority")
    _known_by_mark(context, GatewayObject)
    return context


def peer_contexts(ca_pem: str, pair: Pair) -> PeerContexts:
    """Of one gateway towards the others; both ends show a certificate of the authority for peers."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=ca_pem)
    client = _of_authority(ca_pem, "the authority for peers")
    for context in (server, client):
        load_pair(context, pair.certificate, pair.key)
        _known_by_mark(context, PeerObject)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return PeerContexts(server, client)


def show(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Let ``context`` show the certificate in ``cert``; raises ConfigError that names the file that is wrong."""
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key or cert}: this key does not belong to the certificate in {cert}") from exc
        if exc.reason in {"EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}:
            raise ConfigError(f"{cert}: its key, or its digest, is too weak") from exc
        raise ConfigError(f"{cert}: no certificate with its key in PEM ({exc.reason or exc})") from exc
    except OSError as exc:
        raise ConfigError(f"{exc.filename or cert}, {key}: cannot be read: {exc.strerror}") from exc


def peer_instance(connection: ssl.SSLObject) -> str | None:
    """The instance of the gateway at the other end, None for what is no link between gateways."""
    from urllib.parse import unquote

    name = marked(connection.getpeercert(), PEER_URI) if isinstance(connection, PeerObject) else None
    return None if name is None else unquote(name)


def _of_authority(ca_pem: str, whence: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{whence}: no certificate of an authority in PEM") from exc
    return context


def _known_by_mark(context: ssl.SSLContext, kind: type[MarkedObject]) -> None:
    """Under any name: the authority signs nothing else with that mark, and gateways move."""
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = kind


def _no_password() -> str:
    """OpenSSL would ask the terminal."""
    raise ConfigError("the key is encrypted; a program that starts by itself needs one that is not")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or 'it is no PEM'}") from exc
