"""What of a request's path is for the node."""

from __future__ import annotations

from aiohttp import web


def target_of(request: web.Request, slashes: int) -> str:
    """What follows so many slashes in the request's path and query, as it was sent: ``cat//a%2Fb?x=1``.

    Slashes are counted rather than names compared, because those may be written with percents.
    """
    path = request.raw_path
    if not path.startswith("/"):  # the absolute form (RFC 9112 3.2.2)
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path.split("/", slashes)[slashes]
