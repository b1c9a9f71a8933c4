"""Cross-origin use of routes whose URL is the capability (Fetch standard, CORS protocol), never with credentials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aiohttp import web

from gateway_core.errors import Forbidden

ANY_ORIGIN = "*"


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """Which origins (``https://host[:port]``, or ``*`` for any) may use a route, and how.

    ``request_headers`` are what a page may send and ``exposed_headers`` what it may read beyond the safelisted ones;
    ``max_age_s`` is how long a browser remembers the answer to its preflight.
    """

    origins: frozenset[str] = frozenset({ANY_ORIGIN})
    methods: tuple[str, ...] = ("GET", "HEAD", "POST")
    request_headers: tuple[str, ...] = ("Content-Type", "If-Match", "If-None-Match", "If-Range", "Range")
    exposed_headers: tuple[str, ...] = (
        "Accept-Ranges",
        "Content-Disposition",
        "Content-Length",
        "Content-Range",
        "ETag",
        "Retry-After",
    )
    max_age_s: int = 600


def origin_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Whether ``origin``, an Origin field, is one of ``allowed``, which may be in any case; ``*`` is any."""
    return ANY_ORIGIN in allowed or origin in {known.lower().rstrip("/") for known in allowed}


def check_origin(request: web.BaseRequest, allowed: Collection[str] | None) -> None:
    """Refuse pages of other origins: raises Forbidden. None allows any; a request without Origin is from no page."""
    origin = request.headers.get("Origin")
    if allowed is not None and origin is not None and not origin_allowed(origin, allowed):
        raise Forbidden("this origin may not use it")


def is_preflight(request: web.BaseRequest) -> bool:
    """Whether a browser asks for permission first: OPTIONS with Origin and Access-Control-Request-Method."""
    headers = request.headers
    return request.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def cors_headers(request: web.BaseRequest, policy: CorsPolicy) -> dict[str, str]:
    """Headers to add to any answer of the route, also to errors; use ``headers.extend``, since Vary may be there.

    To a preflight they say what may be sent, to other requests what may be read. An origin that is not allowed, and a
    request without one, gets only the Vary that keeps shared caches honest.
    """
    headers: dict[str, str] = {}
    if ANY_ORIGIN not in policy.origins:
        headers["Vary"] = "Origin"
    origin = request.headers.get("Origin")
    if origin is None or not origin_allowed(origin, policy.origins):
        return headers
    headers["Access-Control-Allow-Origin"] = ANY_ORIGIN if ANY_ORIGIN in policy.origins else origin
    if is_preflight(request):
        headers["Access-Control-Allow-Methods"] = ", ".join(policy.methods)
        headers["Access-Control-Allow-Headers"] = ", ".join(policy.request_headers)
        headers["Access-Control-Max-Age"] = str(policy.max_age_s)
    elif policy.exposed_headers:
        headers["Access-Control-Expose-Headers"] = ", ".join(policy.exposed_headers)
    return headers
