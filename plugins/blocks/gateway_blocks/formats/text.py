"""How names and times are written where not every byte may stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_CONTROLS: Final = (*range(0x20), 0x7F)
_NOT_UTF8: Final = {0xDC00 + byte: byte for byte in range(0x80, 0x100)}  # how decode_name keeps such bytes (PEP 383)
_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))

_PORTABLE: Final = {
    **{control: f"%{control:02X}" for control in _CONTROLS},
    **{lone: f"%{byte:02X}" for lone, byte in _NOT_UTF8.items()},
    0xFFFE: "%EF%BF%BE",
    0xFFFF: "%EF%BF%BF",
}
_VISIBLE: Final = {
    **{control: 0x2400 + control for control in range(0x20)},
    0x7F: 0x2421,
    **dict.fromkeys((*_NOT_UTF8, *_BIDI), 0xFFFD),
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
_LAST_S: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)


def portable_name(name: str) -> str:
    """``name`` for a client to save under: controls and bytes that are no UTF-8 percent-encoded, all else as it is.

    XML has no way to write most of them (XML 1.0 2.2), and aria2 refuses a whole Metalink for one control character;
    percent-encoded is also how wget saves them.
    """
    return name.translate(_PORTABLE)


def visible_name(name: str) -> str:
    """``name`` for people: controls as their pictures, U+FFFD for bytes that are no UTF-8 and for bidirectional
    controls, which make ``gpj.exe`` look like ``exe.jpg``.
    """
    return name.translate(_VISIBLE)


def utc_time(mtime_ns: int) -> str:
    """``2026-08-18T10:11:12Z`` (RFC 3339), rounded down; a time outside of the years 1 to 9999 is their nearest."""
    seconds = min(max(mtime_ns // 1_000_000_000, _FIRST_S), _LAST_S)
    return f"{(_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()}Z"
