"""A server that is farther away: passes bytes on to a port of this machine, those of requests after a delay."""

from __future__ import annotations

import asyncio
import sys
from typing import cast


class Answering(asyncio.Protocol):
    """The connection to the server behind; its bytes go to the client at once."""

    def __init__(self, client: asyncio.Transport) -> None:
        self.client = client

    def data_received(self, data: bytes) -> None:
        self.client.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.client.close()


class Asking(asyncio.Protocol):
    """The client's connection; a request's bytes are on their way for ``delay_s``."""

    def __init__(self, server: tuple[str, int], delay_s: float) -> None:
        self.server, self.delay_s = server, delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self.behind = loop.create_task(loop.create_connection(lambda: Answering(client), *self.server))

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay_s, self._pass_on, data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.behind.add_done_callback(lambda behind: behind.cancelled() or behind.result()[0].close())

    def _pass_on(self, data: bytes) -> None:
        self.behind.add_done_callback(lambda behind: behind.result()[0].write(data))


async def main(port: int, behind: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Asking(("127.0.0.1", behind), delay_s), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
