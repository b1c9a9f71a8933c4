"""Routes: what a plugin answers, declared once, for aiohttp and for OpenAPI alike."""

from __future__ import annotations

from gateway_core.routing.route import Body, ErrorRenderer, Handler, Kind, Listener, Route

__all__ = ["Body", "ErrorRenderer", "Handler", "Kind", "Listener", "Route"]
