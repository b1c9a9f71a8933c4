"""Which job a request is about, and whose."""

from __future__ import annotations

import re

from aiohttp import web

from gateway_core import Client, Gateway, NotFound, client_of
from gateway_transform.settings import TransformSettings

SCOPE = "transform:run"

_ID = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def asked_job(request: web.Request) -> str:
    """The id in the path, as the database has it; dashes may stand where a UUID has them. Raises NotFound."""
    text = request.match_info["id"]
    if not _ID.fullmatch(text):
        raise NotFound
    return text.replace("-", "").lower()


def owner_of(request: web.Request, gateway: Gateway) -> Client:
    """Whose jobs the request may see: without ``USE_AUTH`` all are nobody's, whatever credential comes along."""
    return client_of(request) if gateway.section(TransformSettings).use_auth else Client.ANONYMOUS
