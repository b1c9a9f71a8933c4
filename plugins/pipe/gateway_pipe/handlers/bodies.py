"""A request's body as a method gets it: ``(mimetype, data)``, whole and decoded, or as it comes.

``mimetype`` is the Content-Type without parameters, in lower case, empty where there is none. JSON that is empty is
None. What cannot be decoded is the caller's error: 400, and the link goes on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from json.scanner import py_make_scanner  # type: ignore[attr-defined]  # the stubs leave it out
from typing import Any

from gateway_core.errors import BadRequest, TooLarge
from gateway_pipe.link.model import Incoming

SMALL_BYTES = 256 * 1024
"""What the link may hold of a request anyway, and what is decoded without a thread."""
_LARGE_JSON_BYTES = 1024 * 1024

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s;"]+)', re.IGNORECASE)


def mimetype_of(content_type: str) -> str:
    """``text/plain`` of ``Text/Plain; charset=utf-8``."""
    return content_type.partition(";")[0].strip().lower()


def charset_of(content_type: str) -> str:
    """The charset it names, empty where it does not."""
    found = _CHARSET.search(content_type)
    return found[1] if found else ""


def is_json(mimetype: str) -> bool:
    """Whether data of that type is JSON (RFC 6839 3.1)."""
    return mimetype == "application/json" or mimetype.endswith("+json")


def decoded(content_type: str, data: bytes) -> Any:
    """``data`` as a method gets it; raises BadRequest."""
    mimetype, charset = mimetype_of(content_type), charset_of(content_type)
    try:
        if is_json(mimetype):
            text = data.decode(charset) if charset else data
            cls = _Patient if len(data) > _LARGE_JSON_BYTES else None
            return json.loads(text, cls=cls) if data else None
        return data.decode(charset or "utf-8") if mimetype.startswith("text/") else data
    except (ValueError, LookupError, RecursionError) as exc:
        raise BadRequest(f"the body is not what its Content-Type says ({content_type}): {exc}") from exc


class _Patient(json.JSONDecoder):
    """Lets other threads go on meanwhile, which the decoder in C does not; it takes some times as long."""

    def __init__(self) -> None:
        super().__init__()
        self.scan_once = py_make_scanner(self)


async def whole(incoming: Incoming, *, limit_bytes: int, room: asyncio.Semaphore, holding: AsyncExitStack) -> bytes:
    """The body; one that is larger than ``SMALL_BYTES`` waits for ``room``, which ``holding`` gives back.

    Raises TooLarge beyond the limit, and what reading raises.
    """
    pieces, size = [], 0
    async for piece in incoming:
        if size <= SMALL_BYTES < size + len(piece):
            await holding.enter_async_context(room)
        size += len(piece)
        if size > limit_bytes:
            raise TooLarge(f"the body has more than {limit_bytes} bytes; a streaming method would take it")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class BodyFile(io.RawIOBase):
    """A body for a thread, which waits for the event loop; buffer it to read. Reading raises OSError when it breaks."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")
        self._task: asyncio.Task[bytes] | None = None
        self._left = False

    def readable(self) -> bool:
        """It is for nothing else."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """See RawIOBase. Not for the loop's own thread."""
        if not self._rest:
            try:
                self._rest = memoryview(asyncio.run_coroutine_threadsafe(self._next(), self._loop).result())
            except concurrent.futures.CancelledError as exc:
                raise ConnectionAbortedError("the caller has given up") from exc
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def leave(self) -> None:
        """Let a thread that waits, or will, come back with an error. For the loop's thread."""
        self._left = True
        if self._task is not None:
            self._task.cancel()

    async def _next(self) -> bytes:
        if self._left:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        try:
            return await anext(self._chunks, b"")
        finally:
            self._task = None
