"""nginx sends the file itself: it is told which by X-Accel-Redirect."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web

from gateway_blocks.files.paths import UrlPath
from gateway_blocks.files.root import OpenFile
from gateway_blocks.web.file_response import current_validators, file_headers
from gateway_core.http.conditional import evaluate

INTERNAL = "/_gateway_blocks/"
"""The location that deploy/nginx shows, ``internal`` and with the root as its alias."""

_OURS = (hdrs.IF_MATCH, hdrs.IF_UNMODIFIED_SINCE, hdrs.IF_RANGE)
"""nginx would judge these by a tag of its own."""


def accelerated(
    request: web.Request, file: OpenFile, url: UrlPath, *, headers: Mapping[str, str], media_type: str
) -> web.Response | None:
    """An empty answer that lets nginx send ``file``; None where it has to be sent here.

    nginx opens the file again by its path, outside of the confinement: its location should say
    ``disable_symlinks on``.
    """
    if request.method != hdrs.METH_GET or any(name in request.headers for name in _OURS):
        return None
    current = current_validators(file)
    if evaluate(request.method, request.headers, current).status is not None:
        return None
    shown = file_headers(current, media_type, headers)
    shown["X-Accel-Redirect"] = INTERNAL + url.encoded
    return web.Response(headers=shown)
