"""Which web applications a node publishes, where they are, and which address a caller's target is there."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

from yarl import URL

from gateway_core.errors import BadRequest, ConfigError

_NAME = re.compile(r"(?!.*--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VISIBLE = string.digits + string.ascii_letters + string.punctuation
_MOST_ENCODINGS = 4


@dataclass(frozen=True, slots=True)
class Exposed:
    """One application: its ``name`` on the server, and its base URL here, without a slash at its end."""

    name: str
    base: URL

    @property
    def base_path(self) -> str:
        """The raw path below which the application is, ``/grafana``; empty for the whole host."""
        return self.base.raw_path.rstrip("/")

    def url(self, target: str) -> URL:
        """The address of ``target`` (raw path and query after the application's name, without a leading slash).

        Only path and query are the caller's; bytes that no URL may hold are percent-encoded, all others stay as they
        are. Raises BadRequest for a path that could leave the base's.
        """
        path, mark, query = target.partition("?")
        if self.base_path and any(map(_climbs, _segments(path))):
            raise BadRequest("the path leaves the application's")
        rest = quote(f"{path}{mark}{query}", safe=_VISIBLE, errors="surrogateescape").replace("#", "%23")
        return URL(f"{self.base.origin()}{self.base_path}/{rest}", encoded=True)

    def outside(self, location: str) -> str:
        """What the application says of an address of its own, as seen from its root: ``/x`` for its ``/base/x``.

        Addresses elsewhere stay as they are.
        """
        try:
            url = URL(location, encoded=True)
            here = (url.scheme or self.base.scheme, url.host, url.port or self.base.port)
        except ValueError:
            return location
        if url.raw_host is None:
            return self.outside_path(location) if location.startswith("/") else location
        if here != (self.base.scheme, self.base.host, self.base.port):
            return location
        path = self.outside_path(url.raw_path_qs + (f"#{url.raw_fragment}" if url.raw_fragment else ""))
        return f"/.{path}" if path.startswith("//") else path  # two slashes would begin a host

    def outside_path(self, path: str) -> str:
        """The same for a path alone, such as a cookie's."""
        rest = path.removeprefix(self.base_path)
        if not self.base_path or not path.startswith(self.base_path) or rest[:1] not in {"", "/", "?", "#"}:
            return path
        return rest if rest.startswith("/") else f"/{rest}"


def parse_expose(text: str) -> Exposed:
    """What ``NAME=URL`` publishes; raises ConfigError that says what is wrong with it."""
    name, separator, address = text.partition("=")
    if not separator:
        raise ConfigError(f"--expose {text}: expected NAME=URL, such as grafana=http://127.0.0.1:3000")
    return exposed(name.strip(), address.strip())


def exposed(name: str, address: str) -> Exposed:
    """The application at ``address``; raises ConfigError for a name or URL that cannot be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--expose {name}: a name has up to 63 small letters, digits and single hyphens, as in a host name"
        )
    try:
        url = URL(address)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"--expose {name}: {address!r} is not a URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.raw_host or not port:
        raise ConfigError(f"--expose {name}: expected http://HOST:PORT or https://HOST:PORT, not {address!r}")
    if url.raw_user is not None or url.raw_password is not None:
        raise ConfigError(f"--expose {name}: a URL with a user or a password cannot be published")
    if url.raw_query_string or url.raw_fragment:
        raise ConfigError(f"--expose {name}: a URL with a query or a fragment cannot be published")
    return Exposed(name, url)


def _segments(path: str) -> Iterator[str]:
    """The path's parts in every reading that an application may give it: decoded once, twice, and so on."""
    for _ in range(_MOST_ENCODINGS):
        yield from re.split(r"[/\\]", path)
        decoded = unquote(path, errors="surrogateescape")
        if decoded == path:
            return
        path = decoded
    yield ".."  # whoever hides something that deep means no good


def _climbs(segment: str) -> bool:
    """Whether ``segment`` is a step up; some servers cut parameters off first (``..;x``)."""
    return segment.partition(";")[0].strip() == ".."
