"""What a node proves itself with, in files; blocking, for threads and command lines."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway_core.errors import ConfigError
from gateway_pipe.identity.contexts import Verify, node_context
from gateway_pipe.identity.files import sync_folder, write_whole
from gateway_pipe.identity.names import node_names
from gateway_pipe.link.model import NODE_NAME

KEY, CERTIFICATE, AUTHORITY, ABOUT = "node.key", "node.crt", "ca.crt", "node.json"
NEXT_KEY = "node.key.new"
"""A key whose certificate is asked for; it becomes the key together with that certificate."""
_RENEWED_AFTER = 2 / 3
_BACKDATED_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A node's certificate and key, and by what it knows its gateway.

    ``folder`` is set for one that enrolled, which can renew its certificate; ``url`` is where it did. ``begins`` and
    ``expires`` are those of the certificate, Unix seconds; ``names`` are those that it allows.
    """

    names: frozenset[str]
    cert: Path
    key: Path
    ca: Path | None
    verify: Verify
    begins: float
    expires: float
    folder: Path | None = None
    url: str = ""

    @property
    def name(self) -> str:
        """The node's name; raises ConfigError where the certificate allows several."""
        if len(self.names) != 1:
            names = ", ".join(sorted(self.names)) or "none"
            raise ConfigError(f"{self.cert}: which name? The certificate has: {names}; give one with --name")
        return next(iter(self.names))

    @property
    def renew_at(self) -> float:
        """When to ask for a new certificate: at two thirds of its life, in Unix seconds."""
        issued = min(self.begins + _BACKDATED_S, self.expires)
        return issued + (self.expires - issued) * _RENEWED_AFTER

    @property
    def expired(self) -> bool:
        """Whether its time is over, by this machine's clock."""
        return time.time() > self.expires

    def context(self) -> ssl.SSLContext:
        """For connections to the gateway; raises ConfigError that names the file that cannot be used."""
        return node_context(verify=self.verify, ca=self.ca, cert=self.cert, key=self.key)


def read_enrolled(folder: Path) -> Material:
    """What ``gateway pipe enroll`` wrote; raises ConfigError that says what is wrong with it.

    A renewal that was cut off between its two files is completed.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        verify, url = Verify(about["verify"]), str(about["url"])
    except FileNotFoundError as exc:
        raise ConfigError(f"{folder}: no node has enrolled here; run `gateway pipe enroll`") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{folder / ABOUT}: cannot be read; enrol again with --force") from exc
    _complete(folder)
    key = folder / KEY
    _must_be_private(key)
    found = read_own(ca=folder / AUTHORITY if verify is Verify.AUTHORITY else None, cert=folder / CERTIFICATE, key=key)
    return replace(found, verify=verify, folder=folder, url=url)


def read_own(*, ca: Path | None, cert: Path, key: Path) -> Material:
    """A certificate of an authority of one's own; raises ConfigError for a file that is none."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(cert.read_bytes())
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except OSError as exc:
        raise ConfigError(f"{cert}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{cert}: no certificate in PEM") from exc
    except x509.ExtensionNotFound as exc:
        raise ConfigError(f"{cert}: names no node: it has no subject alternative name") from exc
    return Material(
        names=node_names(
            sans.get_values_for_type(x509.UniformResourceIdentifier), sans.get_values_for_type(x509.DNSName)
        ),
        cert=cert,
        key=key,
        ca=ca,
        verify=Verify.SYSTEM if ca is None else Verify.NAMES,
        begins=certificate.not_valid_before_utc.timestamp(),
        expires=certificate.not_valid_after_utc.timestamp(),
    )


def make_folder(folder: Path, *, force: bool) -> None:
    """A folder for a new identity, for its owner alone; raises ConfigError where one is, unless ``force``.

    One that has files already keeps its mode: it may be somebody else's, /etc for one.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is None:
            folder.chmod(0o700)
    except OSError as exc:
        raise ConfigError(f"{folder}: cannot be made: {exc.strerror}") from exc
    for name in (ABOUT, CERTIFICATE, KEY):
        if not force and (folder / name).exists():
            raise ConfigError(f"{folder}: a node has enrolled here already; --force replaces it")


def new_request(folder: Path, name: str) -> str:
    """A signing request in PEM for a new key, which is in the folder before anybody signs it; raises ConfigError."""
    from gateway_pipe.identity.signing import key_pem, new_key, signing_request

    key = new_key()
    _write(folder / NEXT_KEY, key_pem(key), mode=0o600)
    return signing_request(key, name)


def install(folder: Path, answer: Mapping[str, Any]) -> None:
    """Use the certificate that was signed for the last ``new_request``; raises ConfigError for any other.

    ``answer`` is the gateway's JSON: ``name``, ``certificate``, ``ca``, ``expires``.
    """
    certificate, name = str(answer.get("certificate", "")), str(answer.get("name", ""))
    try:
        fits = NODE_NAME.fullmatch(name) is not None and _public(folder / NEXT_KEY) == _certified(certificate)
    except (OSError, ValueError) as exc:
        raise ConfigError("the gateway's answer has no certificate") from exc
    if not fits:
        raise ConfigError("the gateway signed another key than the one that was asked for")
    _write(folder / CERTIFICATE, certificate)
    _take_next_key(folder)


def write_about(folder: Path, *, name: str, url: str, verify: Verify, ca: str) -> None:
    """By what the node knows its gateway; written before the certificate is. Raises ConfigError."""
    _write(folder / AUTHORITY, ca)
    _write(folder / ABOUT, json.dumps({"name": name, "url": url, "verify": verify}, indent=2) + "\n")


def sign_with(key: Path, data: bytes) -> bytes:
    """ECDSA over SHA-256 with an enrolled node's key; raises ConfigError for any other key."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    loaded = _private(key)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{key}: no key that `gateway pipe enroll` made")
    return loaded.sign(data, ec.ECDSA(hashes.SHA256()))


def key_fits(cert: Path, key: Path) -> bool:
    """Whether the key belongs to the certificate; raises ConfigError for files that cannot be read."""
    try:
        return _public(key) == _certified(cert.read_text(encoding="ascii"))
    except OSError as exc:
        raise ConfigError(f"{exc.filename}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{cert}, {key}: no certificate and no key in PEM") from exc


def _complete(folder: Path) -> None:
    """The certificate is written first, its key takes the old one's place after that."""
    with contextlib.suppress(OSError, ValueError):
        if (folder / NEXT_KEY).exists():
            wanted = _certified((folder / CERTIFICATE).read_text(encoding="ascii"))
            if _public(folder / NEXT_KEY) == wanted:
                _take_next_key(folder)


def _take_next_key(folder: Path) -> None:
    try:
        (folder / NEXT_KEY).replace(folder / KEY)
        sync_folder(folder)
    except OSError as exc:
        raise ConfigError(f"{folder / KEY}: cannot be written: {exc.strerror}") from exc


def _must_be_private(key: Path) -> None:
    try:
        mode = key.stat().st_mode
    except OSError as exc:
        raise ConfigError(f"{key}: cannot be read: {exc.strerror}") from exc
    if mode & 0o077:
        raise ConfigError(f"{key}: others may read this key; chmod 600 it")


def _write(path: Path, text: str, *, mode: int = 0o644) -> None:
    try:
        write_whole(path, text, mode=mode)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc


def _private(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(path.read_bytes(), None)
    except TypeError as exc:
        raise ConfigError(f"{path}: the key is encrypted") from exc


def _public(path: Path) -> bytes:
    return _spki(_private(path).public_key())


def _certified(certificate: str) -> bytes:
    from cryptography import x509

    return _spki(x509.load_pem_x509_certificate(certificate.encode()).public_key())


def _spki(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded
