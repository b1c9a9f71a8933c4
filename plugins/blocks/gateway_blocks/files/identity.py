"""Which version of a file something was said of."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from gateway_core.http.conditional import ETag, Validators

YOUNG_NS = 2_000_000_000
"""A file written less than this ago may change once more under the same time stamp, so its tag is weak."""

_TICK_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """A version of a file: what fstat says, all of it, so that a restored mtime still shows in ctime."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Identity:
        """The identity that ``stat`` tells of."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def __str__(self) -> str:
        return f"{self.device:x}:{self.inode:x}:{self.size_bytes:x}:{self.mtime_ns:x}:{self.ctime_ns:x}"

    def young(self, now_ns: int | None = None) -> bool:
        """Whether it may still change unseen (RFC 9110 8.8.2.2); times in the future never grow old, so they count."""
        return (time.time_ns() if now_ns is None else now_ns) - self.mtime_ns < YOUNG_NS

    def settles_in_s(self, now_ns: int | None = None) -> float:
        """Seconds until what is read can be held against the time stamps.

        They are as coarse as the kernel's tick, or as the file system's second. And a write moves them when it begins:
        what a long one puts in place later changes nothing any more, so a file that was written to just now is left
        alone for a while.
        """
        now = time.time_ns() if now_ns is None else now_ns
        grain_ns = YOUNG_NS if self.ctime_ns % 1_000_000_000 == 0 else _TICK_NS
        waits_ns = (YOUNG_NS - max(0, now - self.mtime_ns), grain_ns - max(0, now - self.ctime_ns))
        return max(0, *waits_ns) / 1e9

    def etag(self, *, now_ns: int | None = None) -> ETag:
        """Size and time, in hexadecimal: equal on mirrors that keep times. Weak while the file is young."""
        return ETag(f"{self.size_bytes:x}-{self.mtime_ns:x}", weak=self.young(now_ns))

    def validators(self, *, now_ns: int | None = None) -> Validators:
        """ETag and Last-Modified for conditional requests."""
        young = self.young(now_ns)
        tag = ETag(f"{self.size_bytes:x}-{self.mtime_ns:x}", weak=young)
        return Validators(etag=tag, modified=self.mtime_ns / 1e9, modified_strong=not young)
