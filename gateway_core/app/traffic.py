"""What one process is answering right now, so that drain knows when it is done."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

from gateway_core.observe import metrics


class Traffic:
    """Counts running requests over all ports of a process; ``idle`` is set while there is none.

    After ``drain`` a connection without a request is closed. One with a request is heard to its end: bodies are still
    coming, and what WebSockets say, to which aiohttp is deaf once it was told to close.
    """

    def __init__(self) -> None:
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.runners: list[tuple[web.AppRunner, web.SockSite]] = []
        self.sockets: list[socket.socket] = []
        self._busy: set[web.RequestHandler] = set()
        self._draining = False

    def begin(self, connection: web.RequestHandler) -> None:
        """A request's head was read."""
        self._busy.add(connection)
        self.active += 1
        self.idle.clear()
        metrics.IN_PROGRESS.inc()

    def end(self, connection: web.RequestHandler) -> None:
        """Its answer has ended, however."""
        self._busy.discard(connection)
        if self._draining:
            connection.close()
        metrics.IN_PROGRESS.dec()
        self.active -= 1
        if not self.active:
            self.idle.set()

    def drain(self) -> None:
        """Have every connection closed as soon as it has no request."""
        self._draining = True
        for runner, _site in self.runners:
            for connection in runner.server.connections if runner.server is not None else ():
                if connection not in self._busy:
                    connection.close()
