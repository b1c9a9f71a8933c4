"""Checksums in header fields: RFC 9530, and RFC 3230 before it, which is the one that aria2 and wget2 read.

Only SHA-256: SHA-1 is not to be used there any more (RFC 9530 5).
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final

from multidict import MultiMapping

_KEY = r"[a-z*][a-z0-9_.*-]*"
_PREFERENCE: Final = re.compile(rf"({_KEY})=([0-9]+)(?:; *{_KEY}(?:=[^;\"]*)?)*")  # of an Integer, RFC 8941 3.2, 3.3.1
_WEIGHT: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?")


def repr_digest(sha256: bytes) -> dict[str, str]:
    """Fields that tell the SHA-256 of the whole file, with every range of it too (RFC 9530 3, RFC 3230 4.3.2)."""
    encoded = b64encode(sha256).decode()
    return {"Repr-Digest": f"sha-256=:{encoded}:", "Digest": f"SHA-256={encoded}"}


def content_digest(sha256: bytes) -> dict[str, str]:
    """The field that tells the SHA-256 of just the bytes of this answer (RFC 9530 2)."""
    return {"Content-Digest": f"sha-256=:{b64encode(sha256).decode()}:"}


def wants_digest(headers: MultiMapping[str]) -> bool:
    """Whether a request asks for what ``repr_digest`` tells: Want-Repr-Digest (RFC 9530 4), or Want-Digest before."""
    return _prefers(headers, "Want-Repr-Digest") or _weighs(headers)


def wants_content_digest(headers: MultiMapping[str]) -> bool:
    """Whether a request asks for what ``content_digest`` tells (RFC 9530 4)."""
    return _prefers(headers, "Want-Content-Digest")


def _prefers(headers: MultiMapping[str], name: str) -> bool:
    """Whether the field is a dictionary of preferences from 0, unwanted, to 10, in which SHA-256 is wanted.

    The last of equal keys counts; a field with anything else in it is ignored as a whole (RFC 8941 4.2), which is
    always allowed, since it is only a hint.
    """
    preferences: dict[str, int] = {}
    for member in ",".join(headers.getall(name, [])).split(","):
        match = _PREFERENCE.fullmatch(member.strip(" \t"))
        if match is None or len(match[2]) > 15:
            return False
        preferences[match[1]] = int(match[2])
    return 1 <= preferences.get("sha-256", 0) <= 10


def _weighs(headers: MultiMapping[str]) -> bool:
    """Whether Want-Digest lists SHA-256 with a quality that is not 0 (RFC 3230 4.3.1)."""
    for element in ",".join(headers.getall("Want-Digest", [])).split(","):
        match = _WEIGHT.fullmatch(element.strip(" \t"))
        if match and match[1].lower() == "sha-256":
            return float(match[2] or 1) > 0
    return False
