"""A node's certificate in the header of a reverse proxy that took the TLS handshake."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from gateway_core.errors import Unauthorized

CLIENT_CERT = "Client-Cert"
"""RFC 9440 2.2: the certificate's DER as a byte sequence of structured fields, ``:base64:``."""
SSL_CERT = "X-SSL-Cert"
"""nginx's ``$ssl_client_escaped_cert``."""
SSL_VERIFY = "X-SSL-Verify"
"""nginx's ``$ssl_client_verify``: SUCCESS, NONE, FAILED:reason."""

_MOST_CHARACTERS = 16384

Values = Callable[[str], Sequence[str]]
"""All values of the header of that name."""


def forwarded_certificate(values: Values) -> bytes | None:
    """DER of the certificate that the proxy passes on, None where it passes none; nothing in it is verified yet.

    Raises Unauthorized for one that the proxy did not find good, for a form that cannot be read, and where both forms
    are there: then one of them is the client's own invention. Ask only about requests of a trusted proxy, which must
    set or remove each of these headers.
    """
    standard, escaped, verdict = values(CLIENT_CERT), values(SSL_CERT), values(SSL_VERIFY)
    if standard and (escaped or verdict):
        raise Unauthorized(f"the proxy must remove {CLIENT_CERT} or {SSL_CERT} of its clients: both came")
    if any(len(given) > 1 or len(given[0]) > _MOST_CHARACTERS for given in (standard, escaped, verdict) if given):
        raise Unauthorized("the proxy sent a certificate twice, or one that is too long")
    if standard:
        return _byte_sequence(standard[0].strip())
    if not verdict or verdict[0] == "NONE":
        if escaped and escaped[0]:
            raise Unauthorized(f"the proxy must send {SSL_VERIFY} with {SSL_CERT}")
        return None
    if verdict[0] != "SUCCESS":
        raise Unauthorized(f"the proxy refused the node's certificate: {verdict[0].removeprefix('FAILED:')[:80]}")
    return _escaped_pem(escaped[0] if escaped else "")


def _byte_sequence(text: str) -> bytes:
    if len(text) < 2 or text[0] != ":" or text[-1] != ":":
        raise Unauthorized(f"{CLIENT_CERT} is not of the form :base64: (RFC 9440 2.2)")
    try:
        return base64.b64decode(text[1:-1], validate=True)
    except binascii.Error as exc:
        raise Unauthorized(f"{CLIENT_CERT} is not of the form :base64: (RFC 9440 2.2)") from exc


def _escaped_pem(text: str) -> bytes:
    try:
        pem = unquote(text, errors="strict").strip()
        first, end, _ = pem.partition(ssl.PEM_FOOTER)  # some proxies send the chain behind it
        return ssl.PEM_cert_to_DER_cert(first + end)
    except ValueError as exc:
        raise Unauthorized(f"{SSL_CERT} is no URL-encoded PEM certificate ($ssl_client_escaped_cert)") from exc
