"""nginx sends the file itself: it is told which by X-Accel-Redirect."""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway_blocks.files.paths import UrlPath
from gateway_core.http.conditional import evaluate
from gateway_core.http.representation import Representation

INTERNAL = "/_gateway_blocks/"
"""The location that deploy/nginx shows, ``internal`` and with the root as its alias."""

_OURS = (hdrs.IF_MATCH, hdrs.IF_UNMODIFIED_SINCE, hdrs.IF_RANGE)
"""nginx would judge these by a tag of its own."""


def accelerated(request: web.Request, file: Representation, url: UrlPath) -> web.Response | None:
    """An empty answer that lets nginx send ``file``; None where it has to be sent here.

    nginx opens the file again by its path, outside of the confinement: its location should say
    ``disable_symlinks on``.
    """
    if request.method != hdrs.METH_GET or any(name in request.headers for name in _OURS):
        return None
    if evaluate(request.method, request.headers, file.validators).status is not None:
        return None
    shown = file.head()
    shown["X-Accel-Redirect"] = INTERNAL + url.encoded
    return web.Response(headers=shown)
