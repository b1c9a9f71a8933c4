"""How HTTP and a link's streams stand for each other, at both ends: headers, statuses, time limits, failures."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from gateway_core.errors import (
    BadRequest,
    DeadlineExceeded,
    Forbidden,
    GatewayError,
    Gone,
    HttpError,
    Unavailable,
    UpstreamFailed,
)
from gateway_pipe.link.model import DeadlinePassed, Head, Headers, LinkLost, Reset, StreamReset

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers about one connection (RFC 9110 7.6.1, RFC 9112 9.6), in lower case."""

OWN_REQUEST_HEADERS = frozenset({"expect", "host", "x-pipe-status", "x-request-timeout"})
"""Headers of a call that this side answers itself or that mean its own address; the other end never sees them."""

RETURN_CODE = "X-Event-Return-Code"
"""Carries a noun's return code, as RestPipe has it."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_TARGET = re.compile(r"[\x21-\x7e\x80-\U0010ffff]*")
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_OWN_ANSWER_HEADERS = frozenset({"date", "server", RETURN_CODE.lower()})


def check_request(method: str, target: str) -> None:
    """Raise BadRequest for a method or target that no stream may have: the other end would drop the link for it."""
    if not _METHOD.fullmatch(method):
        raise BadRequest(f"not a method that can be carried: {method!r}")
    if not _TARGET.fullmatch(target):
        raise BadRequest("the URL has characters that must be percent-encoded")


def strip_headers(pairs: Iterable[tuple[str, str]], extra: Collection[str] = ()) -> Headers:
    """``pairs`` in their order without those about one connection, those it names, and ``extra`` (in lower case).

    Without names and values that HTTP does not allow as well (RFC 9110 5.1, 5.5), which could split a message.
    """
    kept, named = [], set[str]()
    for pair in pairs:
        name = _in_lower_case(pair[0])
        if not name or _CONTROL.search(pair[1]):
            continue
        if name == "connection":
            named.update(option.strip().lower() for option in pair[1].split(","))
        elif name not in HOP_BY_HOP and name not in extra:
            kept.append(pair)
    if named:
        kept = [pair for pair in kept if _in_lower_case(pair[0]) not in named]
    return tuple(kept)


@lru_cache(maxsize=1024)
def _in_lower_case(name: str) -> str:
    """Of a header's name; empty for what is none. The same few come with every call."""
    return name.lower() if _TOKEN.fullmatch(name) else ""


def parse_timeout(text: str) -> float:
    """Seconds of an ``X-Request-Timeout``; raises BadRequest for what is no positive decimal number."""
    seconds = float(text) if _SECONDS.fullmatch(text.strip()) else 0.0
    if seconds <= 0:
        raise BadRequest(f"X-Request-Timeout: expected seconds above 0, not {text!r}")
    return seconds


def is_strict(text: str) -> bool:
    """Whether an ``X-Pipe-Status`` asks for real statuses; empty is RestPipe's 200. Raises BadRequest for others."""
    mode = text.strip().lower()
    if mode not in {"", "lax", "strict"}:
        raise BadRequest(f"X-Pipe-Status: expected lax or strict, not {text!r}")
    return mode == "strict"


def lax_head(head: Head) -> tuple[int, Headers]:
    """Status and headers of a noun's answer as RestPipe has them: 200 whatever it is, its code in a header."""
    return 200, _answer_headers(head)


def strict_head(head: Head) -> tuple[int, Headers]:
    """Status and headers of a noun's answer where the caller asked for real statuses; the code is there too."""
    return head.status if head.status >= 200 else 502, _answer_headers(head)


def _answer_headers(head: Head) -> Headers:
    lengths = [value for name, value in head.headers if name.lower() == "content-length"]
    told = len(lengths) == 1 and _NUMBER.fullmatch(lengths[0]) is not None
    stripped = strip_headers(head.headers, _OWN_ANSWER_HEADERS if told else _OWN_ANSWER_HEADERS | {"content-length"})
    sendable = ((name, value.encode(errors="replace").decode()) for name, value in stripped)  # no surrogate escapes
    return (*sendable, (RETURN_CODE, str(head.code)))


def server_timing(timings_ms: Mapping[str, float]) -> str:
    """The value of ``Server-Timing`` (W3C): milliseconds by name."""
    return ", ".join(f"{name};dur={value:.2f}" for name, value in timings_ms.items())


def http_error(error: GatewayError) -> HttpError:
    """What a caller over HTTP is told where its call got no answer; an HttpError is told as it is."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, DeadlinePassed):
        return DeadlineExceeded("no answer within the time that the caller set")
    if isinstance(error, LinkLost):
        if not error.started:
            return Unavailable("the link broke before the call could be sent", retry_after_s=1)
        return UpstreamFailed("the link broke before the answer came; the call may have been carried out")
    if isinstance(error, StreamReset):
        return _reset(error)
    return UpstreamFailed("the other end broke the call off")


def _reset(error: StreamReset) -> HttpError:
    if error.code is Reset.REFUSED:
        return Unavailable(error.detail, retry_after_s=max(1, round(error.retry_after_s or 1)))
    if error.code is Reset.DEADLINE:
        return DeadlineExceeded("no answer within the time that the caller set")
    if error.code is Reset.FORBIDDEN:
        return Forbidden(error.detail)
    if error.code is Reset.GONE:
        return Gone(error.detail)
    return UpstreamFailed(f"the other end broke the call off: {error.detail}")
