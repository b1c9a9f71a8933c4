"""What a method gave, as an answer: head, and bytes.

========================  ======  ======  =====================================================================
what happened             code    status  body
========================  ======  ======  =====================================================================
it returned               its     200     its data
no such noun              255     404     empty, text/plain
noun, but not that verb   255     405     the same, with Allow
it raised                 251     502     ``{"exception": {"message", "traceback", "class"}}``
it returned nonsense      251     502     the same
arguments do not fit      251     400     the same, without a traceback: the method was not called
the body is not decoded   251     400     the same
the body is too large     251     413     the same
========================  ======  ======  =====================================================================

The status is for ``X-Pipe-Status: strict``. Data without a type becomes JSON, bytes ``application/octet-stream``; of
``(mimetype, code, data)`` text and bytes are sent as they are, None is nothing, and other data needs a JSON type.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gateway_core.errors import GatewayError, HttpError
from gateway_pipe.handlers.bodies import charset_of, is_json, mimetype_of
from gateway_pipe.handlers.failure import NO_SUCH_METHOD, RAISED
from gateway_pipe.link.model import Head

JSON = "application/json"
BINARY = "application/octet-stream"
_TOLD_CHARS = 32 * 1024
_SMALL = 50_000
_STATUS = {RAISED: 502, NO_SUCH_METHOD: 404}
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\s*;[\x20-\x7e]*)?")
_ENCODER = json.JSONEncoder(allow_nan=False)


class BadResult(GatewayError):
    """What a method returned cannot be sent."""

    type, title = "bad-result", "Result cannot be sent"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with all its bytes."""

    head: Head
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What a method returned, taken apart; ``media_type`` is None where it named none."""

    media_type: str | None
    code: int
    data: Any

    @classmethod
    def of(cls, returned: Any) -> Result:
        """Raises BadResult for a tuple that is not ``(mimetype, code, data)``."""
        if not isinstance(returned, tuple):
            return cls(None, 0, returned)
        if len(returned) != 3:
            raise BadResult(f"a tuple is (mimetype, code, data), not {len(returned)} items")
        media_type, code, data = returned
        if media_type is not None and not (isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type)):
            raise BadResult(f"not a media type: {media_type!r:.200}")
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code < 2**32:
            raise BadResult(f"a return code is a whole number from 0 to 4294967295, not {code!r:.200}")
        return cls(media_type, int(code), data)

    def head(self, media_type: str, size_bytes: int | None = None) -> Head:
        """The answer's, of that type and size."""
        headers = [("Content-Type", media_type)]
        if size_bytes is not None:
            headers.append(("Content-Length", str(size_bytes)))
        return Head(status=_STATUS.get(self.code, 200), code=self.code, headers=tuple(headers))

    def reply(self, *, patient: bool = False) -> Reply:
        """The answer with its data, which is no stream; raises BadResult.

        ``patient`` lets other threads go on meanwhile, which the encoder in C does not; it takes some times as long.
        """
        media_type, body = self._encoded(as_json_patiently if patient else as_json)
        return Reply(self.head(media_type, len(body)), body)

    @property
    def large(self) -> bool:
        """Whether making JSON of the data would hold the event loop up."""
        left = _SMALL
        waiting = [self.data]
        while waiting:
            item = waiting.pop()
            size = len(item) if isinstance(item, dict | list | tuple) else 0
            left -= 1 + size + (len(item) // 64 if isinstance(item, str) else 0)
            if left < 0:
                return True
            if size:
                waiting.extend(item.values() if isinstance(item, dict) else item)
        return False

    def _encoded(self, json_of: Callable[[Any], bytes]) -> tuple[str, bytes]:
        data, media_type = self.data, self.media_type
        if isinstance(data, bytes | bytearray | memoryview):
            return media_type or BINARY, bytes(data)
        if media_type is None:
            return JSON, json_of(data)
        if isinstance(data, str):
            return text_type(media_type, data), as_text(media_type, data)
        if is_json(mimetype_of(media_type)):
            return media_type, json_of(data)
        if data is None:
            return media_type, b""
        raise BadResult(f"{media_type} is sent as text or bytes, not as {type(data).__name__}")


def as_json(data: Any) -> bytes:
    """Raises BadResult for what JSON has no words for, NaN too."""
    with _as_bad_result():
        return _ENCODER.encode(data).encode()


def as_json_patiently(data: Any) -> bytes:
    """The same, for threads; see ``Result.reply``."""
    with _as_bad_result():
        return "".join(_ENCODER.iterencode(data)).encode()


@contextmanager
def _as_bad_result() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as exc:
        raise BadResult(f"no JSON can be made of the result: {exc}") from exc


def as_text(media_type: str, text: str) -> bytes:
    """``text`` in the charset that the type names, UTF-8 without one; raises BadResult."""
    try:
        return text.encode(charset_of(media_type) or "utf-8")
    except (ValueError, LookupError) as exc:
        raise BadResult(f"the text cannot be sent as {media_type}: {exc}") from exc


def text_type(media_type: str, text: str) -> str:
    """The type for ``text``: it says UTF-8 where a reader would take it for something else (RFC 2046 4.1.2)."""
    unsaid = media_type.lower().startswith("text/") and not charset_of(media_type)
    return f"{media_type}; charset=utf-8" if unsaid and not text.isascii() else media_type


def no_such_method(allowed: Sequence[str]) -> Reply:
    """``allowed`` are the verbs that the noun has."""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain"), ("Content-Length", "0"))
    if allowed:
        headers += (("Allow", ", ".join(allowed)),)
    return Reply(Head(status=405 if allowed else 404, code=NO_SUCH_METHOD, headers=headers), b"")


def refused(error: HttpError) -> Reply:
    """The method was not called."""
    return _failure(error, error.status, "")


def raised(error: BaseException) -> Reply:
    """The method, or what was made of its result, raised ``error``."""
    return _failure(error, 502, "".join(traceback.format_exception(error))[-_TOLD_CHARS:])


def _failure(error: BaseException, status: int, trace: str) -> Reply:
    told = {"message": _message(error)[:_TOLD_CHARS], "traceback": trace, "class": type(error).__name__}
    body = _ENCODER.encode({"exception": told}).encode()
    headers = (("Content-Type", JSON), ("Content-Length", str(len(body))))
    return Reply(Head(status=status, code=RAISED, headers=headers), body)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - somebody's exception that cannot even tell what it is about
        return ""
