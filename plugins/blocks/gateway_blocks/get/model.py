"""What a download is asked for, what it tells while it runs, and what came of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from gateway_core.errors import GatewayError


class GetError(GatewayError):
    """A download that did not end well; ``exit_code`` is that of ``gateway get``."""

    exit_code = 1
    type, title = "get", "Download failed"


class Unreachable(GetError):
    """The server, the network or the disk failed; what was verified stays, and trying again goes on from there."""

    type, title = "unreachable", "Could not be fetched"


class NotThere(GetError):
    """The server says no for good: 404, 401, 403, 410."""

    type, title = "not-there", "Not to be had"


class NoChecksums(GetError):
    """The server has no checksums for the file, and they were required."""

    exit_code = 3
    type, title = "no-checksums", "Server has no checksums"


class Differs(GetError):
    """The local file is not the server's; ``bad_blocks`` are the numbers of the blocks that differ."""

    exit_code = 4
    type, title = "differs", "Local file differs"

    def __init__(self, detail: str, bad_blocks: tuple[int, ...] = ()) -> None:
        super().__init__(detail)
        self.bad_blocks = bad_blocks


class Stopped(GetError):
    """The caller asked to stop; what was verified stays."""

    exit_code = 130
    type, title = "stopped", "Stopped"


class Checked(Enum):
    """How sure the bytes are."""

    BLOCKS = "blocks"
    """Every block has the SHA-1 that the server told."""
    NONE = "none"
    """The server has no checksums: size and validator are all that was compared."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of one file: bytes by where they came from. ``path`` is None for standard output."""

    url: str
    path: Path | None
    size_bytes: int
    checked: Checked
    fetched_bytes: int = 0
    reused_bytes: int = 0
    seconds: float = 0.0
    bad_blocks: tuple[int, ...] = ()
    """Blocks that had to be fetched again because what came was not what the server had told."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to download. Sizes in bytes, times in seconds.

    ``jobs`` connections at once over all mirrors; ``limit_rate`` bytes a second, 0 for no limit; ``seeds`` are local
    files whose blocks are used where they fit; ``headers`` go to the URL's own origin and to mirrors of that origin.
    ``stall_s``: a connection that sends nothing for so long is given up; ``tries`` in a row without any progress end
    the download; ``retry_base_s`` is the first wait, doubled up to ``retry_cap_s``, with full jitter.
    """

    jobs: int = 5
    limit_rate: int = 0
    require_verify: bool = False
    mirrors: tuple[str, ...] = ()
    seeds: tuple[Path, ...] = ()
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    stall_s: float = 30.0
    connect_s: float = 10.0
    tries: int = 10
    retry_base_s: float = 0.5
    retry_cap_s: float = 30.0
    run_bytes: int = 8 << 20
    """Adjacent blocks are asked for in one request up to this size."""


class Observer(Protocol):
    """Told of progress, from any thread, often: it must be quick and never fail."""

    def started(self, name: str, size_bytes: int, done_bytes: int) -> None:
        """A file begins (or goes on): ``done_bytes`` of it are verified already."""

    def advanced(self, name: str, count_bytes: int) -> None:
        """So many more bytes are verified and kept (or, without checksums, received)."""

    def remarked(self, name: str, text: str) -> None:
        """Something worth a line: a retry, a bad block, a mirror that was dropped, a file that changed."""

    def finished(self, name: str, summary: Summary) -> None:
        """The file is whole."""


class Silent:
    """An observer that tells nobody."""

    def started(self, name: str, size_bytes: int, done_bytes: int) -> None:
        """Nothing."""

    def advanced(self, name: str, count_bytes: int) -> None:
        """Nothing."""

    def remarked(self, name: str, text: str) -> None:
        """Nothing."""

    def finished(self, name: str, summary: Summary) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Control:
    """How a caller follows a download and ends it: set ``stop`` from any thread."""

    observer: Observer = field(default_factory=Silent)
    stop: threading.Event = field(default_factory=threading.Event)
