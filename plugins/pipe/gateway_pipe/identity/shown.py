"""A server's certificate in a few words, verified or not. Loads X.509 parts."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509


def describe(der: bytes) -> str:
    """Issuer, names and days of a certificate that may be anything."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        issuer = certificate.issuer.rfc4514_string()[:100]
        until, since = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        names = _names(certificate)
    except (ValueError, x509.DuplicateExtension):
        return "it cannot be read"
    now = datetime.now(UTC)
    span = f"until {until:%Y-%m-%d %H:%M} UTC"
    if now > until:
        span = f"expired on {until:%Y-%m-%d %H:%M} UTC"
    elif now < since:
        span = f"not valid before {since:%Y-%m-%d %H:%M} UTC, and here it is {now:%Y-%m-%d %H:%M} UTC"
    return f"for {', '.join(names) or 'no host'}; from {issuer}; {span}"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in sans.get_values_for_type(x509.IPAddress)]
    return [*sans.get_values_for_type(x509.DNSName), *addresses][:6]
