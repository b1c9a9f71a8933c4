"""Published web applications: below a path of this server for programs, on a host of their own for browsers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web

from gateway_core import Body, Forbidden, Gateway, Kind, Route
from gateway_core.http.links import external_base
from gateway_pipe.link.model import Headers
from gateway_pipe.settings import CALL_SCOPE, PipeSettings
from gateway_pipe.web.answers import SPEAKS_FOR_THE_ORIGIN, harmless
from gateway_pipe.web.appcalls import AppCalls, Asked, Place
from gateway_pipe.web.apphost import host_routes
from gateway_pipe.web.target import target_of

SANDBOX = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"
"""Pages of an application have no origin here, so that their scripts reach nothing of the gateway's or of others."""

_NOT_SENT = frozenset({"service-worker"})
_OURS = (
    ("Content-Security-Policy", SANDBOX),
    ("X-Content-Type-Options", "nosniff"),
    ("Vary", "Authorization"),  # a shared cache would otherwise serve what the application calls public to anybody
)


def app_routes(gateway: Gateway) -> list[Route]:
    """Routes of published applications; raises ConfigError where ``EXPOSE_HOST`` is no domain."""
    settings = gateway.section(PipeSettings)
    handlers = AppHandlers(gateway)
    access: dict[str, Any] = {"scope": CALL_SCOPE} if settings.call_auth else {"public": True}
    access["in_openapi"] = False  # what an application answers, and to which methods, is not ours to describe
    return [
        Route(method="*", path="/node/{node}/{app}", handler=handlers.enter, name="app_root", **access),
        Route(
            method="*",
            path="/node/{node}/{app}/{path:.*}",
            handler=handlers.call,
            name="app",
            kind=Kind.STREAM,
            body=Body.STREAM,
            **access,
        ),
        *(host_routes(gateway, settings.expose_host) if settings.expose_host else ()),
    ]


class AppHandlers:
    """Applications below a path, which they share with the gateway and with each other."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._calls = AppCalls(gateway)
        self._path = gateway.section(PipeSettings).prefix + "/node/"
        self._slashes = self._path.count("/") + 2

    async def enter(self, request: web.Request) -> web.StreamResponse:
        """Redirect to the application's own root: relative links in its pages need the slash at its end."""
        query = request.rel_url.raw_query_string
        location = quote(request.match_info["app"], safe="") + "/" + (f"?{query}" if query else "")
        return web.Response(status=308, headers={"Location": location})

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Pass any request on to a web application that the node publishes, WebSockets too, and stream its answer.

        For programs: pages are sandboxed, and cookies go neither way, since all of this server is one origin. 404: no
        such node, or it publishes no such application. 502: the application does not run, or the link broke. 503: the
        node is away.
        """
        if request.headers.get("Service-Worker", "").strip().lower() == "script":
            raise Forbidden("no service worker may be registered on an origin that others share")
        place = self._place(request)
        headers = self._calls.headers(request, place, _NOT_SENT)
        return await self._calls.answer(request, Asked(place, headers, _shown))

    def _place(self, request: web.Request) -> Place:
        gateway, node, app = self._gateway, request.match_info["node"], request.match_info["app"]
        base = urlsplit(external_base(request, gateway.public_url, gateway.trusted_proxies))
        return Place(
            node=node,
            app=app,
            rest=target_of(request, self._slashes),
            scheme=base.scheme,
            host=base.netloc,
            prefix=f"{base.path}{self._path}{quote(node, safe='')}/{quote(app, safe='')}",
        )


def _shown(headers: Headers) -> Headers:
    """Without what speaks for the whole origin; the application's own policies stay, and ours narrows them."""
    return (*harmless(headers, SPEAKS_FOR_THE_ORIGIN), *_OURS)
