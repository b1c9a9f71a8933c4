"""Load on a node whose link is cut, frozen and killed, and what must hold of it in the end."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout

NODE = "node1"
DEADLINE_S = 8.0
_LATE_S = 4.0
_KIB = 1024


@dataclass
class Campaign:
    """Durable calls one after another, and small and larger calls with a deadline, until ``stop`` is set.

    ``accepted`` are the durable calls by number, ``late`` and ``wrong`` the callers whose answer came too late or was
    not theirs; ``answered`` and ``failed`` count the others.
    """

    session: ClientSession
    secret: str
    runs: Path
    seed: int = 0
    node: str = NODE
    accepted: dict[int, str] = field(default_factory=dict)
    answered: int = 0
    failed: int = 0
    late: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": self.secret}

    async def run(self, *, durable: int | None, callers: int, pause_s: float) -> None:
        """``durable`` durable calls with pauses, None until ``stop``, and ``callers`` others at once."""
        others = [asyncio.create_task(self._call_forever(number)) for number in range(callers)]
        try:
            for number in count() if durable is None else range(durable):
                if durable is None and self.stop.is_set():
                    break
                await self.accept(number)
                await asyncio.sleep(pause_s)
        finally:
            await self.stop.wait()
            await asyncio.gather(*others)

    async def accept(self, number: int) -> None:
        """Hand one in, with a key, until it is accepted: a 202 that is lost on the way must not make a second one."""
        headers = {
            **self.headers,
            "Prefer": "respond-async",
            "Idempotency-Key": f"{self.node}-{number}",
            "X-Pipe-TTL": "600",
        }
        while True:
            try:
                async with self.session.post(f"/client/{self.node}/run//{number}", headers=headers) as answer:
                    if answer.status == 202:
                        self.accepted[number] = answer.headers["Location"]
                        return
                    if answer.status < 500:
                        raise AssertionError(f"{answer.status}: {await answer.text()}")
            except ClientError:
                pass
            await asyncio.sleep(0.05)

    async def _call_forever(self, seed: int) -> None:
        chance = random.Random(self.seed * 1000 + seed)
        while not self.stop.is_set():
            size = chance.choice((10, 1000, 200 * _KIB))
            data = chance.randbytes(size)
            clock = asyncio.get_running_loop().time()
            outcome = await self._call(data)
            took_s = asyncio.get_running_loop().time() - clock
            if took_s > DEADLINE_S + _LATE_S:
                self.late.append(f"{outcome} after {took_s:.1f} s")
            if outcome != "200":
                await asyncio.sleep(0.05)

    async def _call(self, data: bytes) -> str:
        headers = {
            **self.headers,
            "Content-Type": "application/octet-stream",
            "X-Request-Timeout": str(DEADLINE_S),
            "X-Pipe-Status": "strict",
        }
        try:
            async with self.session.post(
                f"/client/{self.node}/echo", data=data, headers=headers, timeout=ClientTimeout(DEADLINE_S * 4)
            ) as answer:
                got = await answer.read()
                status = answer.status
        except (ClientError, TimeoutError) as error:
            self.failed += 1
            return type(error).__name__
        if status == 200 and got != data:
            self.wrong.append(f"{len(got)} of {len(data)} bytes")
        elif status == 200:
            self.answered += 1
        else:
            self.failed += 1
        return str(status)

    async def results(self, *, timeout_s: float) -> dict[int, dict[str, object]]:
        """What became of every accepted call; raises TimeoutError when one is not done in time."""
        found: dict[int, dict[str, object]] = {}
        async with asyncio.timeout(timeout_s):
            for number, location in self.accepted.items():
                told: dict[str, object] = {}
                while not told.get("done"):
                    async with self.session.get(location, params={"wait": "10"}, headers=self.headers) as answer:
                        told = await answer.json()
                found[number] = told
        return found

    def ran(self) -> list[int]:
        """The numbers that the handler wrote down, in order."""
        return [int(line) for line in self.runs.read_text().split()] if self.runs.exists() else []


async def node_secret(server, name: str = NODE) -> str:
    """The secret of a client that may connect as that node."""
    return await server.secret(f"pipe:connect:{name}")


async def wait_connected(session: ClientSession, secret: str, *, name: str = NODE, timeout_s: float = 30) -> None:
    """Until the node is there."""
    async with asyncio.timeout(timeout_s):
        while True:
            async with session.get("/pipe/nodes", headers={"Authorization": secret}) as answer:
                if any(node["name"] == name for node in json.loads(await answer.read())):
                    return
            await asyncio.sleep(0.05)
