"""For programs that call: a handler's exception, raised again where it was asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_CODE = "X-Event-Return-Code"
RAISED = 251
"""Return code of a method that raised, or of a call that it could not be given."""
NO_SUCH_METHOD = 255
"""Return code of a call that no method answers."""


@dataclass(eq=False)
class PipeFailError(Exception):
    """A call failed at the other end: its exception's message, traceback and class name, and the code.

    The first three may be empty, where the other end says nothing of them.
    """

    error_message: str
    error_traceback: str
    error_class_name: str
    return_code: int

    def __str__(self) -> str:
        return f"({self.return_code}) [{self.error_class_name}] {self.error_message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error_message, self.error_traceback, self.error_class_name, self.return_code)


def raise_for_exception(response: Any) -> None:
    """Raise PipeFailError when ``response`` tells of a method that raised (251), or of none that answers (255).

    ``response`` has ``headers`` and ``content`` or ``text``, as those of requests and httpx, or is a pair of headers
    and body. Every other code is the handler's own business, and so is an answer without a code.
    """
    headers, body = response if isinstance(response, tuple) else (response.headers, None)
    code = _code(headers)
    if code not in {RAISED, NO_SUCH_METHOD}:
        return
    told = _exception(_content(response) if body is None else body)
    message = str(told.get("message", "")) or ("no such method" if code == NO_SUCH_METHOD else "")
    raise PipeFailError(message, str(told.get("traceback", "")), str(told.get("class", "")), code)


def _code(headers: Any) -> int:
    wanted = _CODE.lower()
    value = next((value for name, value in headers.items() if name.lower() == wanted), "0")
    return int(value) if str(value).isdecimal() else 0


def _content(response: Any) -> Any:
    content = getattr(response, "content", None)
    return content if isinstance(content, bytes) else response.text


def _exception(body: bytes | str) -> dict[str, Any]:
    """What the body tells; empty where it is not of that form."""
    try:
        told = json.loads(body)
        exception = told["exception"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return {}
    return exception if isinstance(exception, dict) else {}
