"""The core's own routes: health, metrics, the API's description, and the samples of the quickstart."""

from __future__ import annotations

import json
from pathlib import Path

from aiohttp import web

from gateway_core.app.health import Health
from gateway_core.errors import NotFound
from gateway_core.gateway import Gateway
from gateway_core.http.links import external_base
from gateway_core.observe import metrics
from gateway_core.routing import Route
from gateway_core.routing.openapi import build_openapi
from gateway_core.version import __version__

STATIC = Path(__file__).parent / "static"
_VIEWER_CSP = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
_VIEWER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>content-gateway API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}
_SAMPLES = {
    "hello.txt": "Hello from the content gateway.\n",
    "numbers.csv": "n,square\n" + "".join(f"{n},{n * n}\n" for n in range(1, 101)),
    "poem.txt": "A list of links goes in,\none archive comes out;\nwhat is missing is told,\nand nothing in doubt.\n",
}


class WellKnown:
    """Handlers of the core's routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._health = Health(gateway)

    async def healthz(self, _request: web.Request) -> web.Response:
        """Whether the process is alive; looks at nothing else."""
        return web.json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether requests can be served: 200, or 503 with what is wrong, also while draining."""
        answer = await self._health.readiness()
        return web.json_response(answer.body(), status=200 if answer.ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Metrics for Prometheus."""
        return web.Response(body=metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def openapi(self, request: web.Request) -> web.Response:
        """This document."""
        base = external_base(request, self._gateway.public_url, self._gateway.trusted_proxies)
        return web.json_response(build_openapi(self._gateway.registries.routes, version=__version__, server=base))

    async def docs(self, _request: web.Request) -> web.Response:
        """A page to read and try the API."""
        headers = {"Content-Security-Policy": _VIEWER_CSP, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=_VIEWER, content_type="text/html", headers=headers)

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """A file of the API page."""
        media_type = _ASSETS.get(request.match_info["name"])
        if media_type is None:
            raise NotFound
        path = STATIC / "swagger-ui" / request.match_info["name"]
        headers = {"Content-Type": media_type, "Cache-Control": "max-age=3600", "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(path, headers=headers)

    async def sample(self, request: web.Request) -> web.Response:
        """A small file to try things with."""
        text = _SAMPLES.get(request.match_info["name"])
        if text is None:
            raise NotFound(f"samples: {', '.join(sorted(_SAMPLES))}")
        headers = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": json.dumps(f"sample-{len(text)}")}
        return web.Response(text=text, headers=headers)


def core_routes(gateway: Gateway) -> list[Route]:
    """The core's routes."""
    known = WellKnown(gateway)
    guarded = {"public": True} if gateway.settings.metrics_public else {"scope": "core:metrics", "grant": False}
    routes = [
        Route(method="GET", path="/healthz", handler=known.healthz, name="healthz", public=True),
        Route(method="GET", path="/readyz", handler=known.readyz, name="readyz", public=True),
        Route(method="GET", path="/openapi.json", handler=known.openapi, name="openapi", public=True),
        Route(method="GET", path="/docs", handler=known.docs, name="docs", public=True, media_type="text/html"),
        Route(method="GET", path="/docs/{name}", handler=known.asset, name="asset", public=True, in_openapi=False),
        Route(method="GET", path="/metrics", handler=known.metrics, name="metrics", media_type="text/plain", **guarded),
    ]
    if gateway.settings.demo:
        sample = Route(
            method="GET", path="/demo/{name}", handler=known.sample, name="sample", public=True, media_type="text/plain"
        )
        routes.append(sample)
    return routes
