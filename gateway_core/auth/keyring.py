"""The instance's keys: what is stored under them is unreadable without ``SECRET_KEY``."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from gateway_core.errors import StartupError

_LEAST_LENGTH = 16


class Keyring:
    """Encrypts with the first key and decrypts with any (Fernet: AES-CBC with HMAC-SHA256)."""

    def __init__(self, keys: Sequence[str]) -> None:
        """``keys`` are texts of at least 16 characters, newest first; raises ValueError when there is none."""
        if not keys:
            raise ValueError("at least one key is needed")
        derived = [hashlib.sha256(b"content-gateway/secret-key/" + key.encode()).digest() for key in keys]
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])
        self.fingerprints = tuple(hashlib.sha256(b"fingerprint/" + key).hexdigest()[:16] for key in derived)

    def encrypt(self, plain: bytes) -> bytes:
        """A token of URL-safe ASCII."""
        return self._fernet.encrypt(plain)

    def decrypt(self, token: bytes) -> bytes:
        """The plain bytes; raises StartupError when no key fits."""
        try:
            return self._fernet.decrypt(token)
        except InvalidToken as exc:
            raise StartupError("a stored secret fits none of the keys in SECRET_KEY") from exc

    def rotate(self, token: bytes) -> bytes:
        """The same plain bytes under the first key."""
        return self.encrypt(self.decrypt(token))


def instance_key(data_dir: Path) -> str:
    """The key of an installation without ``SECRET_KEY``: a 0600 file in the data folder, made once.

    Raises StartupError when others may read it or there is no key in it. Starters that race agree on one: the file is
    linked into place whole.
    """
    path = data_dir / "instance.key"
    if not path.exists():
        staged = data_dir / f".instance.key.{secrets.token_hex(8)}"
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48))
                file.flush()
                os.fsync(file.fileno())
            os.link(staged, path)
        except FileExistsError:
            pass
        finally:
            staged.unlink()
    if path.stat().st_mode & 0o077:
        raise StartupError(f"{path}: others may read the instance key; chmod 600 it")
    key = path.read_text(encoding="ascii", errors="replace").strip()
    if len(key) < _LEAST_LENGTH or not key.isascii():
        raise StartupError(f"{path}: no key in it; restore it, since stored secrets can only be read with it")
    return key
