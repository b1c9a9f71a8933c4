"""Work that a cancellation must not leave half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def settled(work: Awaitable[T], *, hurry: Callable[[], object] | None = None) -> T:
    """Await ``work`` to its end; a cancellation meanwhile is raised afterwards, once ``hurry`` was called and it ended.

    A handler is cancelled when its client closes the connection, and many do that the moment they have the last byte:
    what then remains to be written down would never be. And a thread goes on whoever is cancelled: what it uses must
    outlive it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as cancelled:
        if hurry is not None:
            hurry()
        await asyncio.wait({task})
        raise cancelled from task.exception()
