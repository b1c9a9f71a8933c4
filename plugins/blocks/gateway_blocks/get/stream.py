"""A file as a stream: its bytes in order, none of them before its block is proven, many blocks on their way at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import BinaryIO

from gateway_blocks.get.board import BlockMap, Board
from gateway_blocks.get.gather import each_version, fetch_plain, fetch_proven
from gateway_blocks.get.mirrors import Found
from gateway_blocks.get.model import Checked, Control, Options, Stopped, Summary, Unreachable
from gateway_blocks.get.outlet import MEMORY_BYTES, OrderedSink, Outlet, OutputFailed, Sent
from gateway_blocks.get.plain import plain_map
from gateway_blocks.get.remote import NoRanges, PlainFacts, RemoteMap
from gateway_blocks.get.session import Session
from gateway_blocks.get.urls import file_name, parse_url
from gateway_blocks.get.watch import learn_more
from gateway_blocks.get.whole import Whole

_GLANCE_S = 0.1


def stream_file(url: str, target: BinaryIO, options: Options, *, control: Control) -> Summary:
    """See ``api.stream``."""
    url = parse_url(url)
    session = Session(url, file_name(url), options, control=control)
    return each_version(session, _Stream(session, Outlet(target)).attempt, proven=False)


class _Stream:
    """A file on its way out, over perhaps several versions that begin alike."""

    def __init__(self, session: Session, outlet: Outlet) -> None:
        self._session = session
        self._outlet = outlet
        self._sent = Sent()

    def attempt(self, found: Found) -> Summary:
        """Go on with what was found; raises VersionChanged, OutputFailed where what has left is of another version."""
        if found.map is not None:
            self._compare(found.map)
            self._through(found, found.map, proven=True)
            return self._session.finished(None, found.map.size_bytes, Checked.BLOCKS)
        assert found.facts is not None
        if self._sent.size_bytes:
            raise _mixed(self._sent)
        block_map = plain_map(found.facts)
        if block_map is None:
            self._in_one(found.url, found.facts)
        else:
            try:
                self._through(found, block_map, proven=False)
            except NoRanges:
                if self._sent.size_bytes:
                    raise
                self._in_one(found.url, found.facts)
        return self._session.finished(None, self._sent.size_bytes, Checked.NONE)

    def _compare(self, block_map: RemoteMap) -> None:
        """Only a version that begins with what has left can be gone on with."""
        if not self._sent.count:
            return
        if block_map.block_bytes != self._sent.block_bytes or block_map.size_bytes < self._sent.size_bytes:
            raise _mixed(self._sent)
        with self._session.client() as client:
            for index, digest in enumerate(self._sent.digests):
                while block_map.digest(index) is None:
                    learn_more(self._session, client, block_map)
                if block_map.digest(index) != digest:
                    raise _mixed(self._sent)

    def _through(self, found: Found, block_map: BlockMap, *, proven: bool) -> None:
        options = self._session.options
        jobs = max(1, options.jobs)
        run_bytes = min(options.run_bytes, MEMORY_BYTES // (jobs + 1))
        board = Board(block_map, proven=proven, run_bytes=run_bytes, jobs=jobs)
        for index, digest in enumerate(self._sent.digests):
            board.hold(index, digest)
        self._session.started(block_map.size_bytes, self._sent.size_bytes)
        sink = OrderedSink(self._outlet, block_map, self._sent, reach=board.reach)
        try:
            fetch = fetch_proven if proven else fetch_plain
            fetch(self._session, found, board, sink=sink)
            if not sink.finish(self._session.stop):
                raise Stopped("stopped")
        finally:
            sink.close(self._session.stop)

    def _in_one(self, url: str, facts: PlainFacts) -> None:
        """What has left cannot be taken back, so that only a first try that brought nothing is tried again."""
        self._session.started(facts.size_bytes or 0, 0)

        def write(piece: memoryview) -> None:
            self._outlet.write(piece)
            self._sent.size_bytes += len(piece)

        with self._session.client() as client:
            whole = Whole(self._session, client)

            def once() -> None:
                try:
                    whole.pass_on(url, facts.version, write)
                except Unreachable as error:
                    if not self._sent.size_bytes:
                        raise
                    raise OutputFailed(f"{error}; what was written already cannot be taken back") from error

            _aside(lambda: self._session.insist(once), self._session.stop)


def _aside(function: Callable[[], None], stop: threading.Event) -> None:
    """Run it in a thread that may be left behind in a write nobody takes; raises as it does, Stopped at the stop."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=run, name="output", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(_GLANCE_S)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise Stopped("stopped")


def _mixed(sent: Sent) -> OutputFailed:
    return OutputFailed(f"the file changed on the server after {sent.size_bytes} bytes of it had been written")
