"""Two machines and the cable between them: network namespaces, in which a cut leaves both ends without a word."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway_core.testing.requirements import absent, require_program

SERVER, NODE = "10.77.0.1", "10.77.0.2"
"""Addresses of the two machines."""

_HOLD = "{ip} link set lo up && echo ready && exec cat"


class Machine:
    """A network of its own; ``prefix`` is the command that runs another one in it."""

    def __init__(self, holder: asyncio.subprocess.Process, ip: str) -> None:
        self.prefix = ("nsenter", "-t", str(holder.pid), "-U", "--preserve-credentials", "-n", "--")
        self.pid = holder.pid
        self._ip = ip

    async def ip(self, *arguments: str) -> None:
        """Run ``ip`` there; raises RuntimeError with what it says."""
        process = await asyncio.create_subprocess_exec(
            *self.prefix, self._ip, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {said.decode()}")

    async def unplug(self) -> None:
        """Packets are lost from now on, and nobody is told."""
        await self.ip("link", "set", "cable", "down")

    async def plug(self) -> None:
        """The cable is in again."""
        await self.ip("link", "set", "cable", "up")


@asynccontextmanager
async def two_machines() -> AsyncIterator[tuple[Machine, Machine]]:
    """The server's machine and the node's; the test is skipped where namespaces cannot be had."""
    ip = require_program("ip")
    unshare, nsenter = require_program("unshare"), require_program("nsenter")
    async with _holder(unshare, "-rn", ip=ip) as first:
        server = Machine(first, ip)
        inside = (nsenter, *server.prefix[1:])
        async with _holder(*inside, unshare, "-n", ip=ip) as second:
            node = Machine(second, ip)
            await server.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(node.pid))
            for machine, address in ((server, SERVER), (node, NODE)):
                await machine.ip("addr", "add", f"{address}/24", "dev", "cable")
                await machine.plug()
            yield server, node


@asynccontextmanager
async def _holder(*command: str, ip: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a new namespace, which is gone with it; and it with the test's, whose pipe it reads."""
    holder = await asyncio.create_subprocess_exec(
        *command, "sh", "-c", _HOLD.format(ip=ip), stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        said = await holder.stdout.readline()
        if said != b"ready\n":
            absent("netns", f"no network namespaces here: {said.decode().strip()}")
        yield holder
    finally:
        holder.stdin.close()
        await holder.wait()
