"""Many files in a row, hashed some steps ahead of whoever reads their checksums."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from gateway_blocks.files.root import OpenFile
from gateway_blocks.files.walk import walk_in_threads
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.service import Service
from gateway_core import Forbidden, NotFound

_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a folder: its names from the root down, and what is known of it."""

    names: tuple[str, ...]
    record: Record


async def listed(
    service: Service, names: tuple[str, ...], *, client: str, whole: bool, recursive: bool
) -> AsyncGenerator[Listed, None]:
    """The files of a folder in order; each is asked for while those before it are being told.

    With ``whole`` their whole digests are asked for as well. Files that cannot be read are left out, as a listing
    leaves them out. Raises NotFound when there is no such folder.
    """
    waiting: deque[Listed] = deque()
    async for found, _ in walk_in_threads(service.root, names, recursive=recursive):
        record = await _record(service, found)
        if record is None:
            continue
        service.catalogue.ask(record, client, whole=whole)
        waiting.append(Listed(found, record))
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


async def _record(service: Service, names: tuple[str, ...]) -> Record | None:
    try:
        found = service.root.open_cached(names)
        if found is None:
            found = await asyncio.to_thread(service.root.open, names)
    except (NotFound, Forbidden):
        return None
    with found:
        return await service.catalogue.find(found) if isinstance(found, OpenFile) else None
