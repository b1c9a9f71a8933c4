"""Answers of nodes inside of JSON."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NoReturn

from gateway_pipe.handlers.bodies import charset_of, is_json, mimetype_of


def readable(data: bytes, content_type: str, *, name: str) -> dict[str, Any]:
    """``data`` as ``name``, where its type says that it is JSON or text, and it is; else ``<name>_base64``."""
    media_type = mimetype_of(content_type)
    try:
        if is_json(media_type):
            return {name: json.loads(data, parse_constant=_refuse, parse_float=_finite)}
        if media_type.startswith("text/"):
            return {name: data.decode(charset_of(content_type) or "utf-8")}
    except (ValueError, LookupError, RecursionError):  # it is not what it says, or nothing that others could read
        pass
    return {f"{name}_base64": base64.b64encode(data).decode()}


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    """JSON knows no such number (RFC 8259 6)."""
    raise ValueError(text)
