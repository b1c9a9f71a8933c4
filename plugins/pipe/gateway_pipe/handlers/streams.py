"""Answers that come piece by piece: iterators, files and asynchronous iterators that a method returned."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from gateway_core.observe.logs import get_logger
from gateway_pipe.handlers.results import BINARY, BadResult, Result, as_text
from gateway_pipe.handlers.threads import Threads
from gateway_pipe.link.model import Head

log = get_logger("gateway.pipe")
_FILE_PIECE_BYTES = 64 * 1024
_TEXT = "text/plain; charset=utf-8"
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs something in a thread of the call, and waits for it."""


class Pieces(Protocol):
    """Where an answer comes from."""

    async def next(self) -> Any:
        """The next piece that is not empty, None at the end."""

    async def close(self) -> asyncio.Future[None] | None:
        """Take no more; the future of a thread that still closes it."""


def pieces_of(data: Any, in_thread: InThread, threads: Threads) -> Pieces | None:
    """None for data that is no stream."""
    if hasattr(data, "__aiter__"):
        return _Coming(data)
    if hasattr(data, "__next__") or callable(getattr(data, "read", None)):
        return _Pulled(data, in_thread, threads)
    return None


class Stream:
    """The answer's body, from its second piece on what ``pieces`` gives. What they raise breaks it."""

    def __init__(self, result: Result, first: Any, pieces: Pieces) -> None:
        default = _TEXT if isinstance(first, str) else BINARY
        self._type = result.media_type or default
        if isinstance(first, str) and self._type.lower().startswith("text/") and "charset" not in self._type.lower():
            self._type += "; charset=utf-8"
        self._next = None if first is None else self._bytes(first)
        self._pieces = pieces
        self.head: Head = result.head(self._type)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._next = self._next, None
        if data is None:
            try:
                piece = await self._pieces.next()
            except SystemExit as exc:  # it would end this whole process, and not only the answer
                raise BadResult("the stream wants the process to end") from exc
            if piece is None:
                raise StopAsyncIteration
            data = self._bytes(piece)
        return data

    def _bytes(self, piece: Any) -> bytes:
        if isinstance(piece, bytes):
            return piece
        if isinstance(piece, str):
            return as_text(self._type, piece)
        if isinstance(piece, bytearray | memoryview):
            return bytes(piece)
        raise BadResult(f"a stream has pieces of bytes or text, not {type(piece).__name__}")


class _Coming:
    """An asynchronous iterator's."""

    def __init__(self, data: Any) -> None:
        self._iterator = aiter(data)

    async def next(self) -> Any:
        async for piece in self._iterator:
            if not _empty(piece):
                return piece
        return None

    async def close(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            try:
                await close()
            except Exception:
                log.exception("a handler's stream could not be closed")


class _Pulled:
    """An iterator's or a file's, read in threads by one of them at a time."""

    def __init__(self, data: Any, in_thread: InThread, threads: Threads) -> None:
        self._data = data
        self._read = getattr(data, "read", None)
        self._in_thread = in_thread
        self._threads = threads
        self._turn = threading.Lock()

    async def next(self) -> Any:
        return await self._in_thread(self._pull)

    async def close(self) -> asyncio.Future[None]:
        return self._threads.submit(self._close)

    def _pull(self) -> Any:
        with self._turn:
            if self._read is not None:
                return self._read(_FILE_PIECE_BYTES) or None
            return next((piece for piece in self._data if not _empty(piece)), None)

    def _close(self) -> None:
        close = getattr(self._data, "close", None)
        if close is None:
            return
        with self._turn:
            try:
                close()
            except Exception:
                log.exception("a handler's stream could not be closed")


def _empty(piece: Any) -> bool:
    return isinstance(piece, str | bytes | bytearray) and not piece
