"""Circe's signatures: ``Authorization: <client id> <hex digest>``, HMAC-SHA256 under the client's secret."""

from __future__ import annotations

import hmac
import re

from aiohttp import hdrs, web

from gateway_core import Client, Gateway, Identity, NotFound, Unauthorized
from gateway_transform.settings import TransformSettings

_FORM = re.compile(r"([0-9a-fA-F-]{32,64}) ([0-9a-fA-F]{64})")


class CirceSignature:
    """Signatures over the body for ``/job/``, over the id as it stands in the URL for ``/job/<id>`` and what is below.

    An id's signature holds for ever, as in Circe: who fears that it is seen takes TLS, or tokens, which expire.
    """

    def __init__(self, gateway: Gateway) -> None:
        settings = gateway.section(TransformSettings)
        self._gateway = gateway
        self._base = f"{settings.prefix}/job/"
        self._wanted = settings.use_auth

    async def authenticate(self, request: web.Request) -> Identity | None:
        """None elsewhere and for other forms; raises Unauthorized for an unknown client or a wrong signature.

        A body's signature shows itself right or wrong only at the body's end.
        """
        path = request.rel_url.raw_path
        values = request.headers.getall(hdrs.AUTHORIZATION, ())
        if not self._wanted or not path.startswith(self._base) or len(values) != 1:
            return None
        form = _FORM.fullmatch(values[0])
        client_id = "" if form is None else form[1].replace("-", "").lower()
        if form is None or len(client_id) != 32:
            return None
        client, secret = await self._client(client_id)
        signature = _Signature(secret, form[2])
        signed = path.removeprefix(self._base).partition("/")[0]
        if not signed:
            return Identity(client, signature)
        signature.update(signed.encode(errors="surrogateescape"))
        signature.finish()
        return Identity(client)

    async def _client(self, client_id: str) -> tuple[Client, str]:
        """The client of that id, and its secret; raises Unauthorized."""
        clients = self._gateway.clients
        client = await clients.find(client_id)
        if client is None or client.id != client_id:
            raise Unauthorized("no client has this id")
        try:
            return client, await clients.secret_of(client_id)
        except NotFound as error:
            raise Unauthorized("no client has this id") from error


class _Signature:
    """A BodyCheck: takes what was signed, and compares at its end."""

    def __init__(self, secret: str, digest: str) -> None:
        self._mac = hmac.new(secret.encode(), digestmod="sha256")
        self._digest = digest.lower()

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._mac.update(chunk)

    def finish(self) -> None:
        """Raise Unauthorized for another digest, in the time that any digest takes."""
        if not hmac.compare_digest(self._mac.hexdigest(), self._digest):
            raise Unauthorized("the signature is not right")
