"""The websocket on which a browser waits for its ticket's turn."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSCloseCode, web

from gateway_archive.downloads import Downloads
from gateway_archive.turns import RENEW_S, TOPIC, AlreadyWaiting, Place
from gateway_core.settled import settled

AVAILABLE = Place(0, available=True)


async def wait_for_turn(socket: web.WebSocketResponse, downloads: Downloads, ticket_id: str) -> None:
    """Tell the place at once and on each change; close with reason ``available`` when the download may begin."""
    waiter, last = uuid.uuid4().hex, None
    listening = asyncio.create_task(_until_closed(socket))
    try:
        with downloads.gateway.wakeups.subscribe(TOPIC) as changes:
            while not socket.closed:
                place = await downloads.turns.wait(ticket_id, waiter) if downloads.settings.queue else AVAILABLE
                if place != last:
                    await socket.send_json({"position": place.position, "available": place.available})
                    last = place
                if place.available:
                    await socket.close(message=b"available")
                    return
                await _first_of(changes.wait(RENEW_S), listening)
    except AlreadyWaiting:
        await socket.send_json({"error": "Already waiting"})
        await socket.close(code=WSCloseCode.OK, message=b"already in queue")
    finally:
        listening.cancel()
        await asyncio.wait({listening})
        if downloads.settings.queue:
            await settled(downloads.turns.leave(ticket_id, waiter))


async def _first_of(change: Coroutine[Any, Any, bool], listening: asyncio.Task[None]) -> None:
    changed = asyncio.create_task(change)
    try:
        await asyncio.wait({changed, listening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        changed.cancel()


async def _until_closed(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass
