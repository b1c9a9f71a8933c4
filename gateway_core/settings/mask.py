"""Showing values without what must stay secret in them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_SECRET_PARAMETER = re.compile(r"((?:password|secret|token|key)[^=&]*)=[^&]*", re.IGNORECASE)


def mask_url(url: str) -> str:
    """``url`` with its password, and query parameters that are named like secrets, as ``***``."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    netloc = f"{user}{colon}{'***' if colon else ''}{at}{host}"
    query = _SECRET_PARAMETER.sub(r"\1=***", parts.query)
    masked: str = urlunsplit(parts._replace(netloc=netloc, query=query))
    return masked
