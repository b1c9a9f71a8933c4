"""From a ticket's items to the bytes of its ZIP: order, names, failures, report. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway_archive.feed import Feed, Whole
from gateway_archive.names import NameRegistry, entry_name, folder_name, name_from_url
from gateway_archive.report import REPORT_NAME, Failure, render_report
from gateway_archive.tickets import Item, OnError
from gateway_archive.zip_records import Entry
from gateway_archive.zip_writer import OpenEntry, Piece, ZipWriter
from gateway_core import SourceError, SourceFailed, UpstreamFailed
from gateway_core.sources.base import SourceInfo

Write = Callable[[Sequence[Piece]], Awaitable[None]]
"""Takes the next pieces of the archive; returns when they may be forgotten."""

BATCH_BYTES = 128 << 10
"""Small entries are written together up to this size, unless the next one is not there yet."""


class Aborted(SourceError):
    """The archive has begun and cannot be completed: the connection must be cut, never ended cleanly."""

    type, title = "archive-aborted", "Archive aborted"


@dataclass(slots=True)
class Tally:
    """What has become of a download so far."""

    entry: str = ""
    packed: int = 0
    source_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PackPolicy:
    """What a failure means, how many source bytes there may be (0: any number), and the date of the report."""

    on_error: OnError
    max_total_bytes: int
    created: float


class Packer:
    """Packs one ticket. ``items`` that are files stand in ``feed`` in the same order; folders do not.

    Nothing is written before the first file is there, so an archive of which everything fails is an error and no empty
    ZIP.
    """

    def __init__(self, items: Sequence[Item], feed: Feed, write: Write, *, policy: PackPolicy) -> None:
        self._items, self._feed, self._write, self._policy = items, feed, write, policy
        self._zip = ZipWriter()
        self._names = NameRegistry()
        self._pending: list[Piece] = []
        self._pending_bytes = 0
        self._begun = all(item.is_folder for item in items)
        self._written = False
        self.tally = Tally()

    async def run(self) -> Tally:
        """Write the archive from its first byte to its last.

        Raises UpstreamFailed with all reasons when no file can be had or, with ``abort``, a failure comes before the
        first byte; Aborted when the archive has begun and must be cut.
        """
        if self._policy.on_error is OnError.REPORT:
            self._names.file(REPORT_NAME)
        number = 0
        for item in self._items:
            if item.is_folder:
                self._folder(item)
                continue
            await self._file(item, number)
            number += 1
        if number and not self.tally.packed and not self._written:
            raise self._unanswerable("no file of the ticket can be had")
        self._report()
        for piece in self._zip.end():
            self._put([piece])
            await self._flush_full()
        await self._flush()
        return self.tally

    def _folder(self, item: Item) -> None:
        name = self._names.folder(folder_name((item.path or "") + "/" + (item.name or "")))
        if name is not None:
            self._put(self._zip.whole(Entry(name), b""))

    async def _file(self, item: Item, number: int) -> None:
        name = self._names.file(entry_name(item.path or "", item.name or name_from_url(item.url)))
        await self._flush_unless_next(number)
        self.tally.entry = name
        try:
            whole = await self._feed.take(number)
            if whole is None:
                await self._stream(name, number)
            else:
                self._whole(name, whole)
        except SourceError as error:
            self._failed(name, item.url, error)
        else:
            self.tally.packed += 1
            self._begun = True
        await self._flush_full()

    async def _flush_unless_next(self, number: int) -> None:
        """Write what is pending, unless the next file is there, or comes while the loop takes one turn."""
        if self._pending and not self._feed.ready(number):
            await asyncio.sleep(0)
            if not self._feed.ready(number):
                await self._flush()

    def _whole(self, name: str, whole: Whole) -> None:
        self._count(len(whole.data))
        self._put(self._zip.whole(Entry(name, modified=_seconds(whole.info)), whole.data))

    async def _stream(self, name: str, number: int) -> None:
        async with self._feed.stream(number) as reader:
            info = reader.info
            entry = self._zip.begin(Entry(name, size=info.size_bytes, modified=_seconds(info)))
            try:
                async for chunk in reader:
                    self._begun = True
                    self._count(len(chunk))
                    self._put(entry.data(chunk))
                    await self._flush()
                self._put(entry.finish())
            except SourceError:
                self._discard(entry)
                raise

    def _discard(self, entry: OpenEntry) -> None:
        if self._policy.on_error is not OnError.ABORT:
            self._put(entry.discard())

    def _failed(self, name: str, url: str, error: SourceError) -> None:
        failure = Failure.of(error, name=name, url=url)
        self.tally.failures.append(failure)
        if self._policy.on_error is OnError.ABORT:
            if not self._written:
                raise self._unanswerable("a file of the ticket cannot be had") from error
            raise Aborted(f"{name}: {failure.reason}") from error

    def _unanswerable(self, detail: str) -> UpstreamFailed:
        return UpstreamFailed(detail, reasons=[failure.public() for failure in self.tally.failures[:100]])

    def _report(self) -> None:
        if self.tally.failures and self._policy.on_error is OnError.REPORT:
            text = render_report(self.tally.failures, packed=self.tally.packed)
            self._put(self._zip.whole(Entry(REPORT_NAME, modified=int(self._policy.created)), text))

    def _count(self, size: int) -> None:
        self.tally.source_bytes += size
        if 0 < self._policy.max_total_bytes < self.tally.source_bytes:
            raise SourceFailed(f"the archive's limit of {self._policy.max_total_bytes} bytes is reached")

    def _put(self, pieces: Sequence[Piece]) -> None:
        self._pending += pieces
        self._pending_bytes += sum(len(piece) for piece in pieces)

    async def _flush_full(self) -> None:
        if self._pending_bytes >= BATCH_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        if self._pending and self._begun:
            self._written = True
            pieces, self._pending, self._pending_bytes = self._pending, [], 0
            await self._write(pieces)


def _seconds(info: SourceInfo) -> int | None:
    return None if info.modified is None else int(info.modified)
