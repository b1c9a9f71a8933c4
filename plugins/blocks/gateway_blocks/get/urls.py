"""URLs of files: one spelling of scheme and host, the percent-encoding exactly as given."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urlsplit, urlunsplit

from gateway_blocks.get.model import Unreachable
from gateway_core.errors import ConfigError

DEFAULT_PORTS = {"http": 80, "https": 443}
_FALLBACK_NAME = "download"
_NAME_BYTES = 240
_LONGEST_NAME_BYTES = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST = re.compile(r"(?=.{1,254}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 3986 3.3 and 3.4, with the brackets that many leave as they are
_PATH_SAFE = "%/:@!$&'()*+,;=~[]"
_QUERY_SAFE = _PATH_SAFE + "?"
_NAME_SAFE = "@!$&'()*+,;=~"


def parse_url(text: str) -> str:
    """The URL as it is asked for: http or https, no fragment, user and password kept.

    Scheme and host in lower case (IDNA), default port left out, ``.`` and ``..`` resolved, characters that no URL may
    hold percent-encoded, what is percent-encoded untouched. Raises ConfigError that names the URL.
    """
    try:
        return _normalised(text.strip())
    except ValueError as error:
        reason = "" if isinstance(error, UnicodeError) else f": {error}"
        raise ConfigError(f"not a URL that can be fetched: {_without_user(text)!r}{reason}") from error


def origin(url: str) -> str:
    """``https://host`` or ``http://host:8080`` (RFC 6454); ``url`` as ``parse_url`` returns it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{host_and_port(parts)}"


def host_and_port(parts: SplitResult) -> str:
    """What goes into Host: the authority without user and password."""
    return parts.netloc.rpartition("@")[2]


def shown(url: str) -> str:
    """The URL for people and logs: without user, password and query, which may hold secrets."""
    return origin(url) + urlsplit(url).path


def basic_authorization(url: str) -> str | None:
    """``Basic ...`` made of the URL's user and password (RFC 7617), or None."""
    user, found, _ = urlsplit(url).netloc.rpartition("@")
    if not found:
        return None
    name, _, password = user.partition(":")
    return "Basic " + b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode()


def metadata_url(url: str, **query: float) -> str:
    """Where the block map of the file is: ``/rd`` before its path; its own query is kept, ``query`` added."""
    parts = urlsplit(url)
    added = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in query.items()]
    fields = [parts.query, *added] if parts.query else added
    return urlunsplit(parts._replace(path=f"/rd{parts.path}", query="&".join(fields)))


def file_name(url: str) -> str:
    """Name for a local file: the last segment decoded, at most 240 bytes of UTF-8 so that suffixes fit.

    Slashes, NUL and control characters become ``_``, bytes that are not UTF-8 U+FFFD; nothing, ``.`` and ``..`` become
    ``download``.
    """
    name = unquote(urlsplit(url).path.rpartition("/")[2], errors="replace")
    name = _CONTROL.sub("_", name.replace("/", "_"))
    if name in {"", ".", ".."}:
        return _FALLBACK_NAME
    if len(name.encode()) <= _NAME_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    kept = f"{dot}{suffix}" if stem and len(suffix.encode()) <= 16 else ""
    return name.encode()[: _NAME_BYTES - len(kept.encode())].decode(errors="ignore") + kept


def relative_parts(relative: str) -> tuple[str, ...]:
    """The names in a path that a folder manifest tells, safe to join below a local folder.

    Raises Unreachable for a path that would leave the folder, or that no file can have: absolute, ``.``, ``..``, empty
    segments, NUL, a name over 255 bytes.
    """
    names = tuple(relative.split("/"))
    for name in names:
        if name in {"", ".", ".."} or "\0" in name or len(name.encode(errors="replace")) > _LONGEST_NAME_BYTES:
            raise Unreachable(f"the server's list of files has a path that is none: {relative[:300]!r}")
    return names


def join(folder_url: str, relative: str) -> str:
    """URL of a file of the folder's manifest, ``relative`` being its decoded path; the folder's query is kept.

    Raises Unreachable as ``relative_parts`` does.
    """
    parts = urlsplit(folder_url)
    names = [quote(name, safe=_NAME_SAFE, errors="replace") for name in relative_parts(relative)]
    return urlunsplit(parts._replace(path="/".join([parts.path.rstrip("/"), *names])))


def _normalised(text: str) -> str:
    """Raises ValueError, UnicodeError among them."""
    if _CONTROL.search(text):
        raise ValueError("it has control characters")
    parts = urlsplit(text)
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("it must begin with http:// or https://")
    path = "/".join(_resolved(_escaped(parts.path, _PATH_SAFE).split("/")))
    query = _escaped(parts.query, _QUERY_SAFE)
    return urlunsplit((parts.scheme, _authority(parts), path or "/", query, ""))


def _authority(parts: SplitResult) -> str:
    user, at, _ = parts.netloc.rpartition("@")
    host = _host(parts.hostname or "")
    port = parts.port
    if port == 0:
        raise ValueError("it has no such port")
    ending = "" if port is None or port == DEFAULT_PORTS[parts.scheme] else f":{port}"
    return f"{_escaped(user, _PATH_SAFE)}{at}{host}{ending}"


def _host(host: str) -> str:
    if ":" in host:
        if "%" in host:
            raise ValueError("addresses with a zone are not for URLs")
        return f"[{ipaddress.IPv6Address(host)}]"
    ascii_host = host.encode("idna").decode("ascii").lower()
    if not _HOST.fullmatch(ascii_host):
        raise ValueError("it has no host" if not host else "its host is none")
    return ascii_host


def _escaped(text: str, safe: str) -> str:
    whole = _STRAY_PERCENT.sub("%25", text)
    return quote(whole.encode("utf-8", "surrogateescape"), safe=safe)


def _resolved(segments: list[str]) -> list[str]:
    """Without ``.`` and ``..`` (RFC 3986 5.2.4); the first segment is the nothing before the first slash."""
    found: list[str] = []
    for segment in segments:
        if segment == "..":
            del found[max(1, len(found) - 1) :]
        elif segment != ".":
            found.append(segment)
    return [*found, ""] if segments[-1] in {".", ".."} else found


def _without_user(text: str) -> str:
    """What can be shown of a text that may be no URL at all: nothing before an ``@``."""
    return re.sub(r"//[^/?#]*@", "//", text)
