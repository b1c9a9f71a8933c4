"""Showing values without what must stay secret in them."""

from __future__ import annotations

import re

_SECRET_PARAMETER = re.compile(r"((?:password|secret|token|key)[^=&]*)=[^&#]*", re.IGNORECASE)


def mask_url(url: str) -> str:
    """``url`` with its password, and query parameters that are named like secrets, as ``***``.

    A password that should have been percent-encoded and was not may hold any character, so it ends at the last ``@``.
    """
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    path, mark, query = place.partition("?")
    masked = _SECRET_PARAMETER.sub(r"\1=***", query)
    return f"{scheme}{separator}{user}{colon}{'***' if colon else ''}{at}{path}{mark}{masked}"
