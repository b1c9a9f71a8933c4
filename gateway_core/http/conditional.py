"""Conditional requests to the letter of RFC 9110 13: entity tags, HTTP dates, and what the conditions decide."""

from __future__ import annotations

import enum
import math
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

from multidict import MultiMapping

# entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE (RFC 9110 8.8.3); fields come decoded, so obs-text is any non-ASCII.
_ETAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\U0010ffff]*)"')
_ETAG_LIST = re.compile(rf"[ \t,]*(?:{_ETAG.pattern}[ \t]*(?:,[ \t,]*|$))+")
_ETAG_TEXT = re.compile(r"[\x21\x23-\x7e\x80-\U0010ffff]*")

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_DATE_FORMS = (  # RFC 9110 5.6.7: IMF-fixdate, rfc850-date, asctime-date
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"),
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"),
)


@dataclass(frozen=True, slots=True)
class ETag:
    """An entity tag: ``tag`` without quotes, ``weak`` when it does not promise equal bytes (RFC 9110 8.8.1)."""

    tag: str
    weak: bool = False

    def __post_init__(self) -> None:
        if not _ETAG_TEXT.fullmatch(self.tag):
            raise ValueError(f"not an entity tag: {self.tag!r}")

    def __str__(self) -> str:
        return f'{"W/" if self.weak else ""}"{self.tag}"'

    @classmethod
    def parse(cls, text: str) -> ETag | None:
        """The tag in ``text``, one field value, or None when it is not one."""
        match = _ETAG.fullmatch(text.strip(" \t"))
        return cls(match[2], weak=bool(match[1])) if match else None

    def same_strong(self, other: ETag) -> bool:
        """Strong comparison: both strong and equal (RFC 9110 8.8.3.2)."""
        return not self.weak and not other.weak and self.tag == other.tag

    def same_weak(self, other: ETag) -> bool:
        """Weak comparison: equal, weak or not (RFC 9110 8.8.3.2)."""
        return self.tag == other.tag


@dataclass(frozen=True, slots=True)
class Validators:
    """What the selected representation is now.

    ``modified`` is Unix seconds (only whole seconds are compared). ``modified_strong`` is False while it may still
    change twice in that second, so that the date proves nothing (RFC 9110 8.8.2.2). ``exists`` is False where there is
    no representation yet, as for a PUT that creates.
    """

    etag: ETag | None = None
    modified: float | None = None
    modified_strong: bool = True
    exists: bool = True

    @property
    def last_modified_s(self) -> int | None:
        """``modified`` as Last-Modified tells it, in whole Unix seconds."""
        return None if self.modified is None else math.floor(self.modified)

    def headers(self) -> dict[str, str]:
        """ETag and Last-Modified, for 200, 206 and 304 alike (RFC 9110 15.4.5)."""
        found = {}
        if self.etag is not None:
            found["ETag"] = str(self.etag)
        if self.modified is not None:
            found["Last-Modified"] = format_http_date(self.modified)
        return found


class Verdict(enum.Enum):
    """What the conditions decide about a request."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    PRECONDITION_FAILED = "precondition failed"

    @property
    def status(self) -> int | None:
        """Status to answer with, None to go on."""
        return {Verdict.NOT_MODIFIED: 304, Verdict.PRECONDITION_FAILED: 412}.get(self)


def evaluate(method: str, headers: MultiMapping[str], current: Validators) -> Verdict:
    """Decide ``method`` with its request ``headers`` against ``current``, in the order of RFC 9110 13.2.2.

    To be asked only when the answer without conditions would be 2xx (13.2.1). If-Range is ``applicable_range``.
    """
    if method in {"CONNECT", "OPTIONS", "TRACE"}:  # they select no representation (13.2.1)
        return Verdict.PROCEED
    if_match = _field(headers, "If-Match")
    if if_match is not None:
        if not _matches(if_match, current, strong=True):
            return Verdict.PRECONDITION_FAILED
    elif _modified_after(_field(headers, "If-Unmodified-Since"), current):
        return Verdict.PRECONDITION_FAILED
    if_none_match = _field(headers, "If-None-Match")
    reading = method in {"GET", "HEAD"}
    if if_none_match is not None:
        if _matches(if_none_match, current, strong=False):
            return Verdict.NOT_MODIFIED if reading else Verdict.PRECONDITION_FAILED
    elif reading and _modified_after(_field(headers, "If-Modified-Since"), current) is False:
        return Verdict.NOT_MODIFIED
    return Verdict.PROCEED


def applicable_range(method: str, headers: MultiMapping[str], current: Validators) -> str | None:
    """The Range field when it is to be obeyed: of a GET, with If-Range absent or true (RFC 9110 13.1.5, 14.2)."""
    if method != "GET" or not _if_range_holds(_field(headers, "If-Range"), current):
        return None
    return _field(headers, "Range")


def parse_http_date(text: str) -> int | None:
    """Unix seconds of an HTTP-date in any of its three forms (RFC 9110 5.6.7), None when it is not one."""
    match = next((found for form in _DATE_FORMS if (found := form.fullmatch(text.strip(" \t")))), None)
    if match is None:
        return None
    year, second = int(match["year"]), int(match["second"])
    if len(match["year"]) == 2:
        year = _full_year(year)
    month, leap = _MONTHS.index(match["month"]) + 1, second == 60
    try:
        day, hour, minute = int(match["day"]), int(match["hour"]), int(match["minute"])
        moment = datetime(year, month, day, hour, minute, second - leap, tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) + leap


def format_http_date(unix_s: float) -> str:
    """IMF-fixdate of Unix seconds, rounded down: a date is never later than the change it tells of."""
    return _imf_fixdate(math.floor(unix_s))


@lru_cache(1024)  # 3 of the 20 microseconds of a small file
def _imf_fixdate(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)


def _field(headers: MultiMapping[str], name: str) -> str | None:
    """All lines of a field as one value (RFC 9110 5.3), None when there is none."""
    return ", ".join(headers.getall(name)) if name in headers else None


def _if_range_holds(if_range: str | None, current: Validators) -> bool:
    """Strong comparison of a tag, exact match of a strong date; anything else is false, so the whole is sent."""
    if if_range is None:
        return True
    if '"' in if_range[:3]:  # how a tag is told from a date (RFC 9110 13.1.5)
        asked = ETag.parse(if_range)
        return asked is not None and current.etag is not None and asked.same_strong(current.etag)
    if current.last_modified_s is None or not current.modified_strong:
        return False
    return parse_http_date(if_range) == current.last_modified_s


def _matches(value: str, current: Validators, *, strong: bool) -> bool:
    """Whether an If-Match or If-None-Match field names ``current``; an invalid field names nothing."""
    if value.strip(" \t") == "*":
        return current.exists
    etag = current.etag
    if etag is None or not current.exists or not _ETAG_LIST.fullmatch(value):
        return False
    tags = [ETag(match[2], weak=bool(match[1])) for match in _ETAG.finditer(value)]
    return any(etag.same_strong(tag) if strong else etag.same_weak(tag) for tag in tags)


def _modified_after(value: str | None, current: Validators) -> bool | None:
    """Whether ``current`` is newer than a date field; None where the field is to be ignored (13.1.3, 13.1.4)."""
    asked = None if value is None else parse_http_date(value)
    if asked is None or current.last_modified_s is None or not current.exists:
        return None
    return current.last_modified_s > asked


def _full_year(two_digits: int) -> int:
    """The year meant by an rfc850-date: not more than 50 years ahead (RFC 9110 5.6.7)."""
    now = time.gmtime().tm_year
    year = now - now % 100 + two_digits
    return year - 100 if year > now + 50 else year
