"""``gateway serve`` with the blocks plugin, and what it says of itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientSession


def blocks_env(root: Path, **settings: object) -> dict[str, str]:
    """Environment of a gateway that serves ``root`` in blocks of 1 MiB; ``settings`` are of its section ``blocks``."""
    root.mkdir(exist_ok=True)
    section = {"root": root, "block_size": "1M", **settings}
    values = {f"GATEWAY_BLOCKS__{name.upper()}": str(value) for name, value in section.items()}
    return {"GATEWAY_PLUGINS": "blocks", **values}


async def asked(session: ClientSession, path: str, **params: int) -> dict[str, Any]:
    """What ``/rd/`` answers about a file that is there."""
    async with session.get(f"/rd{path}", params=params) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def all_known(session: ClientSession, path: str, *, timeout_s: float = 60) -> dict[str, Any]:
    """What it answers when every block is known; raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while (pending := first_pending(body := await asked(session, path))) is not None:
            await asked(session, path, after=pending - 1, wait=5)
    return body


def first_pending(body: Mapping[str, Any]) -> int | None:
    """The first block that is not known, None when all are."""
    return next((block[0] for block in body["blocks"] if block[3] == "pending"), None)


def known(body: Mapping[str, Any]) -> dict[int, str]:
    """SHA-1 by number, of the blocks that are known."""
    return {block[0]: block[3] for block in body["blocks"] if block[3] != "pending"}


async def hashed_bytes(session: ClientSession) -> int:
    """How much all processes of this gateway have hashed by block, those that died among them too."""
    async with session.get("/metrics") as answer:
        text = await answer.text()
    found = re.findall(r"^gateway_blocks_hashed_bytes_total (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, found)))


def read_bytes(pid: int) -> int:
    """Bytes that the process has read from files until now, cached or not (proc(5), io, rchar)."""
    text = Path(f"/proc/{pid}/io").read_text()
    return int(re.search(r"^rchar: (\d+)$", text, re.MULTILINE)[1])


def children(pid: int) -> list[int]:
    """The child processes of ``pid``."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
