"""Content-Disposition: file names into and out of a header (RFC 6266, RFC 8187), never a header out of a name."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

MAX_NAME_BYTES = 255
"""Longest file name told, in bytes of UTF-8: what file systems take."""

_ATTR_CHAR = "!#$&+-.^_`|~"
"""Besides letters and digits, what stands for itself in filename* (RFC 8187 3.2.1)."""

_SEPARATORS = "/\\"
_BIDI_CONTROLS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

_TYPE = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*")
_PARAMETER = re.compile(
    r""";[ \t]*(?:(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*
    (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^;"]*))[ \t]*)?""",
    re.VERBOSE | re.DOTALL,
)
_CHARSETS = {"utf-8": "utf-8", "iso-8859-1": "latin-1"}


@dataclass(frozen=True, slots=True)
class Disposition:
    """What a Content-Disposition says: ``kind`` in lower case, ``filename`` as ``safe_filename`` leaves it, or None."""

    kind: str
    filename: str | None


def safe_filename(name: str) -> str:
    """``name`` as one file name: separators, controls, lone surrogates and bidirectional controls become ``_``.

    At most 255 bytes of UTF-8 (the suffix is kept); ``download`` where nothing is left. Applying it twice changes
    nothing.
    """
    cleaned = "".join("_" if _is_unsafe(char) else char for char in name).strip()
    cleaned = _shorten(cleaned).strip()
    return "download" if cleaned in {"", ".", ".."} else cleaned


def content_disposition(filename: str, *, kind: Literal["attachment", "inline"] = "attachment") -> str:
    """Field value that makes a browser save under ``safe_filename(filename)``.

    Always an ASCII ``filename`` without quotes, backslashes or percent signs to misread (RFC 6266 appendix D), and
    ``filename*`` in UTF-8 where that is not the whole truth.
    """
    name = safe_filename(filename)
    fallback = _ascii_fallback(name)
    value = f'{kind}; filename="{fallback}"'
    return value if fallback == name else f"{value}; filename*=UTF-8''{quote(name, safe=_ATTR_CHAR)}"


def parse_disposition(value: str) -> Disposition | None:
    """Read a Content-Disposition field as leniently as browsers do; None when it has no disposition type.

    ``filename*`` wins over ``filename`` (RFC 6266 4.3) unless it is damaged; only the last path segment counts.
    """
    head = _TYPE.match(value)
    if head is None:
        return None
    plain: str | None = None
    extended: str | None = None
    for match in _PARAMETER.finditer(value, head.end()):
        name, text = (match["name"] or "").lower(), _unquoted(match)
        if name == "filename" and plain is None:
            plain = _legacy_text(text)
        elif name == "filename*" and extended is None:
            extended = _extended_value(text)
    filename = extended or plain
    if filename:
        filename = safe_filename(re.split(r"[/\\]", filename.rstrip(_SEPARATORS))[-1])
    return Disposition(head[1].lower(), filename or None)


def _is_unsafe(char: str) -> bool:
    return char in _SEPARATORS or char in _BIDI_CONTROLS or unicodedata.category(char) in _UNSAFE_CATEGORIES


def _shorten(name: str) -> str:
    """Cut the stem until the whole fits; a suffix longer than 32 bytes is none."""
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix
    if len(suffix.encode()) > 32:
        suffix = ""
    stem = name.removesuffix(suffix).encode()[: MAX_NAME_BYTES - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix


def _ascii_fallback(name: str) -> str:
    """The nearest ASCII name: accents are dropped, what is left over or could be misread becomes ``_``."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    return "".join(char if " " <= char <= "~" and char not in '"\\%/' else "_" for char in plain)


def _unquoted(match: re.Match[str]) -> str:
    if match["quoted"] is not None:
        return re.sub(r"\\(.)", r"\1", match["quoted"], flags=re.DOTALL)
    return (match["bare"] or "").strip(" \t")


def _legacy_text(text: str) -> str:
    """What the sender meant: header bytes that are no UTF-8 arrive as surrogates and were Latin-1 (RFC 9110 5.5)."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _extended_value(text: str) -> str | None:
    """Decode ``charset'language'percent-encoded`` (RFC 8187 3.2), None when it is damaged."""
    charset, _, rest = text.partition("'")
    encoded = rest.partition("'")[2]
    codec = _CHARSETS.get(charset.lower())
    if codec is None or not encoded or not encoded.isascii():
        return None
    try:
        return unquote_to_bytes(encoded).decode(codec)
    except UnicodeDecodeError:
        return None
