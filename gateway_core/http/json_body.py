"""JSON bodies: read strictly, told about plainly."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway_core.errors import Invalid
from gateway_core.http.body import BodyLimits, read_body

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects that is read."""

WHOLE_BODY = "_schema"
"""Field name of what is wrong with the body as a whole."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: web.BaseRequest, limits: BodyLimits | None = None) -> Any:
    """The body's JSON value, whatever its Content-Type says.

    Raises Invalid for the whole body when it is not JSON in UTF-8 (RFC 8259 8.1), has NaN, Infinity or a number beyond
    a double, half a surrogate pair, or more than 64 levels; and whatever ``read_body`` raises.
    """
    return parse_json(await read_body(request, limits))


def parse_json(data: bytes) -> Any:
    """The value in ``data``; raises Invalid as ``read_json`` does. Of equal keys the last one counts."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _unusable(f"Not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from error
    except UnicodeDecodeError as error:
        raise _unusable(f"Not UTF-8: byte {error.start} cannot be decoded.") from error
    except UnicodeEncodeError as error:
        raise _unusable("A string has half a surrogate pair.") from error
    except RecursionError as error:
        raise _unusable(f"More than {MAX_DEPTH} levels.") from error
    except ValueError as error:  # ours, or an integer of more digits than Python reads
        raise _unusable("Not valid JSON: a number is out of range or NaN.") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _unusable(f"More than {MAX_DEPTH} levels.")
    return value


def validate(model: type[Model], data: object, *, location: str = "json") -> Model:
    """``data`` as ``model``; raises Invalid with messages by dotted field name, ``_schema`` for the whole."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise Invalid(field_errors(error), location=location) from error


def field_errors(error: ValidationError) -> dict[str, list[str]]:
    """Messages by dotted field name (``items.3.url``); none repeats the value, which may be a secret."""
    fields: dict[str, list[str]] = {}
    for found in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in found["loc"]) or WHOLE_BODY
        cause = found.get("ctx", {}).get("error")
        message = str(cause) if isinstance(cause, ValueError | AssertionError) else found["msg"]
        fields.setdefault(name, []).append(message)
    return fields


def _unusable(message: str) -> Invalid:
    return Invalid({WHOLE_BODY: [message]})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(literal)
    return number


def _deeper_than(value: object, limit: int) -> bool:
    """Whether arrays and objects nest deeper than ``limit``, level by level, without recursion."""
    level = [value]
    for _ in range(limit):
        children = (list(parent.values()) if isinstance(parent, dict) else parent for parent in level)
        level = [child for group in children if isinstance(group, list) for child in group]
        level = [child for child in level if isinstance(child, dict | list)]
    return bool(level)
