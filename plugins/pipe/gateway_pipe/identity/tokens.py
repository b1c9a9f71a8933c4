"""Invitations as text: one word that names the invitation, proves it, and pins the authority."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

from gateway_core.errors import BadRequest

_PREFIX = "gwp"
_ID_BYTES = 8
_SECRET_BYTES = 20
_PIN_BYTES = 32
_FORM = re.compile(rf"{_PREFIX}_([0-9a-f]{{{_ID_BYTES * 2}}})_([0-9a-f]{{{_SECRET_BYTES * 2}}})_([A-Za-z0-9_-]{{43}})")


@dataclass(frozen=True, slots=True)
class Token:
    """``gwp_<id>_<secret>_<pin>``: id and secret (160 bits) in hexadecimal, pin in URL-safe base64 without padding.

    ``pin`` is the SHA-256 of the authority's certificate in DER: whoever holds the token knows the gateway by it.
    """

    id: str
    secret: str = field(repr=False)
    pin: bytes

    @property
    def text(self) -> str:
        """The word itself."""
        return f"{_PREFIX}_{self.id}_{self.secret}_{base64.urlsafe_b64encode(self.pin).decode().rstrip('=')}"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the secret, the form in which it is stored; a random one needs no slow hash."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


def new_token(pin: bytes) -> Token:
    """A random token for the authority with that ``pin``."""
    return Token(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES), pin)


def parse_token(text: str) -> Token:
    """The token in ``text``; raises BadRequest for what is none."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise BadRequest("this is no token of `gateway pipe invite`: they look like gwp_…, in one piece")
    return Token(match[1], match[2], base64.urlsafe_b64decode(match[3] + "="))
