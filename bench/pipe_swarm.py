"""Many nodes in one process, over mutual TLS: ``idle`` links that only beat, or ``nodes`` that come back by themselves.

Says on its output, line by line as JSON, how many are connected, and how many tries failed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from asyncio import sslproto
from pathlib import Path

from gateway_pipe.identity.urls import gateway_url
from gateway_pipe.link.handshake import greet
from gateway_pipe.link.model import MAX_MESSAGE_BYTES, SUBPROTOCOL, Head, Hello, Incoming
from gateway_pipe.link.session import Link
from gateway_pipe.node.dialer import Dialer
from gateway_pipe.wires.websocket import client_wire

AT_ONCE = 32
_READ_BYTES = 16 * 1024


async def serve(incoming: Incoming) -> None:
    await incoming.answer(Head(), b"{}")


class Swarm:
    """Nodes called n0, n1, ... with the certificates of ``folder``: each file has many names."""

    def __init__(self, url: str, folder: Path, count: int) -> None:
        self.url = url
        self.count = count
        self.up = 0
        self.failed = 0
        self.links: set[Link] = set()
        self.contexts = [context(folder, pem) for pem in sorted(folder.glob("nodes-*.pem"))]
        self.per_context = -(-count // len(self.contexts))

    async def connect(self, number: int, session: object, ready: asyncio.Event) -> None:
        """One link until it ends; ``ready`` is set when it is there."""
        name = f"n{number}"
        socket = await session.ws_connect(  # type: ignore[attr-defined]
            f"{self.url}/pipe/link/{name}",
            ssl=self.contexts[number // self.per_context],
            protocols=[SUBPROTOCOL],
            compress=0,
            autoping=False,
            max_msg_size=MAX_MESSAGE_BYTES,
        )
        wire = client_wire(socket)
        said = await greet(wire, Hello(name=name, instance="swarm"), timeout_s=60)
        link = Link(wire, opens="node", serve=serve, peer=said, ping_s=said.ping_s)
        self.links.add(link)
        self.up += 1
        ready.set()
        try:
            await link.run()
        finally:
            self.up -= 1
            self.links.discard(link)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            for link in list(self.links):
                link.tick(now)

    async def tell(self) -> None:
        while True:
            print(json.dumps({"up": self.up, "failed": self.failed, "at": time.time()}), flush=True)
            await asyncio.sleep(0.1)

    async def idle(self) -> None:
        """All of them, a few at a time, and then they stay."""
        from aiohttp import ClientSession, TCPConnector

        turns = asyncio.Semaphore(AT_ONCE)
        async with ClientSession(connector=TCPConnector(limit=0)) as session:

            async def one(number: int) -> None:
                ready = asyncio.Event()
                async with turns:
                    task = group.create_task(self.connect(number, session, ready))
                    waiting = asyncio.create_task(ready.wait())
                    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()

            async with asyncio.TaskGroup() as group:
                group.create_task(self.tick())
                group.create_task(self.tell())
                for number in range(self.count):
                    group.create_task(one(number))

    async def nodes(self) -> None:
        """Dialers, as the node program has one."""
        target = gateway_url(self.url)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.tell())
            for number in range(self.count):
                hello = Hello(name=f"n{number}", instance="swarm")
                own = Own(self.contexts[number // self.per_context])
                Dialer(target, own, hello, serve=serve, observer=Watch(self)).start()
                await asyncio.sleep(0.01)


class Own:
    """A dialer's credentials."""

    def __init__(self, made: ssl.SSLContext) -> None:
        self._made = made

    def headers(self) -> dict[str, str]:
        return {}

    async def context(self) -> ssl.SSLContext:
        return self._made


class Watch:
    """Counts for the swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    def tried(self, _seconds: float) -> None:
        return

    def connected(self, _link: Link) -> None:
        self._swarm.up += 1

    def failed(self, _attempts: int, _last: object, _reason: str) -> None:
        self._swarm.failed += 1

    def broken(self, _farewell: object, *, silent: bool) -> None:  # noqa: ARG002 - as it is called
        self._swarm.up -= 1

    def beat(self, _rtt_s: float) -> None:
        return


def context(folder: Path, pem: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    made.load_cert_chain(pem)
    return made


def main() -> None:
    what, url, folder, count = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sslproto.SSLProtocol.max_size = _READ_BYTES  # type: ignore[attr-defined]  # this process has the other ends of all
    swarm = Swarm(url, folder, count)
    asyncio.run(swarm.idle() if what == "idle" else swarm.nodes())


if __name__ == "__main__":
    main()
