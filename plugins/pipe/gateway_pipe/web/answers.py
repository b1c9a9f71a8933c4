"""What a caller gets of a node's answer: headers that cannot speak for this server, and a body as long as it said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from aiohttp import web

from gateway_core import UpstreamFailed
from gateway_core.http.stream import open_response
from gateway_pipe.link.model import Body, Headers

SPEAKS_FOR_THE_ORIGIN = frozenset(
    {"alt-svc", "clear-site-data", "nel", "public-key-pins", "report-to", "reporting-endpoints"}
    | {"service-worker-allowed", "set-cookie", "strict-transport-security", "x-content-type-options"}
)
"""What browsers would apply to all of the host that sent it, in lower case."""

_FOR_PROXIES = ("x-accel-", "x-sendfile", "x-lighttpd-send-", "x-reproxy-")
"""What a reverse proxy before us would obey: a node must not fetch its files."""


def harmless(headers: Headers, drop: Collection[str] = ()) -> Headers:
    """``headers`` without those for reverse proxies, and without ``drop`` (in lower case)."""
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in drop and not name.lower().startswith(_FOR_PROXIES)
    )


async def relay(request: web.Request, response: web.StreamResponse, data: Body, *, stall_s: float) -> None:
    """Send ``response`` with ``data``, as it comes.

    Raises UpstreamFailed where its length is not the one in the head, and what ``data`` raises: the connection is cut.
    """
    async with open_response(request, response, stall_s=stall_s) as writer:
        if writer.bodyless:
            return
        left = response.content_length
        async for chunk in _once(data) if isinstance(data, bytes) else data:
            if left is not None and (left := left - len(chunk)) < 0:
                break
            await writer.write(chunk)
        if left:
            raise UpstreamFailed("the answer is not as long as it said")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
