"""A route and a listener, as a plugin declares them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import web
from pydantic import BaseModel

from gateway_core.errors import ConfigError, GatewayError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ErrorRenderer = Callable[[web.Request, GatewayError], web.Response]
"""A contract's own shape of an error; it also gets the core's: missing credential, bad body, unknown method."""

ANY = "*"
_METHOD = re.compile(r"[A-Z]+")
_DOMAIN = re.compile(r"(?!.{254})[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")


class Kind(StrEnum):
    """How the answer lives: at once, as a websocket, or as a long stream that drain waits for."""

    HTTP = "http"
    WEBSOCKET = "websocket"
    STREAM = "stream"


class Body(StrEnum):
    """What the request carries: nothing, JSON, bytes read whole, or bytes read as they come (no size limit)."""

    NONE = "none"
    JSON = "json"
    RAW = "raw"
    STREAM = "stream"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way in. Either ``scope`` or ``public=True``; a route with neither stops the start.

    ``method`` is one name, several, or ``*``; ``path`` an aiohttp pattern below the plugin's prefix (``at_root``
    ignores the prefix). With a ``host`` it is for the hosts below that domain, any port, which have no other routes:
    ``apps.example.org`` takes ``http://x.apps.example.org:8000``, and the prefix does not apply.

    ``scope`` may hold path parameters: ``pipe:call:{node}``; with ``grant=False`` a new client does not get it unless
    it is named. ``errors`` renders every error of the route, auth and validation included. ``max_body_bytes`` None
    takes the core's limit; ``cors`` opens the route to the origins of ``CORS_ORIGINS``, and ``origins`` limits a
    websocket (None: any). The models serve OpenAPI.
    """

    method: str | Sequence[str]
    path: str
    handler: Handler
    name: str
    scope: str | None = None
    grant: bool = True
    public: bool = False
    kind: Kind = Kind.HTTP
    body: Body = Body.NONE
    query: type[BaseModel] | None = None
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    media_type: str = "application/json"
    errors: ErrorRenderer | None = None
    max_body_bytes: int | None = None
    cors: bool = False
    origins: tuple[str, ...] | None = None
    at_root: bool = False
    host: str = ""
    in_openapi: bool = True
    methods: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Check what can be checked alone; raises ConfigError that names the route."""
        methods = frozenset([self.method] if isinstance(self.method, str) else self.method)
        object.__setattr__(self, "methods", methods)
        if not methods or not all(m == ANY or _METHOD.fullmatch(m) for m in methods):
            raise ConfigError(f"route {self.name}: not a method: {self.method!r}")
        if not self.path.startswith("/"):
            raise ConfigError(f"route {self.name}: a path begins with /: {self.path!r}")
        if self.host and not _DOMAIN.fullmatch(self.host):
            raise ConfigError(f"route {self.name}: not a domain in small letters: {self.host!r}")
        if self.public == (self.scope is not None):
            raise ConfigError(f"route {self.name} ({self.path}): give either a scope or public=True")
        if self.scope is not None:
            lacking = {m[1] for m in re.finditer(r"\{(\w+)\}", self.scope)} - set(self.parameters)
            if lacking:
                raise ConfigError(f"route {self.name}: scope {self.scope} needs path parameter {sorted(lacking)[0]}")

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters, in order."""
        return [match[1] for match in _PARAMETER.finditer(self.path)]

    @property
    def catch_all(self) -> bool:
        """Whether the path takes any number of segments; such routes are matched last."""
        return any(".*" in (match[2] or "") or ".+" in (match[2] or "") for match in _PARAMETER.finditer(self.path))

    @property
    def plain_path(self) -> str:
        """The path with bare parameters, as OpenAPI writes it: ``/ticket/{id}``."""
        return _PARAMETER.sub(r"{\1}", self.path)

    @property
    def pattern(self) -> str:
        """The path without its parameters' names, which is what it matches: ``/ticket/{}``."""
        return _PARAMETER.sub(r"{\2}", self.path)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A port of a plugin's own: ``bind`` is ``host:port``, ``ssl_context`` makes the context in each process.

    ``routes`` are the port's only ones; auth, limits, logs and metrics are as on the main port.
    """

    name: str
    bind: str
    routes: Sequence[Route]
    ssl_context: Callable[[], ssl.SSLContext] | None = None

    def address(self) -> tuple[str, int]:
        """Host and port; raises ConfigError for another form. ``[::1]:9000`` is an IPv6 address."""
        host, separator, port = self.bind.rpartition(":")
        if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ConfigError(f"listener {self.name}: expected host:port, not {self.bind!r}")
        return host.strip("[]") or "0.0.0.0", int(port)
