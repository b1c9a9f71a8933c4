"""What one process is answering right now, so that drain knows when it is done."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from gateway_core.observe import metrics


class Traffic:
    """Counts running requests over all ports of a process; ``idle`` is set while there is none."""

    def __init__(self) -> None:
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.runners: list[tuple[web.AppRunner, web.SockSite]] = []
        self.sockets: list[socket.socket] = []

    def begin(self) -> None:
        """A request's head was read."""
        self.active += 1
        self.idle.clear()
        metrics.IN_PROGRESS.inc()

    def end(self) -> None:
        """Its answer has ended, however."""
        metrics.IN_PROGRESS.dec()
        self.active -= 1
        if not self.active:
            self.idle.set()
