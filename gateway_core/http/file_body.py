"""Files as bodies: sent by the kernel where their pages are in memory, read in threads where they are not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os

from gateway_core.errors import SourceChanged, SourceFailed
from gateway_core.http.stream import ResponseWriter

_SLICE_BYTES = 2 * 1024 * 1024  # what one system call may send: half a millisecond of the loop
_PROBE_EVERY_BYTES = 128 * 1024  # what Linux reads ahead by default, so what comes into memory together
_READ_BYTES = 256 * 1024
_BETWEEN_BYTES = 64 * 1024  # read between slices, while more comes into memory or the socket has no room
_AHEAD_BYTES = 2 * 1024 * 1024


async def send_file(writer: ResponseWriter, fd: int, *, offset: int, count: int) -> None:
    """Send ``count`` bytes of the regular file ``fd`` from ``offset`` as part of the body, without blocking the loop.

    What the page cache holds goes by sendfile(2) where the answer's bytes go over the socket as they are; the rest, and
    all of it for TLS and chunked answers, through 256 KiB of memory. ``fd`` must stay open until this returns; its own
    position is not used. Raises SourceChanged when the file ends too early, SourceFailed when it cannot be read, and
    what ``writer.write`` raises; each must cut the answer, whose head is out.
    """
    if writer.bodyless:
        return
    end = offset + count
    direct = writer.direct and _tells_what_is_in_memory(fd, offset)
    while offset < end:
        left, sent = end - offset, 0
        if direct and (ready := _bytes_in_memory(fd, offset, min(left, _SLICE_BYTES))):
            sent = await writer.write_from(fd, offset, ready)
        if not sent:
            # After a full socket these bytes are the transport's to write: that is how room for more is waited for.
            piece = await _read(fd, offset, min(left, _BETWEEN_BYTES if direct else _READ_BYTES), ahead=left)
            await writer.write(piece)
            sent = len(piece)
        offset += sent


async def read_file(fd: int, offset: int, count: int) -> bytes | bytearray:
    """Exactly ``count`` bytes of the regular file ``fd`` from ``offset``, at once where they are in memory.

    Raises SourceChanged when the file ends before, SourceFailed when it cannot be read.
    """
    found = await _read(fd, offset, count, ahead=count) if count else b""
    while (left := count - len(found)) > 0:
        found += await _read(fd, offset + len(found), left, ahead=left)
    return found


def _tells_what_is_in_memory(fd: int, offset: int) -> bool:
    """Whether the file system can refuse to read what is not: not NFS, FUSE, nor tmpfs."""
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return True


def _bytes_in_memory(fd: int, offset: int, count: int) -> int:
    """How many of ``count`` bytes from ``offset`` the page cache can give at once.

    Looks at the first byte and the last one of each 128 KiB, up to one that is missing or beyond the end of the file.
    Pages that were dropped one by one in between go unseen; they cost the loop a read of the disk.
    """
    probe, found = bytearray(1), 0
    with contextlib.suppress(OSError):
        for end in range(0, count + _PROBE_EVERY_BYTES, _PROBE_EVERY_BYTES):
            last = min(max(end, 1), count)
            if not os.preadv(fd, [probe], offset + last - 1, os.RWF_NOWAIT):
                break
            found = min(end, count)
    return found


async def _read(fd: int, offset: int, count: int, *, ahead: int) -> bytearray:
    """At least one byte and at most ``count``; of the ``ahead`` bytes that will be wanted the disk is told before."""
    buffer = bytearray(count)
    try:
        found = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:  # EAGAIN, EOPNOTSUPP, and what the blocking read will say again
        try:
            found = await asyncio.to_thread(_read_from_disk, fd, offset, buffer, ahead=ahead)
        except OSError as error:
            raise SourceFailed(f"the file cannot be read: {error.strerror}") from error
    if not found:
        raise SourceChanged(f"the file ends at or before byte {offset}")
    del buffer[found:]
    return buffer


def _read_from_disk(fd: int, offset: int, buffer: bytearray, *, ahead: int) -> int:
    os.posix_fadvise(fd, offset, min(ahead, _AHEAD_BYTES), os.POSIX_FADV_WILLNEED)
    return os.preadv(fd, [buffer], offset)
