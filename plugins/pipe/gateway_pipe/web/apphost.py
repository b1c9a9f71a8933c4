"""An application on a host of its own, ``NAME--NODE.<EXPOSE_HOST>``: its own origin, for browsers."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from aiohttp import hdrs, web

from gateway_core import Body, Client, ConfigError, Forbidden, Gateway, Kind, NotFound, Route, Unauthorized, client_of
from gateway_core.http.body import read_body
from gateway_core.http.links import external_base
from gateway_pipe.apps import codec
from gateway_pipe.link.model import NODE_NAME, Headers
from gateway_pipe.settings import PipeSettings
from gateway_pipe.web.access import changes_something, from_own_page
from gateway_pipe.web.appcalls import AppCalls, Asked, Place
from gateway_pipe.web.applogin import (
    Logins,
    for_this_host,
    form,
    local_path,
    may_call,
    without_ours,
)
from gateway_pipe.web.target import target_of

LOGIN = "/.gateway/login"
LOGOUT = "/.gateway/logout"
_MAX_FORM_BYTES = 16 * 1024


def host_routes(gateway: Gateway, domain: str) -> list[Route]:
    """Routes of the hosts below ``domain``, which have no others; raises ConfigError where it is no domain."""
    host = domain.lower().rstrip(".")
    handlers = HostHandlers(gateway, host)
    here: dict[str, Any] = {"host": host, "public": True, "in_openapi": False}
    form_body: dict[str, Any] = {"body": Body.RAW, "max_body_bytes": _MAX_FORM_BYTES}
    stream: dict[str, Any] = {"kind": Kind.STREAM, "body": Body.STREAM}
    try:
        return [
            Route(method="GET", path=LOGIN, handler=handlers.ask, name="app_login", **here),
            Route(method="POST", path=LOGIN, handler=handlers.log_in, name="app_log_in", **form_body, **here),
            Route(method="POST", path=LOGOUT, handler=handlers.log_out, name="app_log_out", **here),
            Route(method="*", path="/{path:.*}", handler=handlers.call, name="app_host", **stream, **here),
        ]
    except ConfigError as error:
        raise ConfigError(f"PIPE__EXPOSE_HOST: {error.detail}") from error


class HostHandlers:
    """Requests to applications' own hosts. Who may use one is asked here, since a browser is told in its own way."""

    def __init__(self, gateway: Gateway, domain: str) -> None:
        self._gateway = gateway
        self._domain = domain
        self._open = not gateway.section(PipeSettings).call_auth
        self._calls = AppCalls(gateway)
        self._logins = Logins(gateway)

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Show the form that asks a browser's user for a client's secret."""
        return form(self._place(request), then=local_path(request.query.get("next", "/")))

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        """Take the form: a secret of a client that may call the node gives a cookie for 12 hours."""
        place = self._place(request)
        if not from_own_page(request, place.host):
            raise Forbidden("only for the form of this host")
        fields = parse_qs((await read_body(request)).decode(errors="replace"))
        secret, then = fields.get("secret", [""])[0].strip(), local_path(fields.get("next", ["/"])[0])
        client = await self._gateway.clients.by_secret(secret)
        if client is None or not may_call(client, place):
            return form(place, then=then, problem="No client with this secret may call this node.")
        response = web.Response(status=303, headers={"Location": then, "Cache-Control": "no-store"})
        self._logins.remember(response, place, client=client, secret=secret)
        return response

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        """Forget who is logged in here."""
        place = self._place(request)
        if not from_own_page(request, place.host):
            raise Forbidden("only for pages of this host")
        response = web.Response(status=303, headers={"Location": LOGIN, "Cache-Control": "no-store"})
        self._logins.forget(response, place)
        return response

    async def call(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on to the application of this host, for a client that may call its node.

        Who has shown nothing and asks for a page is sent to the form.
        """
        place = self._place(request)
        dropped: set[str] = set()
        client = client_of(request)
        if client.anonymous and (by_password := await self._logins.by_password(request)) is not None:
            client = by_password
            dropped.add("authorization")
        if client.anonymous and (by_cookie := await self._logins.by_cookie(request, place)) is not None:
            client = by_cookie
            if _changes_something(request) and not from_own_page(request, place.host):
                raise Forbidden("a page of another host may not do this")
        if not self._open and (refusal := _refusal(request, place, client)) is not None:
            return refusal
        headers = self._calls.headers(request, place, dropped)
        cookies = without_ours("; ".join(request.headers.getall(hdrs.COOKIE, ())))
        if cookies:
            headers = (*headers, ("Cookie", cookies))
        return await self._calls.answer(request, Asked(place, headers, _shown))

    def _place(self, request: web.Request) -> Place:
        """The application that the host names; raises NotFound where it names none."""
        host = request.headers.get(hdrs.HOST, "").lower()
        label = host.partition(":")[0].removesuffix(f".{self._domain}")
        app, _, node = label.partition("--")
        if not app or not NODE_NAME.fullmatch(node):
            raise NotFound(f"hosts here are NAME--NODE.{self._domain}")
        gateway = self._gateway
        base = gateway.public_url or external_base(request, None, gateway.trusted_proxies)
        return Place(node=node, app=app, rest=target_of(request, 1), scheme=urlsplit(base).scheme, host=host)


def _refusal(request: web.Request, place: Place, client: Client) -> web.StreamResponse | None:
    """None for a client that may; raises Unauthorized and Forbidden, or sends a browser to the form."""
    if not client.anonymous:
        if may_call(client, place):
            return None
        raise Forbidden(f"the client lacks scope pipe:call:{place.node}")
    if request.method in {"GET", "HEAD"} and "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        then = quote(local_path(f"/{place.rest}"), safe="/")
        return web.Response(status=303, headers={"Location": f"{LOGIN}?next={then}", "Cache-Control": "no-store"})
    raise Unauthorized("no valid credential; log in, or send the client's secret")


def _changes_something(request: web.Request) -> bool:
    """Whether a page of another host must not have it sent with our cookie."""
    return changes_something(request) or codec.is_websocket(request.method, tuple(request.headers.items()))


def _shown(headers: Headers) -> Headers:
    """The application's headers; its cookies for this host alone, and nothing for shared caches, who ask nobody."""
    pairs = ((name, for_this_host(value) if name.lower() == "set-cookie" else value) for name, value in headers)
    kept = [(name, value) for name, value in pairs if value or name.lower() != "set-cookie"]
    return (*kept, ("Vary", "Authorization, Cookie"))
