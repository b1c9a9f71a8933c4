"""TLS failures in plain words; what OpenSSL says is for its authors."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a TLS handshake failed: ``kind`` is a stable word for metrics, ``text`` a sentence without a full stop.

    ``by_other`` is True where the other end refused, and then it is about what was shown to it.
    """

    kind: str
    text: str
    by_other: bool = False


_VERIFIED = {
    7: ("untrusted", "was not signed by the authority that it names"),
    9: ("not_yet", "is not valid yet; look at the clocks on both sides"),
    10: ("expired", "has expired"),
    18: ("untrusted", "is self-signed"),
    19: ("untrusted", "comes from an authority that is not trusted here"),
    20: ("untrusted", "comes from an authority that is not trusted here"),
    21: ("untrusted", "comes from an authority that is not trusted here"),
    23: ("revoked", "is revoked"),
    24: ("untrusted", "was signed by a certificate that is no authority"),
    26: ("purpose", "is made for another purpose"),
    62: ("name", "is for another host name"),
    64: ("name", "is for another address"),
    66: ("weak", "has a key that is too weak"),
    67: ("weak", "was signed with a key that is too weak"),
    68: ("weak", "was signed with a digest that is too weak"),
    79: ("untrusted", "was signed by a certificate that is no authority"),
}
"""By X509_V_ERR code (openssl-verification-options(1)): word, and what is said of the certificate."""

_ALERTS = {
    "UNKNOWN_CA": ("untrusted", "does not trust the authority of the certificate that it was shown"),
    "CERTIFICATE_EXPIRED": ("expired", "says that the certificate it was shown has expired"),
    "CERTIFICATE_REVOKED": ("revoked", "says that the certificate it was shown is revoked"),
    "CERTIFICATE_REQUIRED": ("missing", "wants a certificate, and none was shown"),
    "UNSUPPORTED_CERTIFICATE": ("purpose", "says that the certificate it was shown is for another purpose"),
    "BAD_CERTIFICATE": ("refused", "refuses the certificate that it was shown"),
    "CERTIFICATE_UNKNOWN": ("refused", "refuses the certificate that it was shown"),
    "PROTOCOL_VERSION": ("protocol", "does not speak this version of TLS"),
    "HANDSHAKE_FAILURE": ("protocol", "broke the handshake off: nothing in common, or a certificate is missing"),
    "DECRYPT_ERROR": ("refused", "says that the key does not belong to the certificate that it was shown"),
    "ACCESS_DENIED": ("refused", "refuses the certificate that it was shown"),
}
"""By the end of the reason that OpenSSL gives to an alert (RFC 8446 6.2)."""

_OWN = {
    "HTTP_REQUEST": ("protocol", "plain HTTP was sent to a port that speaks TLS"),
    "HTTPS_PROXY_REQUEST": ("protocol", "a request for a proxy was sent to a port that speaks TLS"),
    "WRONG_VERSION_NUMBER": ("protocol", "the other end does not speak TLS here"),
    "RECORD_LAYER_FAILURE": ("protocol", "the other end does not speak TLS here"),
    "UNSUPPORTED_PROTOCOL": ("protocol", "the other end only speaks a version of TLS older than 1.2"),
    "UNKNOWN_PROTOCOL": ("protocol", "the other end does not speak TLS here"),
    "NO_SHARED_CIPHER": ("protocol", "no cipher in common, or no certificate to show yet"),
    "UNEXPECTED_EOF_WHILE_READING": ("closed", "the other end closed the connection in the handshake"),
    "EE_KEY_TOO_SMALL": ("weak", "the certificate's key is too weak"),
    "CA_MD_TOO_WEAK": ("weak", "the certificate was signed with a digest that is too weak"),
}


def failure(error: ssl.SSLError, whose: str) -> Failure:
    """Why the handshake failed; ``whose`` names the certificate that was looked at, as in "the node's certificate"."""
    if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):
        kind, text = _VERIFIED.get(error.verify_code, ("refused", f"is refused: {error.verify_message or error}"))
        return Failure(kind, f"{whose} {text}")
    reason = getattr(error, "reason", None) or ""  # those that are not from OpenSSL have none
    if reason in _OWN:
        return Failure(*_OWN[reason])
    if "_ALERT_" in reason:
        alert = reason.rpartition("_ALERT_")[2]
        kind, text = _ALERTS.get(alert, ("refused", f"broke the handshake off ({alert.lower().replace('_', ' ')})"))
        return Failure(kind, f"the other end {text}", by_other=True)
    return Failure("other", f"TLS failed: {reason.lower().replace('_', ' ') or error}")
