"""``?zip=1``: a result's tar.gz as a zip, made in a thread and spooled, so that it has a length and ranges."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import IO, Final

from gateway_core import Gateway, UpstreamFailed
from gateway_core.http.ranges import ByteRange
from gateway_core.http.representation import Content, FileContent
from gateway_core.settled import settled
from gateway_core.storage.staging import told_as_storage_error
from gateway_core.version import __version__
from gateway_transform.box.untar import Caps, Member, Refused, members
from gateway_transform.jobs.model import Job
from gateway_transform.settings import TransformSettings
from gateway_transform.web.content import stored_content

_AT_ONCE = 2
_LONGEST_S = 1800.0
_UNIX = 3
_FILE, _FOLDER = 0o100644 << 16, (0o40755 << 16) | 0x10
"""External attributes: Unix's mode, and MS-DOS's bit for folders (APPNOTE 4.4.15)."""

_Moment = tuple[int, int, int, int, int, int]


class Zipper:
    """Makes zips, two at once.

    Equal results become equal bytes, so that a download that broke off can go on with a zip made anew. ``kind`` names
    what the bytes depend on besides the result.
    """

    kind: Final = f"zip-{__version__}-{zlib.ZLIB_RUNTIME_VERSION}"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.section(TransformSettings)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def zipped(self, job: Job) -> AsyncIterator[Content]:
        """The zip of a job's result, until the end of the block.

        Raises UpstreamFailed for a result that is no sound archive, ObjectMissing, StorageError.
        """
        spool = tempfile.TemporaryFile(dir=self._gateway.scratch_dir)  # noqa: SIM115 - closed in a thread, below
        try:
            async with self._turns, self._archive(job.result.key) as archive:
                await self._convert(archive, spool, job)
            yield FileContent(spool.fileno(), os.fstat(spool.fileno()).st_size)
        finally:
            await asyncio.to_thread(spool.close)  # which gives gigabytes back to the file system

    @asynccontextmanager
    async def _archive(self, key: str) -> AsyncIterator[IO[bytes]]:
        """The stored archive for a thread to read, spooled first where the storage has no files."""
        async with stored_content(self._gateway.storage, key) as content:
            if isinstance(content, FileContent):
                with os.fdopen(content.fd, "rb", closefd=False) as file:
                    yield file
                return
            with tempfile.TemporaryFile(dir=self._gateway.scratch_dir) as copy:
                with told_as_storage_error("spool a result"):
                    async for piece in content.pieces(ByteRange(0, content.size_bytes - 1)):
                        await asyncio.to_thread(copy.write, piece)
                copy.seek(0)
                yield copy

    async def _convert(self, archive: IO[bytes], spool: IO[bytes], job: Job) -> None:
        """Fill ``spool`` in a thread, which stops soon after the client has left."""
        settings = self._settings
        # Boxes pack at most disk_mb and 20 * max_files; headers, folders and the box's own files come on top.
        most_bytes, most_files = settings.disk_mb << 21, 40 * settings.max_files + 100
        caps = Caps.of_result(most_bytes, most_files, time.monotonic() + _LONGEST_S)
        moment = time.gmtime(job.created if job.ended is None else job.ended)[:6]
        left = threading.Event()
        work = asyncio.to_thread(_write_zip, _until(left, members(archive, caps)), spool, moment)
        try:
            await settled(work, hurry=left.set)
        except Refused as error:
            raise UpstreamFailed(f"the result is no sound archive: {error}") from error


class _ClientLeft(Exception):
    """Nobody wants the zip any more."""


def _until(left: threading.Event, found: Iterator[Member]) -> Iterator[Member]:
    """``found``, up to the moment when ``left`` is set, in the middle of a file too."""

    def watched(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if left.is_set():
                raise _ClientLeft
            yield chunk

    for member in found:
        yield member._replace(chunks=watched(member.chunks))


def _write_zip(found: Iterable[Member], spool: IO[bytes], moment: _Moment) -> None:
    """Write a zip of what is found, all of it dated ``moment``; raises Refused, StorageError."""
    with told_as_storage_error("spool a zip"):
        with zipfile.ZipFile(spool, "w") as archive:
            for member in found:
                entry = zipfile.ZipInfo(f"{member.path}/" if member.is_dir else member.path, moment)
                entry.create_system = _UNIX
                entry.external_attr = _FOLDER if member.is_dir else _FILE
                entry.file_size = member.size  # by which zipfile sees whether it needs ZIP64
                entry.compress_type = zipfile.ZIP_STORED if member.is_dir else zipfile.ZIP_DEFLATED
                with archive.open(entry, "w") as file:
                    for chunk in member.chunks:
                        file.write(chunk)
        spool.flush()
