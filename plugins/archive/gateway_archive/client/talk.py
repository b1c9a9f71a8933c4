"""What the gateway's answers mean: a ticket's id, the head of a download, or why there is neither."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse
from pathlib import PurePosixPath
from typing import Any

from gateway_archive.client.line import Request, exchanged
from gateway_archive.client.model import ClientError, Denied, Order, TicketGone, Version, printable
from gateway_archive.client.patience import Again
from gateway_core.cli.remote import Remote
from gateway_core.errors import ConfigError
from gateway_core.http.disposition import parse_disposition

_MOST_TEXT_BYTES = 8 << 20
_NAME_BYTES = 220
_ID = re.compile(r"[0-9a-fA-F-]{32,36}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_LATER = frozenset({408, 425, 429, 502, 503, 504})
_DEFAULT_NAMES = {"application/zip": "collection.zip", "application/x-tar": "collection.tar"}


@dataclass(frozen=True, slots=True)
class Made:
    """A new ticket, and what the server did not understand."""

    ticket: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer with bytes: the first of them is ``start``, ``count`` come (None: to the end).

    ``name`` is safe to be a file's; ``kind`` is the media type without parameters.
    """

    start: int
    count: int | None
    version: Version
    name: str
    kind: str


def make_ticket(remote: Remote, order: Order) -> Made:
    """Ask for a ticket; raises as ``check`` does, OSError and HTTPException."""
    headers = {"Content-Type": "application/json"}
    with exchanged(remote, Request("POST", "/ticket/generate", headers, order.body())) as answer:
        check(answer, fine=(200, 201))
        told = _json(answer)
    ticket = told.get("id") if isinstance(told, dict) else None
    if not isinstance(ticket, str) or not _ID.fullmatch(ticket):
        raise ClientError("the server's answer is no ticket; is that the address of a gateway with the archive plugin?")
    warnings = told.get("warnings")
    return Made(ticket, tuple(map(str, warnings)) if isinstance(warnings, list) else ())


def download_path(ticket: str, order: Order) -> str:
    """Where the ticket's archive is."""
    return f"/ticket/{ticket}/download{'' if order.format == 'zip' else f'?format={order.format}'}"


def read_head(answer: HTTPResponse) -> Head:
    """What a 200 or 206 announces; raises Again for a 206 that does not say which bytes it has (RFC 9110 15.3.7)."""
    etag = (answer.headers.get("ETag") or "").strip()
    strong = etag if etag.startswith('"') and etag.isascii() and etag.isprintable() else None
    kind = answer.headers.get_content_type()
    name = _name(answer, kind)
    if answer.status == 200:
        return Head(0, answer.length, Version(strong, answer.length), name, kind)
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or match[3] == "*" or int(match[2]) < int(match[1]):
        raise Again("the server sent a part of the archive and did not say which")
    start, end, total = (int(number) for number in match.groups())
    return Head(start, end + 1 - start, Version(strong, total), name, kind)


def check(answer: HTTPResponse, *, fine: tuple[int, ...]) -> None:
    """Raise what the status means, unless it is fine: Again where it may pass, ConfigError for a refused order.

    Denied, TicketGone and ClientError are for good.
    """
    status = answer.status
    if status in fine:
        return
    if 300 <= status < 400:
        where = answer.headers.get("Location", "elsewhere")
        raise ClientError(f"the server says {status} and points to {where}; give the gateway's own address")
    text, lines = _reason(answer)
    after_s = _retry_after(answer.headers.get("Retry-After", ""))
    if status == 403 and after_s is not None:
        raise Again(text, after_s, in_turn=True)
    if status in _LATER and not lines:
        raise Again(text, after_s)
    if status in {401, 403}:
        raise Denied(f"{text}; give the secret of a client: GATEWAY_SECRET, --secret or --credentials")
    if status in {404, 410}:
        raise TicketGone(text)
    if status in {400, 413, 422}:
        raise ConfigError(text)
    raise ClientError(text, lines=lines)


def _name(answer: HTTPResponse, kind: str) -> str:
    """File name that the server gives, short enough for what is added to it, and not hidden."""
    told = parse_disposition(answer.headers.get("Content-Disposition", ""))
    name = (told.filename or "" if told else "").lstrip(".")
    suffix = PurePosixPath(name).suffix
    if len(name.encode()) > _NAME_BYTES and len(suffix.encode()) < _NAME_BYTES:
        stem = name.encode()[: _NAME_BYTES - len(suffix.encode())]
        name = stem.decode(errors="ignore") + suffix
    return name or _DEFAULT_NAMES.get(kind, "download")


def _reason(answer: HTTPResponse) -> tuple[str, tuple[str, ...]]:
    """What the server says in one line, and a line for each file that it could not have.

    Errors stand in ``errors`` in FPX's form: messages, or objects and lists of them.
    """
    text = answer.read(_MOST_TEXT_BYTES).decode("utf-8", "replace").strip()
    head = f"the server says {answer.status} {answer.reason}".rstrip()
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        line = text.partition("\n")[0][:300]
        return printable(f"{head}: {line}" if line not in {"", answer.reason} else head), ()
    errors = told.get("errors", told.get("detail")) if isinstance(told, dict) else None
    items = errors.get("items") if isinstance(errors, dict) else None
    lines: tuple[str, ...] = ()
    if isinstance(errors, dict) and isinstance(items, list) and items and all(isinstance(item, dict) for item in items):
        lines = tuple(f"{item.get('name', '')}: {item.get('reason', '')}" for item in items)
        errors = {key: value for key, value in errors.items() if key != "items"}
    words = "; ".join(_messages(errors))
    return printable(f"{head}: {words}" if words else head), lines


def _messages(errors: Any, depth: int = 4) -> list[str]:
    """The texts in what stands under ``errors``, with the field's name where that tells more than the text does."""
    if isinstance(errors, dict) and depth:
        return [
            message if key in {"json", "query", "path", "detail", "access", "id", "_schema"} else f"{key}: {message}"
            for key, value in errors.items()
            for message in _messages(value, depth - 1)
        ]
    if isinstance(errors, list) and depth:
        return [message for value in errors for message in _messages(value, depth - 1)]
    return [] if errors is None else [str(errors)]


def _retry_after(told: str) -> float | None:
    """Seconds, which may be told as a date (RFC 9110 10.2.3)."""
    if told.isascii() and told.isdigit():
        return float(told[:9])
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError, IndexError):
        return None


def _json(answer: HTTPResponse) -> Any:
    text = answer.read(_MOST_TEXT_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
