"""Signed links: one URL to stream, in a JSON web token under the client's secret, without a ticket."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway_archive.tickets import is_header_name
from gateway_core import Invalid
from gateway_core.auth.secrets import hmac_key

_NEVER = frozenset(
    {
        "alt-svc",
        "clear-site-data",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-security-policy",
        "content-type",
        "date",
        "keep-alive",
        "location",
        "refresh",
        "server",
        "set-cookie",
        "strict-transport-security",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-content-type-options",
    }
)
"""What frames the answer or speaks for the whole origin; a link may not set it."""


@dataclass(frozen=True, slots=True)
class StreamLink:
    """What a token says: the URL, the content type to send, and headers to add."""

    url: str
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def read_link(token: str, secret: str) -> StreamLink:
    """Verify an HS256 token; raises Invalid for a bad, expired or incomplete one."""
    import jwt  # 0.1 s at start that only these links need

    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            hmac_key(secret),
            algorithms=["HS256"],
            leeway=30,
            options={"verify_aud": False, "verify_iss": False},
        )
    except jwt.PyJWTError as exc:
        raise _bad(str(exc)) from exc
    url, content_type = claims.get("url"), claims.get("content-type")
    if not isinstance(url, str) or not url:
        raise _bad("Must be a mapping with `url` key")
    if content_type is not None and not _plain(content_type):
        raise _bad("content-type is no header value")
    headers = claims.get("response_headers") or {}
    if not isinstance(headers, dict) or not all(is_header_name(k) and _plain(v) for k, v in headers.items()):
        raise _bad("response_headers must map header names to values")
    return StreamLink(url, content_type, {k: v for k, v in headers.items() if k.lower() not in _NEVER})


def link_id(token: str) -> str:
    """What stands for a link in the queue: the same at every try, so that those who come again keep their place."""
    return f"link-{hashlib.sha256(token.encode()).hexdigest()[:31]}"


def _plain(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isascii() and value.isprintable()


def _bad(message: str) -> Invalid:
    return Invalid({"url": [message]}, location="url")
