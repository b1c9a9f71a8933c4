"""Payloads of frames as JSON: lists and objects with few, checked fields, because the other end may be anybody."""

from __future__ import annotations

import json
import re
from typing import Any, TypeGuard

from gateway_core.errors import BadRequest
from gateway_pipe.link.model import (
    NODE_NAME,
    PROTOCOL,
    Farewell,
    Goodbye,
    Head,
    Headers,
    Hello,
    Kind,
    Opening,
    ProtocolViolation,
    Reset,
)

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_TARGET = re.compile(r"[^\x00-\x20\x7f]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00\r\n]*")
_KEY = re.compile(r"[\x20-\x7e]{0,255}")
_RESETS, _GOODBYES = set(map(int, Reset)), set(map(int, Goodbye))
_KINDS = {kind.value: kind for kind in Kind}
MAX_METADATA_BYTES = 64 * 1024
"""Of one frame: address and headers of a request, or headers of an answer."""

_MAX_LIST = 4096
_MAX_HEADERS = 512
"""Of one frame; each takes some ten times its bytes in memory."""

_MIN_WINDOW = 16 * 1024
_MAX_WINDOW = 16 * 1024 * 1024


def open_payload(opening: Opening, timeout_ms: int | None) -> bytes:
    """An OPEN frame's payload; raises BadRequest for what the other end would take for a violation."""
    if not (_METHOD.fullmatch(opening.method) and _TARGET.fullmatch(opening.target)):
        raise BadRequest("the method or the target cannot be passed on")
    if not _KEY.fullmatch(opening.key):
        raise BadRequest("the idempotency key is longer than 255 characters, or not plain ASCII")
    if not _sendable(opening.headers):
        raise BadRequest("a header cannot be passed on")
    payload = _encode(
        [
            opening.kind,
            opening.method,
            opening.target,
            opening.headers,
            opening.node,
            opening.call,
            opening.key,
            timeout_ms,
        ]
    ).encode()
    if len(payload) > MAX_METADATA_BYTES:
        raise BadRequest(f"{len(payload)} bytes of address and headers; {MAX_METADATA_BYTES} fit")
    return payload


def parse_open(payload: bytes) -> Opening:
    """Raises ProtocolViolation."""
    match _load(payload):
        case [str(kind), str(method), str(target), list(headers), str(node), str(call), str(key), timeout_ms] if (
            kind in _KINDS
            and _METHOD.fullmatch(method)
            and _TARGET.fullmatch(target)
            and (not node or NODE_NAME.fullmatch(node))
            and _KEY.fullmatch(call)
            and _KEY.fullmatch(key)
            and (timeout_ms is None or _count(timeout_ms))
        ):
            return Opening(
                kind=_KINDS[kind],
                method=method,
                target=target,
                headers=_headers(headers),
                node=node,
                call=call,
                key=key,
                timeout_ms=timeout_ms,
            )
    raise ProtocolViolation("not an OPEN frame")


def head_payload(head: Head) -> bytes:
    """A HEAD frame's payload; raises ValueError for what the other end would take for a violation."""
    if not _sendable(head.headers):
        raise ValueError("a header of the answer cannot be passed on")
    return _payload([head.status, head.code, head.headers])


def parse_head(payload: bytes) -> Head:
    """Raises ProtocolViolation."""
    match _load(payload):
        case [int(status), int(code), list(headers)] if 100 <= status <= 599 and _count(code):
            return Head(status=status, code=code, headers=_headers(headers))
    raise ProtocolViolation("not a HEAD frame")


def reset_payload(code: Reset, reason: str, retry_after_s: float | None) -> bytes:
    """A RESET frame's payload."""
    return _payload([code, reason[:500], retry_after_s])


def parse_reset(payload: bytes) -> tuple[Reset, str, float | None]:
    """Raises ProtocolViolation."""
    match _load(payload):
        case [int(code), str(reason), retry_after_s] if code in _RESETS and _pause(retry_after_s):
            return Reset(code), _printable(reason), retry_after_s
    raise ProtocolViolation("not a RESET frame")


def farewell_payload(farewell: Farewell) -> bytes:
    """A GOAWAY frame's payload; ``farewell.code`` is not None."""
    return _payload([farewell.code, farewell.reason[:500], farewell.retry_after_s])


def parse_farewell(payload: bytes) -> Farewell:
    """Raises ProtocolViolation."""
    match _load(payload):
        case [int(code), str(reason), retry_after_s] if code in _GOODBYES and _pause(retry_after_s):
            return Farewell(Goodbye(code), _printable(reason), retry_after_s)
    raise ProtocolViolation("not a GOAWAY frame")


def hello_payload(hello: Hello) -> bytes:
    """Payload of a HELLO or WELCOME frame. Unknown fields are passed over by the other end, so that it can grow."""
    fields = {name: getattr(hello, name) for name in Hello.__dataclass_fields__}
    return _payload({"protocol": PROTOCOL, **fields})


def parse_hello(payload: bytes) -> Hello:
    """Raises ProtocolViolation, also for another version of the protocol."""
    fields = _load(payload)
    if not isinstance(fields, dict) or fields.get("protocol") != PROTOCOL:
        raise ProtocolViolation("not a HELLO of this version of the protocol")
    name, instance = fields.get("name"), fields.get("instance")
    if not (isinstance(name, str) and NODE_NAME.fullmatch(name)):
        raise ProtocolViolation("HELLO: name is not a node's name")
    if not (isinstance(instance, str) and 0 < len(instance) <= 128 and instance.isprintable()):
        raise ProtocolViolation("HELLO: instance is missing")
    window, streams = fields.get("window"), fields.get("streams")
    if not (_count(window) and _MIN_WINDOW <= window <= _MAX_WINDOW and _count(streams) and streams >= 1):
        raise ProtocolViolation("HELLO: window or streams is out of bounds")
    ping_s, epoch = fields.get("ping_s", 0), fields.get("epoch", 0)
    if ping_s is None or not (_pause(ping_s) and _count(epoch)):
        raise ProtocolViolation("HELLO: ping_s or epoch is not a number")
    return Hello(
        name=name,
        instance=instance,
        version=_texts([fields.get("version", "")], "version")[0],
        tags=_texts(fields.get("tags", []), "tags"),
        nouns=_texts(fields.get("nouns", []), "nouns"),
        apps=_texts(fields.get("apps", []), "apps"),
        window=window,
        streams=streams,
        ping_s=float(ping_s),
        epoch=epoch,
    )


def _payload(value: Any) -> bytes:
    payload = _encode(value).encode()
    if len(payload) > MAX_METADATA_BYTES:
        raise ValueError(f"{len(payload)} bytes of headers; {MAX_METADATA_BYTES} fit")
    return payload


def _load(payload: bytes) -> Any:
    if len(payload) > MAX_METADATA_BYTES:
        raise ProtocolViolation(f"{len(payload)} bytes of metadata")
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("metadata is not JSON") from error


def _sendable(headers: Headers) -> bool:
    return len(headers) <= _MAX_HEADERS and all(
        _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value) for name, value in headers
    )


def _headers(pairs: list[Any]) -> Headers:
    if len(pairs) > _MAX_HEADERS:
        raise ProtocolViolation(f"{len(pairs)} headers")
    headers = []
    for pair in pairs:
        match pair:
            case [str(name), str(value)] if _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value):
                headers.append((name, value))
            case _:
                raise ProtocolViolation("not a header")
    return tuple(headers)


def _printable(reason: str) -> str:
    """For logs and answers."""
    return "".join(char if char.isprintable() else "?" for char in reason[:500])


def _texts(values: Any, field: str) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) > _MAX_LIST:
        raise ProtocolViolation(f"HELLO: {field} is not a list")
    if not all(isinstance(value, str) and len(value) <= 256 and value.isprintable() for value in values):
        raise ProtocolViolation(f"HELLO: {field} is not printable text")
    return tuple(values)


def _count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**53


def _pause(value: Any) -> bool:
    return value is None or (type(value) in {int, float} and 0 <= value <= 86400)
