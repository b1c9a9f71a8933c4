"""NATS request and reply through nats.py: ``respond`` answers, ``load`` asks and prints what it found as JSON.

Runs in an environment of its own, which has nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import nats


async def respond(url: str) -> None:
    connection = await nats.connect(url)

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(b'{"ok": true}')

    await connection.subscribe("tiny", cb=answer)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def load(url: str, parallel: int, seconds: float) -> None:
    connection = await nats.connect(url)
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        while (clock := time.perf_counter()) < end:
            await connection.request("tiny", b"", timeout=10)
            times.append(time.perf_counter() - clock)

    await asyncio.gather(*(ask() for _ in range(parallel)))
    times.sort()
    found = {"speed": len(times) / seconds, "p50_s": times[len(times) // 2], "p99_s": times[len(times) * 99 // 100]}
    print(json.dumps(found))
    await connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "respond":
        asyncio.run(respond(sys.argv[2]))
    else:
        asyncio.run(load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
