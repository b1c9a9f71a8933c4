"""Files out of a single answer: from servers that send no ranges, or tell nothing to hold two ranges together by."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from gateway_blocks.get.board import Board, length_of
from gateway_blocks.get.connection import Answer, HttpClient
from gateway_blocks.get.fetch import Sink
from gateway_blocks.get.mirrors import Source
from gateway_blocks.get.model import Stopped, Unreachable
from gateway_blocks.get.remote import Version, fetch_whole
from gateway_blocks.get.session import Session

_PIECE_BYTES = 256 << 10


class Whole:
    """Reads whole answers in one thread."""

    def __init__(self, session: Session, client: HttpClient) -> None:
        self._session, self._client = session, client
        self._buffer = memoryview(bytearray(min(_PIECE_BYTES, session.limit.piece_bytes)))

    def pass_on(self, url: str, version: Version, write: Callable[[memoryview], None]) -> None:
        """Give all bytes to ``write`` as they come; raises as ``fetch_whole`` does."""
        with fetch_whole(self._client, url, version=version) as answer:
            while piece := self._receive(answer, len(self._buffer)):
                write(piece)
                self._session.passed(len(piece))

    def prove(self, source: Source, board: Board, sink: Sink) -> None:
        """Read the file until every block of the board was there once; all checksums must be known.

        Raises Unreachable after too many tries, VersionChanged, NotThere.
        """
        row = 0
        while not board.finished:
            began, before = time.monotonic(), board.left
            try:
                self._pass(source, board, sink)
            except Unreachable as error:
                row = 1 if board.left < before else row + 1
                if self._session.stop.wait(self._session.retry_wait_s(error, began, row)):
                    raise Stopped("stopped") from error

    def _pass(self, source: Source, board: Board, sink: Sink) -> None:
        with fetch_whole(self._client, source.url, version=source.version()) as answer:
            for index in range(board.map.count):
                start, last = board.map.span(index)
                needed = not board.is_done(index)
                hasher = hashlib.sha1(usedforsecurity=False)
                while start <= last:
                    piece = self._receive(answer, last + 1 - start)
                    if not piece:
                        raise Unreachable(f"{source.host} ended the file early")
                    if needed:
                        hasher.update(piece)
                        sink.write(start, piece)
                    start += len(piece)
                if needed:
                    self._settle(source, board, sink, index=index, digest=hasher.digest())

    def _settle(self, source: Source, board: Board, sink: Sink, *, index: int, digest: bytes) -> None:
        if digest != board.map.digest(index):
            self._session.came_damaged(index)
            raise Unreachable(f"block {index} came damaged from {source.host}")
        sink.keep(index, digest)
        board.hold(index, digest)
        self._session.gained(length_of(board.map, index), fetched=True)

    def _receive(self, answer: Answer, most: int) -> memoryview:
        """Up to ``most`` bytes, none at the end."""
        got = answer.readinto(self._buffer[:most])
        self._session.limit.take(got, self._session.stop)
        return self._buffer[:got]
