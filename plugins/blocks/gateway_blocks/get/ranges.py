"""Asking for parts of just one version of a file, and believing nothing that is not exactly what was asked for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from gateway_blocks.get.connection import Answer, Busy, HttpClient
from gateway_blocks.get.model import GetError, NotThere, Unreachable
from gateway_blocks.get.urls import shown

_CONTENT_RANGE = re.compile(
    r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE
)  # RFC 9110 14.4
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
FINAL = frozenset({401, 403, 404, 410})
"""Statuses that say no for good."""
_WORDS_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200


class VersionChanged(GetError):
    """The URL has another version of the file than the one asked for (412, 416, another size, ETag or date)."""

    type, title = "version-changed", "File changed on the server"


class NoRanges(Unreachable):
    """The server sends whole files only."""

    type, title = "no-ranges", "Server sends whole files only"


@dataclass(frozen=True, slots=True)
class Version:
    """Which version of a file is wanted; None for what is not known or does not matter.

    For a mirror, whose ETags are its own, give the size alone: ``Version(map.size_bytes)``.
    """

    size_bytes: int | None
    etag: str | None = None
    last_modified: str | None = None

    @property
    def conditions(self) -> dict[str, str]:
        """Headers that make a server refuse another version: a weak tag can match nothing (RFC 9110 13.1.1)."""
        if self.etag is not None:
            return {} if self.etag.startswith("W/") else {"If-Match": self.etag}
        return {} if self.last_modified is None else {"If-Unmodified-Since": self.last_modified}


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What Content-Range tells: -1 for offsets of a range that does not exist, None for a size not known."""

    first: int
    last: int
    total: int | None


def fetch_range(client: HttpClient, url: str, *, first: int, last: int, version: Version) -> Answer:
    """The bytes ``first`` to ``last``, both included, of just that version; the body has exactly those.

    A 206 must have the range asked for and the size of the version; a 200 will do if the range is the whole file. Never
    with a content coding. Raises VersionChanged (412, 416, other size, ETag or date), NotThere (401, 403, 404, 410),
    Busy (429, 5xx), NoRanges, Unreachable for all else.
    """
    answer = client.open("GET", url, {"Range": f"bytes={first}-{last}", **version.conditions})
    try:
        if answer.status == 206:
            _check_part(answer, version, first=first, last=last)
        elif answer.status != 200:
            raise refusal(answer)
        elif first or last + 1 != version.size_bytes:
            raise NoRanges(f"{shown(url)}: the server sends whole files only")
        _check_version(answer, version, last + 1 if answer.status == 200 else None)
        answer.require(last - first + 1)
    except BaseException:
        answer.close()
        raise
    return answer


def fetch_whole(client: HttpClient, url: str, *, version: Version) -> Answer:
    """The whole file in one answer, for servers without ranges; checks and raises as ``fetch_range`` does."""
    answer = client.open("GET", url, version.conditions)
    try:
        if answer.status != 200:
            raise refusal(answer)
        _check_version(answer, version, version.size_bytes)
        if version.size_bytes is not None:
            answer.require(version.size_bytes)
    except BaseException:
        answer.close()
        raise
    return answer


def content_range(answer: Answer) -> ContentRange | None:
    """Content-Range of the answer, None for none that can be understood."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is None:
        return None
    total = None if match[3] == "*" else int(match[3])
    return ContentRange(int(match[1] or -1), int(match[2] or -1), total)


def same_tag(one: str | None, other: str | None) -> bool:
    """Weak comparison (RFC 9110 8.8.3.2); a tag that is not told contradicts nothing."""
    return one is None or other is None or one.removeprefix("W/") == other.removeprefix("W/")


def refusal(answer: Answer) -> GetError:
    """The error that an answer without the file stands for, with what the server says; reads a short body."""
    fields = words(answer)
    said = [text for name in ("msg", "detail") if isinstance(text := fields.get(name), str)]
    detail = f"{shown(answer.url)}: {answer.status} {printable(' '.join(said) or answer.reason)}".rstrip()
    if answer.status in {412, 416}:
        return VersionChanged(detail)
    if answer.status in FINAL:
        return NotThere(detail)
    if answer.status == 429 or answer.status >= 500:
        return Busy(detail, retry_after_s=answer.retry_after_s)
    return Unreachable(detail)


def words(answer: Answer) -> dict[str, Any]:
    """The JSON object in a short answer, an empty one for anything else; raises Stopped only."""
    try:
        fields = json.loads(answer.read_all(_WORDS_BYTES))
    except (Unreachable, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def printable(text: str) -> str:
    """A server's text for a terminal: one line, short, without control and direction characters."""
    return _CONTROL.sub(" ", text).strip()[:_SHOWN_CHARACTERS]


def _check_part(answer: Answer, version: Version, *, first: int, last: int) -> None:
    told = content_range(answer)
    if told is not None and None not in {told.total, version.size_bytes} and told.total != version.size_bytes:
        raise VersionChanged(f"{shown(answer.url)}: it has {told.total} bytes now, not {version.size_bytes}")
    if told is None or (told.first, told.last) != (first, last):
        raise Unreachable(f"{shown(answer.url)}: the server sent another range than bytes {first} to {last}")


def _check_version(answer: Answer, version: Version, size_bytes: int | None) -> None:
    """``size_bytes``: what the body of a whole file must have, None for a part or where it is not known."""
    if answer.coding:
        raise Unreachable(f"{shown(answer.url)}: sent encoded, which was not asked for: {printable(answer.coding)}")
    if None not in {size_bytes, answer.length} and answer.length != size_bytes:
        raise VersionChanged(f"{shown(answer.url)}: it has {answer.length} bytes now, not {size_bytes}")
    etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
    if not same_tag(etag, version.etag):
        raise VersionChanged(f"{shown(answer.url)}: it is another version now")
    dated = version.etag is None and None not in {modified, version.last_modified}
    if dated and modified != version.last_modified:
        raise VersionChanged(f"{shown(answer.url)}: it is of {printable(str(modified))} now")
