"""What one process is answering right now, so that drain knows when it is done."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web


class Traffic:
    """Counts running requests over all ports of a process; ``idle`` is set while there is none."""

    def __init__(self) -> None:
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.runners: list[tuple[web.AppRunner, web.SockSite]] = []
        self.sockets: list[socket.socket] = []

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, from its head to the end of its answer."""
        self.active += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()
