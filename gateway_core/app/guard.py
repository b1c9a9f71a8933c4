"""Around every handler: CORS, authentication, scope, body limits, and the check of a body that came with a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiohttp import hdrs, web

from gateway_core.app.errors import from_aiohttp, render
from gateway_core.app.proof import proving
from gateway_core.auth.authenticators import IDENTITY
from gateway_core.auth.client import Client, Identity
from gateway_core.errors import GatewayError, MethodNotAllowed, Unauthorized
from gateway_core.gateway import Gateway
from gateway_core.http.body import BODY_LIMITS, BodyLimits
from gateway_core.http.cors import CorsPolicy, check_origin, cors_headers, is_preflight
from gateway_core.http.gone import ClientGone
from gateway_core.routing import Body, Handler, Kind, Route
from gateway_core.routing.route import ANY
from gateway_core.routing.table import Mounted

MOUNTED: web.RequestKey[Mounted] = web.RequestKey("mounted", Mounted)
CORS_HEADERS: web.RequestKey[dict[str, str]] = web.RequestKey("cors_headers", dict)
"""For the head of whatever is answered."""


class Guard:
    """Turns a mounted route into an aiohttp handler of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._cors = CorsPolicy(origins=frozenset(gateway.settings.cors_origins))

    def wrap(self, mounted: Mounted) -> Handler:
        """A handler that never raises what can be answered in the route's own form."""
        route = mounted.route
        limits = self._limits(mounted)

        async def guarded(request: web.Request) -> web.StreamResponse:
            request[MOUNTED] = mounted
            request[BODY_LIMITS] = limits
            request[CORS_HEADERS] = cors_headers(request, self._cors) if route.cors else {}
            try:
                if route.kind is Kind.WEBSOCKET:
                    check_origin(request, route.origins)
                identity = await self._identify(request, mounted)
                request[IDENTITY] = identity
                if identity.body_check is None:
                    return await route.handler(request)
                with proving(request, identity.body_check) as proof:
                    response = await route.handler(request)
                    await proof.demand()
                return response
            except ClientGone:
                raise
            except GatewayError as error:
                return self._answer(request, mounted, error)
            except web.HTTPException as error:
                return self._answer(request, mounted, from_aiohttp(error))

        return guarded

    def preflight(self, mounted: Sequence[Mounted], allowed: Sequence[str]) -> Handler:
        """Answers a browser that asks whether a page may use a path, whose shared routes are ``mounted``."""
        policy = replace(self._cors, methods=tuple(sorted(set().union(*(_spelled_out(m.route) for m in mounted)))))

        async def answer(request: web.Request) -> web.StreamResponse:
            request[MOUNTED] = mounted[0]
            if not is_preflight(request):
                return web.Response(status=204, headers={hdrs.ALLOW: ", ".join(allowed)})
            return web.Response(status=204, headers=cors_headers(request, policy))

        return answer

    def refuse(self, mounted: Mounted, allowed: Sequence[str]) -> Handler:
        """Answers 405 in the form of the path's first route."""

        async def refused(request: web.Request) -> web.StreamResponse:
            request[MOUNTED] = mounted
            request[CORS_HEADERS] = cors_headers(request, self._cors) if mounted.route.cors else {}
            return render(request, MethodNotAllowed(allowed), mounted.route.errors)

        return refused

    def _answer(self, request: web.Request, mounted: Mounted, error: GatewayError) -> web.StreamResponse:
        if request.writer is not None and request.writer.output_size:
            raise error  # the answer has begun: only cutting the connection can tell
        return render(request, error, mounted.route.errors)

    async def _identify(self, request: web.Request, mounted: Mounted) -> Identity:
        route = mounted.route
        if route.scope is not None:
            return await self._gateway.auth.require(request, _filled(route.scope, request.match_info))
        try:
            return await self._gateway.auth.identify(request) or Identity(Client.ANONYMOUS)
        except Unauthorized:
            return Identity(Client.ANONYMOUS)

    def _limits(self, mounted: Mounted) -> BodyLimits:
        route = mounted.route
        if route.body is Body.STREAM:
            return BodyLimits(max_bytes=route.max_body_bytes)
        return BodyLimits(max_bytes=route.max_body_bytes or self._gateway.settings.max_body_bytes)


def _spelled_out(route: Route) -> set[str]:
    """The route's methods, by name also where it takes any."""
    if ANY in route.methods:
        return {hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_POST, hdrs.METH_PUT, hdrs.METH_PATCH, hdrs.METH_DELETE}
    return {*route.methods, hdrs.METH_HEAD} if hdrs.METH_GET in route.methods else {*route.methods}


def _filled(template: str, parameters: Mapping[str, str]) -> str:
    """``pipe:call:{node}`` with the path's values; a colon in a value cannot add a segment."""
    return ":".join(
        parameters[part[1:-1]].replace(":", "%3A") if part.startswith("{") else part for part in template.split(":")
    )
