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


def render_report(failures: Sequence[Failure], *, packed: int) -> bytes:
    """UTF-8 text with CRLF line ends, so that every system's simplest editor shows it well."""
    total = packed + len(failures)
    lines = [
        f"{len(failures)} of {total} files could not be downloaded and are missing in this archive.",
        "",
    ]
    for failure in failures:
        lines += [failure.name, f"    from {public_url(failure.url)}", f"    {failure.reason}", ""]
    return "\r\n".join(lines).encode("utf-8", "replace")
