"""Which file or folder a request names."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway_blocks.files.paths import UrlPath, parse_path
from gateway_blocks.files.root import OpenFile, OpenFolder, Root
from gateway_blocks.sums.service import Service
from gateway_core import NotFound, client_of
from gateway_core.http.links import client_address

RD = "/rd"


def below(request: web.Request, base: str) -> UrlPath:
    """The path of ``request`` below ``base``, still checked: one decoding, no way out. Raises NotFound, UriTooLong."""
    raw = request.rel_url.raw_path
    if not raw.startswith(f"{base}/"):
        raise NotFound
    return parse_path(raw[len(base) + 1 :])


async def opened(root: Root, names: tuple[str, ...]) -> OpenFile | OpenFolder:
    """Open without leaving the loop where nothing has to be read from the disk for it; raises as ``Root.open``."""
    found = root.open_cached(names)
    return found if found is not None else await asyncio.to_thread(root.open, names)


async def opened_file(root: Root, url: UrlPath) -> OpenFile:
    """The file of ``url``; raises NotFound for a folder."""
    found = await opened(root, url.names)
    if isinstance(found, OpenFile) and not url.folder:
        return found
    found.close()
    raise NotFound


def asker(request: web.Request, service: Service) -> str:
    """Whose share of the hashing a request counts against: the client's, or the address's where nobody is known."""
    client = client_of(request)
    return client.id or client_address(request, service.gateway.trusted_proxies)
