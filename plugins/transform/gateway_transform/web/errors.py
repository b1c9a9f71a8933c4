"""Errors as clients of Circe know them: two in plain text, the others as everywhere."""

from __future__ import annotations

import json

from aiohttp import hdrs, web

from gateway_core import GatewayError


def circe_errors(_request: web.Request, error: GatewayError) -> web.Response:
    """403 for whatever is wrong with the credential, since Circe's client tests for nothing else; 404 ``Not Found``.

    Both are plain text. All that Circe does not know is RFC 9457's problem+json.
    """
    headers = {hdrs.CACHE_CONTROL: "no-store"}
    if error.status in {401, 403}:
        return web.Response(text=error.detail or error.title, status=403, headers=headers)
    if error.status == 404:
        return web.Response(text="Not Found", status=404, headers=headers)
    headers[hdrs.CONTENT_TYPE] = "application/problem+json"
    return web.Response(body=json.dumps(error.problem()).encode(), status=error.status, headers=headers)
