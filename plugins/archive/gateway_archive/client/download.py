"""One ticket's archive into a sink, over connections that break, without ever mixing two versions."""

from __future__ import annotations

from http.client import HTTPResponse

from gateway_archive.client.line import Request, exchanged
from gateway_archive.client.model import ClientError, Observer, Order, Version
from gateway_archive.client.patience import Again, Patience
from gateway_archive.client.sinks import Sink
from gateway_archive.client.talk import Head, check, download_path, read_head
from gateway_core.cli.remote import Remote

_PIECE_BYTES = 256 << 10


class Download:
    """The download of one ticket; ``resumed`` counts how often it went on in the middle."""

    def __init__(self, remote: Remote, order: Order, *, observer: Observer, patience: Patience) -> None:
        self._remote = Remote(remote.url)  # the ticket's id is the right to download
        self._order = order
        self._observer = observer
        self._patience = patience
        self._most_bytes = 0
        self.resumed = 0
        self.fetched_bytes = 0
        self.kind = ""

    def run(self, ticket: str, sink: Sink) -> None:
        """Until all is there and on the disk.

        Raises Unreachable when it breaks too often without getting further, TicketGone, and what the sink raises.
        """
        self._most_bytes = sink.done_bytes
        while True:
            try:
                with self._patience.asking():
                    self._attempt(ticket, sink)
            except Again as exc:
                self._patience.wait(exc)
            except ClientError as exc:
                # The server's word about its sources: final for a start, but what has come is worth more tries.
                if not (exc.lines and sink.done_bytes):
                    raise
                self._patience.wait(Again(exc.detail))
            else:
                break
        sink.finish()

    def _attempt(self, ticket: str, sink: Sink) -> None:
        version, done_bytes = sink.version, sink.done_bytes
        headers: dict[str, str] = {}
        asked = None
        if done_bytes and version is not None and version.etag is not None:
            asked = version
            headers = {"Range": f"bytes={done_bytes}-", "If-Range": version.etag}
        with exchanged(self._remote, Request("GET", download_path(ticket, self._order), headers)) as answer:
            if answer.status == 416:
                sink.forget()
                raise Again("the server has fewer bytes than have come; from the start")
            check(answer, fine=(200, 206))
            head = read_head(answer)
            self.kind = head.kind
            if answer.status == 206:
                self._go_on(head, asked, sink)
            else:
                if done_bytes:
                    self._observer.tell(_why_anew(asked, head))
                sink.begin(ticket, head)
            self._observer.begin("downloading", sink.done_bytes, head.version.total_bytes)
            self._take(answer, head, sink)

    def _go_on(self, head: Head, asked: Version | None, sink: Sink) -> None:
        """The bytes after those that are there come; raises Again, with nothing kept, for any others."""
        same_tag = asked is not None and head.version.etag in {None, asked.etag}
        same_size = asked is not None and head.version.total_bytes == asked.total_bytes
        if not (same_tag and same_size and head.start == sink.done_bytes):
            sink.forget()
            raise Again("the server sent other bytes than asked for; from the start")
        self.resumed += 1

    def _take(self, answer: HTTPResponse, head: Head, sink: Sink) -> None:
        left = head.count
        while left is None or left > 0:
            piece = answer.read1(_PIECE_BYTES if left is None else min(_PIECE_BYTES, left))
            if not piece:
                break
            sink.write(piece)
            self.fetched_bytes += len(piece)
            self._observer.advance(len(piece))
            left = None if left is None else left - len(piece)
            if sink.done_bytes > self._most_bytes:
                self._most_bytes = sink.done_bytes
                self._patience.progressed()
        total = head.version.total_bytes
        if total is not None and sink.done_bytes < total:
            raise Again("the connection broke off")


def _why_anew(asked: Version | None, head: Head) -> str:
    if asked is None:
        return "the server named no version of what had come; from the start"
    if head.version.etag != asked.etag:
        return "the archive has changed on the server; from the start"
    return "the server does not go on in the middle; from the start"
