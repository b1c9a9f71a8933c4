"""Errors in FPX's shape: ``{"errors": {...}}``."""

from __future__ import annotations

from aiohttp import web

from gateway_core import GatewayError, Invalid, UpstreamFailed

_FIELD = {401: "access", 403: "access", 404: "id"}


def fpx_errors(_request: web.Request, error: GatewayError) -> web.Response:
    """Validation errors by location and field, all others by the field that FPX clients know."""
    detail = error.detail or error.title
    if isinstance(error, Invalid):
        errors: object = {error.location: error.errors}
    elif isinstance(error, UpstreamFailed) and error.reasons:
        errors = {"items": error.reasons, "detail": detail}
    else:
        errors = {_FIELD.get(error.status, "detail"): detail}
    return web.json_response({"errors": errors}, status=error.status, headers={"Cache-Control": "no-store"})
