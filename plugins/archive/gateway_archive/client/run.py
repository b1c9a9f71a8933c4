"""What ``gateway archive`` does once its options are read: a ticket, its download, the check, the file's name."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from gateway_archive.client.download import Download
from gateway_archive.client.model import (
    ClientError,
    Damaged,
    DiskFailed,
    Order,
    TicketGone,
    count_text,
    size_text,
    span_text,
)
from gateway_archive.client.part import Part, Record, Wanted
from gateway_archive.client.patience import TRIES, Again, Patience
from gateway_archive.client.progress import Quiet, display
from gateway_archive.client.sinks import FileSink, StreamSink, find_part, output_errors
from gateway_archive.client.talk import make_ticket
from gateway_archive.client.verify import Content, verify
from gateway_archive.report import REPORT_NAME
from gateway_core.cli.remote import Remote
from gateway_core.cli.signals import Stopped, stopped_by_signals
from gateway_core.errors import GatewayError

OK, SOME_MISSING = 0, 3
_MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class Call:
    """Everything that one call of the command has to do.

    ``target`` is the file to write, or with ``into`` the folder of one that the server names; None is standard output.
    """

    remote: Remote
    order: Order
    target: Path | None
    into: bool = False
    tries: int = TRIES
    quiet: bool = False
    as_json: bool = False


@dataclass
class Summary:
    """How it ended, as ``--json`` tells it; sizes in bytes."""

    file: str | None = None
    ticket: str | None = None
    size: int | None = None
    files: int | None = None
    checked: bool = False
    missing_count: int = 0
    missing: list[dict[str, str]] = field(default_factory=list)
    fetched: int = 0
    resumed: int = 0
    seconds: float = 0.0
    error: str | None = None


def carry_out(call: Call) -> int:
    """Do it; returns the exit code. Raises ConfigError for an order that is refused, ClientError when it failed.

    SIGINT and SIGTERM keep what has come and end with 128 and the signal's number.
    """
    told = sys.stderr or io.StringIO()  # None where whoever started us has closed it
    shown = display(told, quiet=call.quiet, alone=call.target is not None or not sys.stdout.isatty())
    run = _Run(call, shown)
    try:
        with stopped_by_signals():
            code = run.all()
    except Stopped as stopped:
        run.summary.error = "stopped"
        shown.complain(run.what_is_left("stopped"))
        code = stopped.exit_code
    except GatewayError as exc:
        run.summary.error = exc.detail or exc.title
        for line in _first(exc.lines if isinstance(exc, ClientError) else ()):
            shown.complain(line)
        if run.done_bytes and not isinstance(exc, TicketGone):
            shown.complain(run.what_is_left("failed"))
        with suppress(DiskFailed):
            _tell_json(call, run.summary)
        raise
    finally:
        shown.close()
    _tell_json(call, run.summary)
    return code


class _Run:
    """One archive from its ticket to its file."""

    def __init__(self, call: Call, shown: Quiet) -> None:
        self._call = call
        self._order = call.order
        self._shown = shown
        server, order = call.remote.url, call.order
        self._wanted = Wanted(order.fingerprint(server), server, order.format, order.ticket)
        self._patience = Patience(call.tries, shown, call.remote.url)
        self._download = Download(call.remote, call.order, observer=shown, patience=self._patience)
        self._began = time.monotonic()
        self._part: Part | None = None
        self._size_bytes = 0
        self.summary = Summary()

    @property
    def done_bytes(self) -> int:
        """Bytes in a part file that can be gone on with."""
        part = self._part
        if part is None or part.version is None:
            return 0
        return part.done_bytes if part.version.etag is not None or part.complete else 0

    def all(self) -> int:
        """Returns the exit code."""
        if self._call.target is None:
            return self._to_output()
        with closing(FileSink(self._folder, self._earlier(), self._wanted)) as sink:
            self._part = sink.part
            if self._part is None or not self._part.complete:
                self._fetch(sink)
            part = self._part = sink.part
            assert part is not None
            assert part.record is not None
            self.summary.ticket = part.record.ticket
            content = self._verified(part, part.record)
            self._size_bytes = part.done_bytes
            path = part.publish(overwrite=not self._call.into)
            self._part = None
            return self._tell(path, content)

    def what_is_left(self, why: str) -> str:
        """What can be done after it ``why``: stopped, failed."""
        if not self.done_bytes or self._part is None:
            return why
        total = self._part.version.total_bytes if self._part.version else None
        whole = "" if total is None else f" of {size_text(total)}"
        return (
            f"{why}: {size_text(self.done_bytes)}{whole} are in {self._part.path}; the same command goes on from there"
        )

    @property
    def _folder(self) -> Path:
        assert self._call.target is not None
        return self._call.target if self._call.into else self._call.target.parent

    def _earlier(self) -> Part | None:
        """The part file to go on with or, where the file's name is given, to begin."""
        if self._call.into:
            return find_part(self._folder, self._wanted)
        assert self._call.target is not None
        part = Part(self._call.target)
        if part.record is not None and not self._wanted.fits(part.record):
            self._shown.tell(f"{part.path} is of another order; from the start")
            part.disown()
        return part

    def _fetch(self, sink: FileSink) -> None:
        """All of the ticket's archive into ``sink``: of the ticket given, of an earlier call's, or of a new one."""
        earlier = self._order.ticket or sink.ticket
        if sink.done_bytes:
            self._shown.tell(f"going on after {size_text(sink.done_bytes)}")
        self.summary.ticket = ticket = earlier or self._make()
        try:
            try:
                self._download.run(ticket, sink)
            except TicketGone:
                if earlier is None or self._order.ticket is not None:
                    raise
                self._shown.tell("the ticket of the earlier call has expired; with a new one from the start")
                sink.forget()  # an ETag says nothing about another ticket
                self.summary.ticket = ticket = self._make()
                self._download.run(ticket, sink)
        finally:
            self._part = sink.part
            self.summary.fetched, self.summary.resumed = self._download.fetched_bytes, self._download.resumed

    def _make(self) -> str:
        while True:
            try:
                with self._patience.asking():
                    made = make_ticket(self._call.remote, self._order)
                    break
            except Again as exc:
                self._patience.wait(exc)
        self._patience.progressed()
        for warning in made.warnings:
            self._shown.tell(f"the server does not understand {warning}")
        return made.ticket

    def _verified(self, part: Part, record: Record) -> Content:
        try:
            return verify(part.path, record.kind, self._shown, ours=self._order.ticket is None)
        except Damaged as exc:
            part.forget()
            raise Damaged(f"the archive came damaged ({exc.detail}); the same command begins anew") from exc

    def _to_output(self) -> int:
        out = sys.stdout.buffer
        sink = StreamSink(getattr(out, "raw", out))
        self.summary.ticket = ticket = self._order.ticket or self._make()
        try:
            self._download.run(ticket, sink)
        finally:
            self.summary.fetched, self.summary.resumed = self._download.fetched_bytes, self._download.resumed
        self._size_bytes = sink.done_bytes
        return self._tell(None, Content(None))

    def _tell(self, path: Path | None, content: Content) -> int:
        """Say how it ended; returns the exit code."""
        summary, name = self.summary, "standard output" if path is None else str(path)
        seconds = time.monotonic() - self._began
        expected = len(self._order.items) if content.files is not None else 0
        missing = max(content.missing_count, expected - (content.files or 0))
        summary.file = None if path is None else name
        summary.size, summary.files, summary.checked = self._size_bytes, content.files, content.checked
        summary.missing_count, summary.missing = missing, [asdict(one) for one in content.missing]
        summary.seconds = round(seconds, 3)
        for line in _first([f"missing: {one.name}: {one.reason}" for one in content.missing]):
            self._shown.complain(line)
        self._shown.tell(f"{name}: {', '.join(self._words(content, seconds))}")
        if not missing:
            return OK
        where = f"; {REPORT_NAME} in it says why" if content.missing_count else ""
        self._shown.complain(f"{name}: {count_text(missing, 'file')} missing{where}")
        return SOME_MISSING

    def _words(self, content: Content, seconds: float) -> list[str]:
        words = [size_text(self._size_bytes)]
        if content.files is not None:
            proof = "every checksum holds" if content.checked else "complete"
            words.append(f"{count_text(content.files, 'file')}, {proof}")
        fetched = self._download.fetched_bytes
        if fetched and seconds > 0:
            words.append(f"fetched at {size_text(round(fetched / seconds))}/s")
        if self._download.resumed:
            words.append(f"went on after {count_text(self._download.resumed, 'break')}")
        return [*words, f"took {span_text(seconds)}"]


def _first(lines: tuple[str, ...] | list[str]) -> Iterator[str]:
    yield from lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        yield f"... and {len(lines) - _MOST_LINES} more"


def _tell_json(call: Call, summary: Summary) -> None:
    if call.as_json:
        with output_errors():
            click.echo(json.dumps(asdict(summary)))
