"""From any exception to an answer: our tree, aiohttp's, and the unexpected."""

from __future__ import annotations

import json

from aiohttp import hdrs, web

from gateway_core.errors import BadRequest, GatewayError, HttpError, MethodNotAllowed, NotFound, TooLarge
from gateway_core.routing import ErrorRenderer


class UnexpectedError(HttpError):
    """500 for what nobody foresaw; the log has it, the answer does not."""


def problem_response(_request: web.Request, error: GatewayError) -> web.Response:
    """RFC 9457: ``application/problem+json``."""
    text = json.dumps(error.problem(), ensure_ascii=False)
    headers = {**error.headers, hdrs.CONTENT_TYPE: "application/problem+json", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(text=text, status=error.status, headers=headers)


def from_aiohttp(error: web.HTTPException) -> GatewayError:
    """Our error for one that aiohttp raised by itself: unknown path or method, body too large, bad request."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(sorted(error.allowed_methods))
    if error.status == 404:
        return NotFound()
    if error.status == 413:
        return TooLarge(error.text or "")
    return BadRequest(error.reason)


def render(request: web.Request, error: GatewayError, renderer: ErrorRenderer | None) -> web.Response:
    """The route's own shape of ``error``, else problem+json; headers the error carries are always there."""
    response = (renderer or problem_response)(request, error)
    for name, value in error.headers.items():
        response.headers.setdefault(name, value)
    return response
