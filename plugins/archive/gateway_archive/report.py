"""The report about what is missing in an archive, for the person who opens it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from gateway_core import SourceError

REPORT_NAME = "_DOWNLOAD-REPORT.txt"


@dataclass(frozen=True, slots=True)
class Failure:
    """One item that could not be had: its entry's name, its URL, the short word for why, and that word with a detail.

    Safe for anybody who has the link. The error itself is not kept: its traceback holds the bytes that had come.
    """

    name: str
    url: str
    word: str
    reason: str

    @classmethod
    def of(cls, error: SourceError, *, name: str, url: str) -> Self:
        """What ``error`` says."""
        return cls(name, url, error.reason, f"{error.reason}: {error.detail or error.title}")

    def public(self) -> dict[str, Any]:
        """As an object, the URL without credentials and signature."""
        return {"name": self.name, "url": public_url(self.url), "reason": self.reason}


def public_url(url: str) -> str:
    """``url`` without user information, query and fragment: those carry the secrets of its owner."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def render_report(failures: Sequence[Failure], *, packed: int, limit_bytes: int | None = None) -> bytes:
    """UTF-8 text with CRLF line ends, so that every system's simplest editor shows it well.

    With ``limit_bytes`` it is no longer than that: as many whole failures as fit, and a last line says how many more
    there are. Where not even that line fits it is four words.
    """
    count = len(failures)
    head = f"{count} of {packed + count} files could not be downloaded and are missing in this archive.\r\n".encode()
    if limit_bytes is None:
        return b"".join([head, *map(_paragraph, failures)])
    texts, length, shown = [head], len(head), -1
    for number in range(count + 1):
        if length + len(_more(count - number)) <= limit_bytes:
            shown = number
        if number == count or length > limit_bytes:
            break
        texts.append(_paragraph(failures[number]))
        length += len(texts[-1])
    if shown < 0:
        return b"Some files are missing.\r\n"[:limit_bytes]
    return b"".join(texts[: shown + 1]) + _more(count - shown)


def _paragraph(failure: Failure) -> bytes:
    lines = f"\r\n{failure.name}\r\n    from {public_url(failure.url)}\r\n    {failure.reason}\r\n"
    return lines.encode("utf-8", "replace")


def _more(count: int) -> bytes:
    return b"\r\n... and %d more\r\n" % count if count else b""
