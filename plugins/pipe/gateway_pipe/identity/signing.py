"""The built-in authorities' signatures: P-256 throughout, profiles after RFC 5280 4.2. Loads X.509 parts."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway_core.errors import Invalid
from gateway_pipe.identity.names import GATEWAY_URI, NODE_URI, PEER_URI, serial_text

BACKDATED_S = 300.0
"""Certificates begin so long before they are signed: clocks differ."""
_AUTHORITY_DAYS = 20 * 365.25
_LONGEST_COMMON_NAME = 64  # ub-common-name, RFC 5280 A.1
_RSA_BITS = range(2048, 8193)

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Signed:
    """A new certificate: PEM, serial in hexadecimal, end in Unix seconds."""

    pem: str
    serial: str
    expires: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Issuer:
    """An authority that can sign."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> str:
        """Its certificate."""
        return _pem(self.certificate)

    @property
    def key_pem(self) -> str:
        """Its key, PKCS#8, not encrypted."""
        return key_pem(self.key)

    @property
    def pin(self) -> bytes:
        """SHA-256 of its certificate in DER, by which a token names it."""
        return self.certificate.fingerprint(hashes.SHA256())

    def sign_node(self, csr_pem: str, name: str, *, days: float) -> Signed:
        """A client certificate for the key of a signing request; nothing else of the request is taken.

        Raises Invalid for what is no request, is not signed with its key, or has a key that is too weak.
        """
        sans = [x509.UniformResourceIdentifier(NODE_URI + name), x509.DNSName(name)]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._sign(requested_key(csr_pem), name, sans=sans, usages=usages, days=days)

    def gateway(self, hosts: Sequence[str], instance: str, *, days: float) -> Pair:
        """A server certificate for ``hosts``, names and addresses, with a new key."""
        sans = [x509.UniformResourceIdentifier(GATEWAY_URI + quote(instance)), *(_san(host) for host in hosts)]
        return self._pair("content-gateway", sans=sans, usages=[ExtendedKeyUsageOID.SERVER_AUTH], days=days)

    def peer(self, instance: str, *, days: float) -> Pair:
        """A certificate for both ends of links between gateways, with a new key."""
        sans = [x509.UniformResourceIdentifier(PEER_URI + quote(instance, safe=":"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._pair("content-gateway peer", sans=sans, usages=usages, days=days)

    def _pair(
        self, name: str, *, sans: Sequence[x509.GeneralName], usages: Sequence[x509.ObjectIdentifier], days: float
    ) -> Pair:
        key = new_key()
        signed = self._sign(key.public_key(), name, sans=sans, usages=usages, days=days)
        return Pair(signed.pem, key_pem(key))

    def _sign(
        self,
        public_key: CertificatePublicKeyTypes,
        name: str,
        *,
        sans: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        days: float,
    ) -> Signed:
        now = datetime.now(UTC)
        end = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        certificate = (
            _builder(name, public_key, begin=now - timedelta(seconds=BACKDATED_S), end=end)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        expires = certificate.not_valid_after_utc.timestamp()
        return Signed(_pem(certificate), serial_text(certificate.serial_number), expires)


def new_issuer(purpose: str) -> Issuer:
    """A new authority, which may sign no further ones."""
    key = new_key()
    now = datetime.now(UTC)
    digest = hashlib.sha256(_spki(key.public_key())).hexdigest()[:8]
    name = f"content-gateway {purpose} {digest}"
    builder = _builder(
        name,
        key.public_key(),
        begin=now - timedelta(seconds=BACKDATED_S),
        end=now + timedelta(days=_AUTHORITY_DAYS),
    )
    certificate = (
        builder.issuer_name(_name(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def load_issuer(certificate: str, key_in_pem: bytes) -> Issuer:
    """An authority from what was stored of it; raises ValueError or TypeError for anything else."""
    key = serialization.load_pem_private_key(key_in_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not a key of a built-in authority")
    return Issuer(x509.load_pem_x509_certificate(certificate.encode()), key)


def new_key() -> PrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> str:
    """PKCS#8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def signing_request(key: PrivateKey, name: str) -> str:
    """A PEM request that proves possession of ``key``."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def requested_key(csr_pem: str) -> CertificatePublicKeyTypes:
    """The key of a signing request that is signed with it; raises Invalid otherwise, and for a weak key."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        if not request.is_signature_valid:
            raise Invalid({"csr": ["It is not signed with its own key."]})
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, UnicodeError) as exc:
        raise Invalid({"csr": ["Not a signing request in PEM with a key that is known here."]}) from exc
    if weak(key):
        raise Invalid({"csr": ["Its key must be P-256, P-384, P-521, Ed25519, or RSA of 2048 to 8192 bits."]})
    return key


def weak(key: object) -> bool:
    """Whether a certificate's public key is of a kind that is not signed or believed."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name not in {"secp256r1", "secp384r1", "secp521r1"}
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size not in _RSA_BITS
    return not isinstance(key, ed25519.Ed25519PublicKey)


def signed_by(key: object, signature: bytes, data: bytes) -> bool:
    """Whether ``data`` was signed with the key: ECDSA and RSA (PKCS #1 v1.5) over SHA-256, Ed25519 over the data."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _builder(
    name: str, public_key: CertificatePublicKeyTypes, *, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_LONGEST_COMMON_NAME])])


def _san(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
