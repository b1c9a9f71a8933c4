"""Looking into an upload before it is accepted, in a sandbox."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_core.storage.base import Storage
from gateway_transform.box.wire import WireError
from gateway_transform.settings import TransformSettings
from gateway_transform.work.attempt import limits, opened
from gateway_transform.work.believed import scanned_from
from gateway_transform.work.pool import BoxPool, NoBox

_SCAN_S = 90.0


async def scan(
    pool: BoxPool, storage: Storage, key: str, *, settings: TransformSettings, size_bytes: int
) -> dict[str, Any]:
    """What a box says of the stored upload: ``{"error": {...} or null, "fields": {...}}``; raises NoBox."""
    box = await pool.take()
    try:
        async with opened(storage, key, box.folder / "upload") as fd, asyncio.timeout(_SCAN_S):
            await box.channel.send({"type": "scan", "limits": limits(settings, size_bytes)}, [fd])
            message = await box.channel.receive()
        if message is None:
            raise NoBox("the upload could not be looked into")
        return scanned_from(message)
    except (TimeoutError, OSError, WireError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise NoBox("the upload could not be looked into") from error
    finally:
        pool.discard(box)
