"""What a server tells of a file: its block map, or plain facts; and what it says to a bad block."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any, Self

from gateway_blocks.get.connection import Answer, HttpClient
from gateway_blocks.get.map_json import DIGEST_BYTES, MAX_JSON_BYTES, BrokenMapError, Listed, Told, read_map
from gateway_blocks.get.model import NotThere, Unreachable
from gateway_blocks.get.ranges import (
    FINAL,
    NoRanges,
    Version,
    VersionChanged,
    content_range,
    fetch_range,
    fetch_whole,
    printable,
    refusal,
    same_tag,
    words,
)
from gateway_blocks.get.urls import metadata_url, shown

__all__ = [
    "NoRanges",
    "PlainFacts",
    "RemoteMap",
    "Version",
    "VersionChanged",
    "fetch_range",
    "fetch_whole",
    "plain_facts",
    "report_bad",
]

_LARGEST_FILE_BYTES = (1 << 63) - 1
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_SIZE = re.compile(r"([1-9][0-9]{0,15})([KMG]i)?B")
_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_ASK = {"Accept": "application/json", "Accept-Encoding": "gzip"}
_QUICK_S, _SLOW_S, _LONGEST_PAUSE_S = 0.1, 1.0, 5.0
_LONGEST_WAIT_S = 60.0  # of our servers
_COST_FACTOR = 4.0
_LATER, _NEVER = frozenset({408, 425, 429}), frozenset({501, 505})
_VERDICTS = frozenset({"changed", "same", "pending"})


@dataclass(frozen=True, slots=True)
class PlainFacts:
    """What a server without checksums tells of a file. ``ranges``: parts of it can be asked for.

    ``url`` is where it was found after redirects; perhaps that server has checksums.
    """

    url: str
    size_bytes: int | None
    etag: str | None
    last_modified: str | None
    ranges: bool

    @property
    def version(self) -> Version:
        """The version these facts are of."""
        return Version(self.size_bytes, self.etag, self.last_modified)


class RemoteMap:
    """SHA-1 of each block of one version of a file, as far as the server has told.

    A map is of one version for ever: digests are only added, by the thread that polls; other threads may read at any
    time. ``count`` blocks of ``block_bytes``, the last one perhaps shorter, none for an empty file; 21 bytes of memory
    a block. ``etag`` stands as the server sends it; a weak one becomes strong when a poll says so. ``known`` counts the
    digests that are known.
    """

    def __init__(self, url: str, told: Told) -> None:
        """Raises BrokenMapError for what contradicts itself."""
        listed = told.blocks or Listed()
        self.url = url
        self.size_bytes = _whole_number(told.fields, "file_size")
        self.block_bytes = _block_bytes(told.fields, listed, self.size_bytes)
        self.count = -(-self.size_bytes // self.block_bytes)
        self.etag = _etag(told.fields)
        if (listed.first, listed.start, listed.stop, len(listed)) != (0, 0, self.size_bytes, self.count):
            raise BrokenMapError("its blocks are not those of a file of its size")
        if _whole_number(told.fields, "block_count", self.count) != self.count:
            raise BrokenMapError("it has another number of blocks than it says")
        self.known = listed.known.count(1)
        self._digests = listed.digests
        self._known = listed.known
        self._first_missing = 0
        self._pause_s = 0.0

    @classmethod
    def load(cls, url: str, client: HttpClient) -> Self | None:
        """Ask for the map; None where the server has no checksums (not a server of ours, nor rd-api).

        Raises NotThere with the server's words where it has no such file (``ok: false``), Busy for 429 and 5xx,
        Unreachable for a map that contradicts itself or is larger than 4 million blocks.
        """
        with client.open("GET", metadata_url(url), _ASK) as answer:
            try:
                told = _told(answer, url)
                return None if told is None else cls(url, told)
            except BrokenMapError as error:
                raise _broken(url, error) from error

    @property
    def version(self) -> Version:
        """For ``fetch_range`` from the server that told this map."""
        return Version(self.size_bytes, self.etag)

    @property
    def complete(self) -> bool:
        """Whether every digest is known."""
        return self.known == self.count

    @property
    def first_missing(self) -> int:
        """The first block whose digest is not known; ``count`` when complete."""
        found = self._known.find(0, self._first_missing)
        self._first_missing = self.count if found < 0 else found
        return self._first_missing

    def digest(self, index: int) -> bytes | None:
        """The block's 20 bytes of SHA-1, None while the server has not told it."""
        if not self._known[index]:
            return None
        return bytes(self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES])

    def span(self, index: int) -> tuple[int, int]:
        """Offsets of the block's first and last byte."""
        return index * self.block_bytes, min((index + 1) * self.block_bytes, self.size_bytes) - 1

    def poll(self, client: HttpClient, wait_s: float) -> RemoteMap:
        """Ask for more digests, waiting up to ``wait_s`` for them; itself, or the map of a new version.

        The server holds the answer until there is news; one that cannot (rd-api) is asked about once a second, and less
        often where its answers take long. Another size, block size or ETag, or another digest of a known block, is a
        new version: then the result is another object, and this one stays as it was. Raises as ``load`` does, and
        Unreachable where the map is gone.
        """
        client.pause(self._pause_s)
        asked = time.monotonic()
        after = self.first_missing - 1
        wait = {} if self.complete else {"wait": round(min(wait_s, _LONGEST_WAIT_S, client.stall_s / 2), 1)}
        with client.open("GET", metadata_url(self.url, after=after, **wait), _ASK) as answer:
            answered = time.monotonic()
            try:
                told = _told(answer, self.url)
                same = told is not None and self._is_of_this_version(told)
                before = self.known
                if told is not None and same:
                    self._add(told)
            except BrokenMapError as error:
                raise _broken(self.url, error) from error
        if not same:
            return self._anew(client)
        now = time.monotonic()
        idle = self.known == before and now - asked < _SLOW_S
        cost_s = min(_LONGEST_PAUSE_S, _COST_FACTOR * (now - answered))
        self._pause_s = max(_SLOW_S if idle or not _holds_answers(told) else _QUICK_S, cost_s)
        return self

    def _anew(self, client: HttpClient) -> RemoteMap:
        fresh = RemoteMap.load(self.url, client)
        if fresh is None:
            raise Unreachable(f"{shown(self.url)}: the server has no checksums any more")
        return fresh

    def _is_of_this_version(self, told: Told) -> bool:
        """Whether what was told is of this version; raises BrokenMapError for what is of none."""
        if _whole_number(told.fields, "file_size") != self.size_bytes:
            return False
        if not same_tag(_etag(told.fields), self.etag):
            return False
        listed = told.blocks or Listed()
        if len(listed) > 1 and listed.unit_bytes != self.block_bytes:
            return False
        if listed and not self._fits(listed):
            raise BrokenMapError("its blocks are not those of a file of its size")
        return all(
            listed.digest(at) == self.digest(listed.first + at)
            for at, told_now in enumerate(listed.known)
            if told_now and self._known[listed.first + at]
        )

    def _fits(self, listed: Listed) -> bool:
        last = listed.first + len(listed) - 1
        return last < self.count and (listed.start, listed.stop) == (self.span(listed.first)[0], self.span(last)[1] + 1)

    def _add(self, told: Told) -> None:
        """Digests first, then that they are known: others may be reading."""
        listed = told.blocks or Listed()
        if self.etag is None or self.etag.startswith("W/"):
            self.etag = _etag(told.fields) or self.etag
        for at, told_now in enumerate(listed.known):
            index = listed.first + at
            if told_now and not self._known[index]:
                self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = listed.digest(at)
                self._known[index] = 1
                self.known += 1


def plain_facts(url: str, client: HttpClient) -> PlainFacts:
    """Ask with HEAD, then, where that does not tell enough, with GET for one byte; raises as ``fetch_range`` does.

    HEAD is often forbidden where GET is not, and often tells a length of 0 wrongly.
    """
    with client.open("HEAD", url, {}) as answer:
        ranges = answer.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        if answer.status == 200 and answer.length and ranges and not answer.coding:
            return _facts(answer, answer.length, ranges=True)
    with client.open("GET", url, {"Range": "bytes=0-0"}) as answer:
        told = content_range(answer)
        if answer.status == 416 and told is not None and told.total == 0:
            return _facts(answer, 0, ranges=False)
        if answer.status not in {200, 206}:
            raise refusal(answer)
        if answer.coding:
            raise Unreachable(f"{shown(url)}: sent encoded, which was not asked for")
        answer.discard()
        if answer.status == 200:
            return _facts(answer, answer.length, ranges=False)
        if told is None or (told.first, told.last) != (0, 0):
            raise Unreachable(f"{shown(url)}: sent another range than the one asked for")
        return _facts(answer, told.total, ranges=True)


def report_bad(url: str, client: HttpClient, block: int) -> str:
    """Tell the server that a block came with another SHA-1 than it had told; what it says after looking again.

    ``changed``, ``same`` or ``pending``; ``unknown`` from servers that cannot say. Raises Unreachable, Stopped.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    body = json.dumps({"block": block}).encode()
    with client.open("POST", metadata_url(url), headers, body=body) as answer:
        fields = words(answer)
        verdict = fields.get("verdict") if answer.status == 200 and fields.get("ok") is True else None
        return verdict if isinstance(verdict, str) and verdict in _VERDICTS else "unknown"


def _told(answer: Answer, url: str) -> Told | None:
    """What came of asking for a map; None where it is of a server without. Raises as ``RemoteMap.load`` does."""
    if answer.status in _LATER or (answer.status >= 500 and answer.status not in _NEVER):
        raise refusal(answer)
    told = read_map(answer.pieces(MAX_JSON_BYTES))
    if told is None:
        answer.discard()
        return None
    text = told.fields.get("msg")
    if told.fields.get("ok") is False and isinstance(text, str):
        final = answer.status == 200 or answer.status in FINAL  # rd-api says 200 to everything
        raise (NotThere if final else Unreachable)(f"{shown(url)}: {printable(text) or answer.status}")
    complete = told.blocks is not None and "file_size" in told.fields
    return told if answer.status == 200 and told.fields.get("ok") is True and complete else None


def _holds_answers(told: Told | None) -> bool:
    """Whether the server knows ``after`` and ``wait``: ours does, rd-api has none of these keys."""
    return told is not None and not told.fields.keys().isdisjoint({"etag", "hashed_blocks"})


def _broken(url: str, error: BrokenMapError) -> Unreachable:
    return Unreachable(f"{shown(url)}: the server's block map cannot be right: {error}")


def _whole_number(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 0 <= value <= _LARGEST_FILE_BYTES:
        raise BrokenMapError(f"{name} is no size")
    return value


def _block_bytes(fields: dict[str, Any], listed: Listed, size_bytes: int) -> int:
    """From the blocks, where there are two; a text such as ``2MiB`` is all that rd-api tells of a single one."""
    told = _whole_number(fields, "block_bytes", 0) or _size(fields.get("block_size"))
    if len(listed) > 1:
        if told not in {listed.unit_bytes, 0}:
            raise BrokenMapError("its blocks have another size than it says")
        return listed.unit_bytes
    return max(told, size_bytes, 1)


def _size(text: object) -> int:
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    return int(match[1]) * _UNITS[match[2]] if match else 0


def _etag(fields: dict[str, Any]) -> str | None:
    etag = fields.get("etag")
    if etag is None:
        return None
    if not isinstance(etag, str) or not _TAG.fullmatch(etag):
        raise BrokenMapError("its ETag is none")
    return etag


def _facts(answer: Answer, size_bytes: int | None, *, ranges: bool) -> PlainFacts:
    etag = answer.headers.get("ETag")
    known = etag if etag is not None and _TAG.fullmatch(etag) else None
    return PlainFacts(answer.url, size_bytes, known, answer.headers.get("Last-Modified"), ranges)
