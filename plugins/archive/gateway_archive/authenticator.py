"""The headers of FPX clients: the bare secret in ``X-Fpx-Authorize`` or ``Authorize``."""

from __future__ import annotations

from aiohttp import web

from gateway_core import Gateway, Identity

_HEADERS = ("X-Fpx-Authorize", "Authorize")


class FpxHeaders:
    """Finds a client by those headers; ``Authorization`` is the core's."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def authenticate(self, request: web.Request) -> Identity | None:
        """None without one of the headers, and for a secret nobody has."""
        for name in _HEADERS:
            secret = request.headers.get(name, "").strip()
            client = await self._gateway.clients.by_secret(secret) if secret else None
            if client is not None:
                return Identity(client)
        return None
