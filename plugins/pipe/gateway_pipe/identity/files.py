"""Small files that are whole or not there, and keys that only their owner may read."""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Put ``text`` at ``path``, durable, the whole of it or nothing; raises OSError."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask says
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give ``context`` a certificate that is in memory; the ssl module only reads files.

    The file is for its owner alone and gone when this returns. Raises OSError, and ssl.SSLError for a key that does
    not belong to the certificate.
    """
    with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".pem") as file:
        file.write(key + certificate)
        file.flush()
        context.load_cert_chain(file.name)
