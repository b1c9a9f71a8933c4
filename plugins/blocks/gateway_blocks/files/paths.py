"""Paths of URLs below the mount, taken apart once and put together again.

A name is the bytes of one path segment, percent-decoded once and read as UTF-8; bytes that are no UTF-8 stay in it as
lone surrogates (PEP 383), whatever the locale says, so that every file of the system can be named in a URL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gateway_core import NotFound
from gateway_core.errors import UriTooLong

MAX_NAME_BYTES: Final = 255
"""NAME_MAX of Linux."""

MAX_PATH_BYTES: Final = 4096
"""PATH_MAX of Linux, decoded."""

_NO_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_NO_NAMES = frozenset({b"", b".", b".."})


def decode_name(octets: bytes) -> str:
    """The name that these bytes of the file system are."""
    return octets.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """The bytes of a name; raises UnicodeEncodeError for surrogates that ``decode_name`` never makes."""
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class UrlPath:
    """What a URL asks for: names from the root down, and whether it asks for a folder (it ends with ``/``)."""

    names: tuple[str, ...]
    folder: bool

    @property
    def encoded(self) -> str:
        """For links: only unreserved characters stay as they are (RFC 3986 2.3); a folder ends with ``/``, the root is
        empty.
        """
        path = "/".join(quote_from_bytes(encode_name(name), safe="") for name in self.names)
        return f"{path}/" if self.folder and path else path

    @property
    def decoded(self) -> str:
        """For people and JSON: names joined by ``/``, U+FFFD for bytes that are no UTF-8, no ``/`` at the end."""
        return "/".join(encode_name(name).decode("utf-8", "replace") for name in self.names)

    def child(self, name: str, *, folder: bool = False) -> UrlPath:
        """The path of an entry of this folder."""
        return UrlPath((*self.names, name), folder)


@lru_cache(maxsize=4096)
def parse_path(raw: str) -> UrlPath:
    """Reads the path below the mount as it came: percent-encoded, without the first ``/``, without a query.

    Raises NotFound where no file can have that path: names that are empty, ``.`` or ``..``, with a NUL or an encoded
    slash, escapes that are none. Raises UriTooLong over ``MAX_NAME_BYTES`` and ``MAX_PATH_BYTES``.
    """
    if _NO_ESCAPE.search(raw):
        raise NotFound
    try:
        segments = encode_name(raw).split(b"/")
    except UnicodeEncodeError as error:
        raise NotFound from error
    folder = not segments[-1]
    if folder:
        del segments[-1]
    octets = [unquote_to_bytes(segment) for segment in segments]
    if any(name in _NO_NAMES or b"/" in name or b"\0" in name for name in octets):
        raise NotFound
    if max(map(len, octets), default=0) > MAX_NAME_BYTES:
        raise UriTooLong(f"a name has more than {MAX_NAME_BYTES} bytes")
    if sum(map(len, octets)) + len(octets) - 1 > MAX_PATH_BYTES:
        raise UriTooLong(f"the path has more than {MAX_PATH_BYTES} bytes")
    return UrlPath(tuple(map(decode_name, octets)), folder)
