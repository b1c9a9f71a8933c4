"""What ``gateway archive`` is asked for, what goes wrong on its way, and who hears how far it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway_core.errors import GatewayError

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


class ClientError(GatewayError):
    """An archive that did not come. ``lines`` are told before the error itself, one for each file for example."""

    type, title = "archive-client", "The archive did not come through"

    def __init__(self, detail: str, *, lines: tuple[str, ...] = ()) -> None:
        super().__init__(printable(detail))
        self.lines = lines


class Unreachable(ClientError):
    """The server or the network failed too often in a row; what has come stays."""

    type, title = "unreachable", "The gateway cannot be reached"


class Denied(ClientError):
    """The server does not know the secret, or its client may not do that."""

    type, title = "denied", "The gateway says no"


class TicketGone(ClientError):
    """There is no such ticket, or not any more."""

    type, title = "ticket-gone", "No such ticket"


class DiskFailed(ClientError):
    """The file cannot be written; asking the server again does not help."""

    type, title = "disk", "Could not be written"


class Damaged(ClientError):
    """The archive came to its end and is not what it should be."""

    type, title = "damaged", "The archive is damaged"


@dataclass(frozen=True, slots=True)
class Order:
    """What shall be in the archive: the ticket of that id, or ``items`` as ``POST /ticket/generate`` takes them."""

    items: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    ticket: str | None = None
    on_error: str = "report"
    format: str = "zip"

    def body(self) -> bytes:
        """JSON that asks for a ticket."""
        return json.dumps({"items": self.items, "options": {"on_error": self.on_error}}).encode()

    def fingerprint(self, server: str) -> str:
        """The same for the same order to the same server, another for any other: 64 hex digits."""
        told = [server, self.items, self.ticket, self.on_error, self.format]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Version:
    """Of which bytes the answer is: ``etag`` strong or None, ``total_bytes`` None where the server cannot know."""

    etag: str | None
    total_bytes: int | None


class Observer(Protocol):
    """Hears how far it is."""

    def begin(self, stage: str, done_bytes: int, total_bytes: int | None) -> None:
        """``stage`` is a word for what is being done from now on."""

    def advance(self, count_bytes: int) -> None:
        """So much more of the stage is done."""

    def tell(self, text: str) -> None:
        """A line that stays."""


def printable(text: str) -> str:
    """Names and messages come from elsewhere: what could steer a terminal is shown as U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def size_text(size_bytes: int) -> str:
    """``17 bytes``, ``9.84 KiB``, ``512 MiB``: three digits, powers of 1024."""
    if size_bytes < 1024:
        return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"
    value, unit = size_bytes / 1024, 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def span_text(seconds: float) -> str:
    """``1.4 s``, ``17 s``, ``3:07``, ``1:02:03``."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count_text(count: int, noun: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
