"""Where the bytes go: a file that can be gone on with, or standard output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Protocol

from gateway_archive.client.model import ClientError, DiskFailed, Version
from gateway_archive.client.part import RECORD_SUFFIX, Part, Record, Wanted, free_names, read_record
from gateway_archive.client.talk import Head


class Sink(Protocol):
    """Takes the bytes of one version of one ticket's archive, in order; may hold the first of them from before."""

    @property
    def done_bytes(self) -> int:
        """How many there are."""

    @property
    def version(self) -> Version | None:
        """Of which they are."""

    def begin(self, ticket: str, head: Head) -> None:
        """Bytes of another version come, from the first one on."""

    def forget(self) -> None:
        """What is there is of no use."""

    def write(self, piece: bytes) -> None:
        """The next bytes."""

    def finish(self) -> None:
        """That was all."""


class FileSink:
    """A part file; without ``part``, one that is named as the server says, in ``folder``, when the bytes begin."""

    def __init__(self, folder: Path, part: Part | None, wanted: Wanted) -> None:
        self._folder = folder
        self._wanted = wanted
        self.part = part

    @property
    def done_bytes(self) -> int:
        """See Sink."""
        return 0 if self.part is None else self.part.done_bytes

    @property
    def version(self) -> Version | None:
        """See Sink."""
        return None if self.part is None else self.part.version

    @property
    def ticket(self) -> str | None:
        """The ticket whose bytes are there."""
        return None if self.part is None or self.part.record is None else self.part.record.ticket

    def begin(self, ticket: str, head: Head) -> None:
        """See Sink."""
        if self.part is None:
            self.part = _new_part(self._folder / head.name)
        wanted, version = self._wanted, head.version
        record = Record(wanted.fingerprint, wanted.server, ticket, wanted.format, head.kind)
        self.part.begin(replace(record, etag=version.etag, total_bytes=version.total_bytes))

    def forget(self) -> None:
        """See Sink."""
        if self.part is not None:
            self.part.forget()

    def write(self, piece: bytes) -> None:
        """See Sink."""
        assert self.part is not None
        self.part.write(piece)

    def finish(self) -> None:
        """See Sink."""
        assert self.part is not None
        self.part.finish()

    def close(self) -> None:
        """Let go of the part file."""
        if self.part is not None:
            self.part.close()


class StreamSink:
    """Standard output, not buffered: what is out cannot be taken back."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.done_bytes = 0
        self.version: Version | None = None

    def begin(self, _ticket: str, head: Head) -> None:
        """See Sink; raises ClientError where bytes are out already."""
        if self.done_bytes:
            raise ClientError("it broke off, and what standard output has got cannot be gone on with")
        self.version = head.version

    def forget(self) -> None:
        """See Sink; raises ClientError where bytes are out already."""
        if self.done_bytes:
            raise ClientError("the server goes on with other bytes, and standard output cannot begin again")

    def write(self, piece: bytes) -> None:
        """See Sink."""
        view = memoryview(piece)
        with output_errors():
            while view:
                view = view[self._out.write(view) :]
        self.done_bytes += len(piece)

    def finish(self) -> None:
        """See Sink."""
        with output_errors():
            self._out.flush()


def find_part(folder: Path, wanted: Wanted) -> Part | None:
    """What an earlier call left in ``folder`` of that."""
    for path in sorted(folder.glob(f"*{RECORD_SUFFIX}")):
        record = read_record(path)
        if record is not None and wanted.fits(record):
            return Part(path.with_name(path.name.removesuffix(RECORD_SUFFIX)))
    return None


def _new_part(target: Path) -> Part:
    """For the first name like ``target`` that neither a file nor a part file has."""
    for path in free_names(target):
        try:
            return Part(path, new=True)
        except FileExistsError:
            continue
    raise AssertionError


@contextmanager
def output_errors() -> Iterator[None]:
    """Tell an OSError of standard output as DiskFailed."""
    try:
        yield
    except OSError as exc:
        raise DiskFailed(f"standard output: {(exc.strerror or str(exc)).lower()}") from exc
