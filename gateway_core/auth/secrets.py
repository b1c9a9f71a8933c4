"""Client secrets: random, recognisable by prefix, and checked for typing errors without a look-up."""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib

PREFIX = "gw_"
LONGEST = 512
"""Characters that a secret may have; imported ones may be long."""

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH = 40
_CHECK_LENGTH = 6
_KEY_BYTES = 32


def new_secret() -> str:
    """``gw_``, 40 random base-62 characters (238 bits), 6 characters of CRC-32 over what stands before."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return body + _checksum(body)


def plausible(secret: str) -> bool:
    """False for a secret of our form with a wrong checksum, and for what no secret can be; no look-up is needed then.

    Imported secrets have any form, so everything of 1 to 512 visible ASCII characters is plausible.
    """
    if not 0 < len(secret) <= LONGEST or not secret.isascii() or not secret.isprintable():
        return False
    if secret.startswith(PREFIX) and len(secret) == len(PREFIX) + _RANDOM_LENGTH + _CHECK_LENGTH:
        return _checksum(secret[:-_CHECK_LENGTH]) == secret[-_CHECK_LENGTH:]
    return True


def digest(secret: str) -> str:
    """Hex SHA-256, the form in which a secret is looked up; random secrets need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hmac_key(secret: str) -> bytes:
    """The key of tokens signed with HS256; imported secrets may be shorter than the JWT library likes.

    Zeros at the end make no other key, because HMAC pads with them itself (RFC 2104 2).
    """
    return secret.encode().ljust(_KEY_BYTES, b"\0")


def _checksum(text: str) -> str:
    value, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECK_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
