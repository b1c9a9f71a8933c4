"""Bodies of calls: small ones in memory and in the row, larger ones on their way into the storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gateway_core import Storage, StorageError, TooLarge
from gateway_core.observe.logs import get_logger
from gateway_core.storage.base import Writer
from gateway_pipe.durable.model import SMALL_BYTES, Stowed
from gateway_pipe.link.model import Body

log = get_logger("gateway.pipe")

PREFIX = "pipe/calls/"
"""All objects of durable calls."""

_PIECE_BYTES = 256 * 1024


def body_key(call_id: str) -> str:
    """What the client sent."""
    return f"{PREFIX}{call_id}/body"


def result_key(call_id: str, token: str) -> str:
    """What one delivery brought: no two write to the same object."""
    return f"{PREFIX}{call_id}/result-{token}"


def call_of(key: str) -> str:
    """Id of the call whose object it is."""
    return key.removeprefix(PREFIX).partition("/")[0]


async def stow(storage: Storage, key: str, body: Body, *, limit_bytes: int, digest: Any = None) -> Stowed:
    """Take all of ``body``, in memory or as the object ``key``, and add it to ``digest``.

    Raises TooLarge beyond the limit, StorageError, and what the body raises; then nothing is kept.
    """
    pieces: list[bytes] = []
    size = 0
    async with AsyncExitStack() as stack:
        writer: Writer | None = None
        async for piece in _pieces(body):
            size += len(piece)
            if size > limit_bytes:
                raise TooLarge(f"more than {limit_bytes} bytes (pipe.max_durable_mb)")
            if digest is not None:
                digest.update(piece)
            pieces.append(piece)
            if size > SMALL_BYTES:
                if writer is None:
                    writer = await stack.enter_async_context(storage.writer(key))
                for kept in pieces:
                    await writer.write(kept)
                pieces.clear()
        if writer is None:
            return Stowed(b"".join(pieces), "", size)
        await writer.commit()
        return Stowed(None, key, size)


@asynccontextmanager
async def opened(storage: Storage, stowed: Stowed) -> AsyncIterator[Body]:
    """The bytes again; raises ObjectMissing, StorageError."""
    if stowed.data is not None:
        yield stowed.data
        return
    async with storage.open(stowed.key) as chunks:
        yield chunks


async def discard(storage: Storage, key: str) -> None:
    """Delete an object, or leave it to the search for orphans; an empty key is none."""
    if not key:
        return
    try:
        await storage.delete(key)
    except StorageError as error:
        log.warning("an object of a durable call could not be deleted", key=key, error=str(error))


async def _pieces(body: Body) -> AsyncIterator[bytes]:
    if not isinstance(body, bytes):
        async for chunk in body:
            yield chunk
        return
    for at in range(0, len(body), _PIECE_BYTES):
        yield body[at : at + _PIECE_BYTES]
