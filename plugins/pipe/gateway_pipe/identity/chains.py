"""Certificates that come as bytes, not in a handshake: looked at as closely as one would. Loads X.509 parts."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway_core.errors import Unauthorized
from gateway_pipe.identity.names import NodeCertificate, node_names, serial_text
from gateway_pipe.identity.renewal import renewal_statement
from gateway_pipe.identity.signing import signed_by, weak

T = TypeVar("T", bound=x509.ExtensionType)

_WEAK_DIGESTS = frozenset({"md5", "sha1"})


def verified(anchors_pem: str, der: bytes) -> NodeCertificate:
    """A node's certificate that one of the authorities in ``anchors_pem`` signed itself, and that holds now.

    Raises Unauthorized that says what is wrong. Authorities in between must stand in ``anchors_pem``.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        _must_be_current(certificate)
        _must_be_of_one(anchors_pem, certificate)
        return _node(certificate)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as exc:
        raise Unauthorized("the certificate cannot be read") from exc


def renewable(ca_pem: str, certificate_pem: str, *, csr: str, signature: bytes) -> NodeCertificate:
    """A node's certificate, expired or not, whose key signed the statement that it wants that renewal.

    Raises Unauthorized for any other.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        _must_be_of_one(ca_pem, certificate)
        key = certificate.public_key()
        node = _node(certificate)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as exc:
        raise Unauthorized("the certificate cannot be read") from exc
    if not signed_by(key, signature, renewal_statement(csr)):
        raise Unauthorized("the renewal is not signed with the key of that certificate")
    return node


def _must_be_current(certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise Unauthorized(f"the node's certificate has expired ({certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC)")
    if now < certificate.not_valid_before_utc:
        raise Unauthorized("the node's certificate is not valid yet; look at the clocks on both sides")


def _must_be_of_one(anchors_pem: str, certificate: x509.Certificate) -> None:
    """RFC 5280 6.1.3 for a path of one, as strict as OpenSSL with security level 2."""
    digest = certificate.signature_hash_algorithm
    if weak(certificate.public_key()) or (digest is not None and digest.name in _WEAK_DIGESTS):
        raise Unauthorized("the node's certificate has a key or a digest that is too weak")
    if not any(_signed(anchor, certificate) for anchor in _anchors(anchors_pem)):
        raise Unauthorized("the node's certificate comes from an authority that is not trusted here")
    constraints = _extension(certificate, x509.BasicConstraints)
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    allowed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if (constraints is not None and constraints.ca) or (usages is not None and not allowed & set(usages)):
        raise Unauthorized("the node's certificate is made for another purpose")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise Unauthorized("the node's certificate is made for another purpose")


def _signed(anchor: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(anchor)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return anchor.not_valid_before_utc <= datetime.now(UTC) <= anchor.not_valid_after_utc


@lru_cache(maxsize=4)
def _anchors(pem: str) -> tuple[x509.Certificate, ...]:
    """Those certificates that are authorities."""
    found = []
    for certificate in x509.load_pem_x509_certificates(pem.encode()):
        constraints = _extension(certificate, x509.BasicConstraints)
        if constraints is not None and constraints.ca:
            found.append(certificate)
    return tuple(found)


def _node(certificate: x509.Certificate) -> NodeCertificate:
    sans = _extension(certificate, x509.SubjectAlternativeName)
    return NodeCertificate(
        names=node_names(
            [] if sans is None else sans.get_values_for_type(x509.UniformResourceIdentifier),
            [] if sans is None else sans.get_values_for_type(x509.DNSName),
        ),
        serial=serial_text(certificate.serial_number),
        issued=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
